//! Who may call, validated.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use vmcp_crds::config::SigningAlgorithm;

/// Who may call.
#[derive(Debug)]
pub enum IncomingAuth {
    /// Whoever can connect.
    Anonymous,
    /// Whoever has a token of this issuer.
    Oidc(Box<OidcSettings>),
}

/// Whose tokens are accepted, and which.
#[derive(Debug)]
pub struct OidcSettings {
    /// The issuer, as it stands in `iss`.
    pub issuer: String,
    /// One of these stands in `aud`.
    pub audiences: Vec<String>,
    /// The URL under which clients know the endpoint: http or https, and nothing in it that a quoted string could not hold.
    pub resource: Uri,
    /// Where the keys are, if not where the issuer says.
    pub jwks_url: Option<Uri>,
    /// What clients are told to ask for.
    pub scopes: Vec<String>,
    /// The algorithms that are accepted; at least one.
    pub algorithms: Vec<SigningAlgorithm>,
    /// How far the clocks may be apart.
    pub clock_leeway: Duration,
    /// How often the keys are fetched.
    pub key_refresh: Duration,
    /// The authorities to trust in the place of the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Whether keys may come without TLS.
    pub allow_http: bool,
}
