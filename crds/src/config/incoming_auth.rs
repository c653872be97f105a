//! Authentication of clients.

use std::borrow::Cow;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::rules::{self, range};
use super::{Duration, cel, is_default};

/// Maximum number of characters of a URL in a custom resource.
const MAX_URL_CHARS: u32 = 2048;

/// Authentication of clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = method_rules()))]
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
#[schemars(extend("x-kubernetes-validations" = oidc_rules()))]
pub struct OidcConfig {
    /// The URL of the issuer, exactly as in the claim `iss` and in its discovery document, for example `https://id.example.com`.
    #[schemars(length(max = 2048))]
    pub issuer: String,
    /// The required audience: a text or a list. The claim `aud` must contain one of them.
    pub audience: Audience,
    /// The public URL of the MCP endpoint, for example `https://tools.example.com/mcp`. Clients read it from
    /// `/.well-known/oauth-protected-resource`. Default: the first audience, which must then be a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub resource: Option<String>,
    /// The URL of the issuer's keys (a JWK set). Default: the URL in its discovery document at
    /// `<issuer>/.well-known/openid-configuration`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub jwks_url: Option<String>,
    /// Scopes that clients should request. The gateway does not check them.
    #[schemars(length(max = 64), inner(length(max = 256)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Allowed signature algorithms of tokens. All of them use public keys.
    #[schemars(
        length(max = 16),
        extend("default" = default_algorithms()),
        extend("x-kubernetes-validations" = [cel::rule("size(self) > 0", rules::NO_ALGORITHM)])
    )]
    #[serde(default = "default_algorithms", skip_serializing_if = "is_default_algorithms")]
    pub algorithms: Vec<SigningAlgorithm>,
    /// Maximum difference between the clocks of the issuer and the gateway, at most `5m`.
    #[schemars(
        extend("default" = default_leeway().to_string()),
        extend("x-kubernetes-validations" = range::CLOCK_LEEWAY.cel())
    )]
    #[serde(default = "default_leeway", skip_serializing_if = "is_default_leeway")]
    pub clock_leeway: Duration,
    /// Interval at which the keys are fetched again, at least `1s`. A token with an unknown key makes the gateway fetch them at once, but at
    /// most every 10 seconds.
    #[schemars(
        extend("default" = default_key_refresh().to_string()),
        extend("x-kubernetes-validations" = range::KEY_REFRESH.cel())
    )]
    #[serde(
        default = "default_key_refresh",
        skip_serializing_if = "is_default_key_refresh"
    )]
    pub key_refresh: Duration,
    /// PEM file with trusted certificate authorities for the issuer, instead of those that the system trusts. A changed file is used
    /// without a restart. A relative path starts at the directory of this configuration file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle_path: Option<PathBuf>,
    /// Whether the issuer may have an `http` URL. Anyone on the network path to the issuer can then forge tokens.
    #[schemars(extend("default" = false))]
    #[serde(default, skip_serializing_if = "is_default")]
    pub insecure_allow_http: bool,
}

/// The accepted audiences: a text or a list of texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
pub enum Audience {
    /// A single audience.
    One(String),
    /// A list of audiences, one of which must match.
    Many(Vec<String>),
}

impl JsonSchema for Audience {
    fn schema_name() -> Cow<'static, str> {
        "Audience".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        // A custom resource's schema is inlined, and there a field has one type: the list.
        if generator.settings().inline_subschemas {
            return json_schema!({
                "type": "array",
                "items": {"type": "string", "maxLength": MAX_URL_CHARS},
                "maxItems": 64,
            });
        }
        json_schema!({
            "description": "The accepted audiences: a text or a list of texts.",
            "anyOf": [
                {"description": "A single audience.", "type": "string"},
                {
                    "description": "A list of audiences, one of which must match.",
                    "type": "array",
                    "items": {"type": "string"},
                },
            ],
        })
    }
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

fn method_rules() -> Json {
    json!([
        cel::rule_of_field(
            "oidc",
            "!has(self.type) || self.type != 'oidc' || has(self.oidc)",
            rules::OIDC_MISSING,
        ),
        cel::rule_of_field(
            "oidc",
            "!has(self.oidc) || (has(self.type) && self.type == 'oidc')",
            rules::OIDC_WITHOUT_EFFECT,
        ),
    ])
}

fn oidc_rules() -> Json {
    let secure = |field: &str| {
        format!(
            "self.{field}.startsWith('https://') || (has(self.insecureAllowHttp) && self.insecureAllowHttp)"
        )
    };
    let jwks_url = format!("!has(self.jwksUrl) || {}", cel::is_endpoint("self.jwksUrl"));
    let secure_jwks_url = format!("!has(self.jwksUrl) || {}", secure("jwksUrl"));
    let resource = format!("!has(self.resource) || ({})", cel::is_resource("self.resource"));
    let default_resource = format!(
        "has(self.resource) || size(self.audience) == 0 || ({})",
        cel::is_resource("self.audience[0]")
    );
    json!([
        cel::rule_of_field(
            "issuer",
            &cel::is_endpoint("self.issuer"),
            rules::ENDPOINT_EXPECTED
        ),
        cel::rule_of_field("issuer", "!self.issuer.contains('?')", rules::ISSUER_QUERY),
        cel::rule_of_field("issuer", &secure("issuer"), rules::HTTPS_EXPECTED),
        cel::rule_of_field("jwksUrl", &jwks_url, rules::ENDPOINT_EXPECTED),
        cel::rule_of_field("jwksUrl", &secure_jwks_url, rules::HTTPS_EXPECTED),
        cel::rule_of_field(
            "audience",
            "size(self.audience) > 0 && self.audience.all(audience, size(audience) > 0)",
            rules::NO_AUDIENCE,
        ),
        cel::rule_of_field("resource", &resource, rules::RESOURCE_EXPECTED),
        cel::rule_of_field("resource", &default_resource, rules::NO_RESOURCE),
        cel::rule_of_field(
            "scopes",
            "!has(self.scopes) || self.scopes.all(scope, scope.matches('^[!#-\\\\[\\\\]-~]+$'))",
            rules::SCOPE_EXPECTED,
        ),
    ])
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
