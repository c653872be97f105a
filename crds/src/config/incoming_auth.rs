//! Who may call the gateway, and how it knows.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, is_default};

/// Who may call the gateway, and how it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IncomingAuth {
    /// `anonymous`: whoever can connect. `oidc`: whoever sends, with every request, a token (JWT) of the issuer that `oidc`
    /// names. A session then belongs to the token's subject: its id is useless to anybody else.
    #[schemars(extend("default" = "anonymous"))]
    #[serde(default, rename = "type", skip_serializing_if = "is_default")]
    pub kind: IncomingAuthType,
    /// Whose tokens are accepted. Required with `type: oidc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oidc: Option<OidcConfig>,
}

/// The ways to know who calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum IncomingAuthType {
    /// Whoever can connect.
    #[default]
    Anonymous,
    /// Whoever has a token.
    Oidc,
}

/// Whose tokens are accepted, and which. A token must have `iss`, `sub`, `aud` and `exp`; `nbf` is respected where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OidcConfig {
    /// The URL of the issuer, exactly as it stands in `iss`. Its discovery document must name the same.
    pub issuer: String,
    /// For whom a token must be made: its `aud` must hold this, or one of these.
    pub audience: Audience,
    /// The URL under which clients know the endpoint, for example `https://tools.example.com/mcp`. Clients find it in
    /// `/.well-known/oauth-protected-resource`. Without it, the first audience, which must then be a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Where the issuer's keys are (a JWK set). Without it, where its discovery document says, at
    /// `<issuer>/.well-known/openid-configuration`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// The scopes that clients are told to ask for. They are not checked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// The algorithms with which a token may be signed. All of them have public keys.
    #[schemars(extend("default" = default_algorithms()))]
    #[serde(default = "default_algorithms", skip_serializing_if = "is_default_algorithms")]
    pub algorithms: Vec<SigningAlgorithm>,
    /// How far the clocks of issuer and gateway may be apart, at most `5m`.
    #[schemars(extend("default" = default_leeway().to_string()))]
    #[serde(default = "default_leeway", skip_serializing_if = "is_default_leeway")]
    pub clock_leeway: Duration,
    /// How often the keys are fetched again; at least `1s`. A token with a key that is not known makes the gateway fetch them
    /// at once, at most every 10 seconds.
    #[schemars(extend("default" = default_key_refresh().to_string()))]
    #[serde(
        default = "default_key_refresh",
        skip_serializing_if = "is_default_key_refresh"
    )]
    pub key_refresh: Duration,
    /// A file with the certificate authorities (PEM) that the issuer's certificate may come from, in the place of the system's. A
    /// relative path starts at the directory of this file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle_path: Option<PathBuf>,
    /// Whether the issuer may be asked without TLS. Whoever is between it and the gateway can then make tokens.
    #[schemars(extend("default" = false))]
    #[serde(default, skip_serializing_if = "is_default")]
    pub insecure_allow_http: bool,
}

/// One text, or a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
pub enum Audience {
    /// One audience.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Audience {
    /// The audiences, in their order.
    #[must_use]
    pub fn all(&self) -> &[String] {
        match self {
            Self::One(audience) => std::slice::from_ref(audience),
            Self::Many(audiences) => audiences,
        }
    }
}

/// The algorithms with which a token may be signed (RFC 7518, RFC 8037).
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
