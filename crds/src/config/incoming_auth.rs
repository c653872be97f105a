//! Authentication of clients.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, is_default};

/// Authentication of clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IncomingAuth {
    /// `anonymous`: every client that can connect is allowed. `oidc`: every request needs a bearer token (JWT) of the issuer in `oidc`. A
    /// session then belongs to the subject of the token, and other subjects cannot use its id.
    #[schemars(extend("default" = "anonymous"))]
    #[serde(default, rename = "type", skip_serializing_if = "is_default")]
    pub kind: IncomingAuthType,
    /// The issuer and the required claims of tokens. Required with `type: oidc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oidc: Option<OidcConfig>,
}

/// Methods of authentication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum IncomingAuthType {
    /// No authentication.
    #[default]
    Anonymous,
    /// Bearer tokens of an OIDC issuer.
    Oidc,
}

/// Validation of bearer tokens. A token must have the claims `iss`, `sub`, `aud` and `exp`; `nbf` is checked if it is present.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OidcConfig {
    /// The URL of the issuer, exactly as in the claim `iss` and in its discovery document, for example `https://id.example.com`.
    pub issuer: String,
    /// The required audience: a text or a list. The claim `aud` must contain one of them.
    pub audience: Audience,
    /// The public URL of the MCP endpoint, for example `https://tools.example.com/mcp`. Clients read it from
    /// `/.well-known/oauth-protected-resource`. Default: the first audience, which must then be a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The URL of the issuer's keys (a JWK set). Default: the URL in its discovery document at
    /// `<issuer>/.well-known/openid-configuration`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// Scopes that clients should request. The gateway does not check them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Allowed signature algorithms of tokens. All of them use public keys.
    #[schemars(extend("default" = default_algorithms()))]
    #[serde(default = "default_algorithms", skip_serializing_if = "is_default_algorithms")]
    pub algorithms: Vec<SigningAlgorithm>,
    /// Maximum difference between the clocks of the issuer and the gateway, at most `5m`.
    #[schemars(extend("default" = default_leeway().to_string()))]
    #[serde(default = "default_leeway", skip_serializing_if = "is_default_leeway")]
    pub clock_leeway: Duration,
    /// Interval at which the keys are fetched again, at least `1s`. A token with an unknown key makes the gateway fetch them at once, but at
    /// most every 10 seconds.
    #[schemars(extend("default" = default_key_refresh().to_string()))]
    #[serde(
        default = "default_key_refresh",
        skip_serializing_if = "is_default_key_refresh"
    )]
    pub key_refresh: Duration,
    /// PEM file with trusted certificate authorities for the issuer, instead of those that the system trusts. A relative path starts at
    /// the directory of this configuration file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle_path: Option<PathBuf>,
    /// Whether the issuer may have an `http` URL. Anyone on the network path to the issuer can then forge tokens.
    #[schemars(extend("default" = false))]
    #[serde(default, skip_serializing_if = "is_default")]
    pub insecure_allow_http: bool,
}

/// The accepted audiences: a text or a list of texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
pub enum Audience {
    /// A single audience.
    One(String),
    /// A list of audiences, one of which must match.
    Many(Vec<String>),
}

impl Audience {
    /// All audiences, in the order of the configuration.
    #[must_use]
    pub fn all(&self) -> &[String] {
        match self {
            Self::One(audience) => std::slice::from_ref(audience),
            Self::Many(audiences) => audiences,
        }
    }
}

/// Signature algorithms of tokens (RFC 7518, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SigningAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RS384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RS512,
    /// RSASSA-PSS with SHA-256.
    PS256,
    /// RSASSA-PSS with SHA-384.
    PS384,
    /// RSASSA-PSS with SHA-512.
    PS512,
    /// ECDSA with P-256 and SHA-256.
    ES256,
    /// ECDSA with P-384 and SHA-384.
    ES384,
    /// Ed25519.
    EdDSA,
}

fn default_algorithms() -> Vec<SigningAlgorithm> {
    use SigningAlgorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    vec![RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA]
}

fn default_leeway() -> Duration {
    Duration::from_secs(60)
}

fn default_key_refresh() -> Duration {
    Duration::from_secs(300)
}

fn is_default_algorithms(algorithms: &[SigningAlgorithm]) -> bool {
    algorithms == default_algorithms()
}

fn is_default_leeway(leeway: &Duration) -> bool {
    *leeway == default_leeway()
}

fn is_default_key_refresh(refresh: &Duration) -> bool {
    *refresh == default_key_refresh()
}
