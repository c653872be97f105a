//! Authentication of clients: validated settings.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use vmcp_crds::config::SigningAlgorithm;

/// How clients are authenticated.
#[derive(Debug)]
pub enum IncomingAuth {
    /// All clients are accepted, without authentication.
    Anonymous,
    /// Clients need a bearer token of this issuer.
    Oidc(Box<OidcSettings>),
}

/// Which bearer tokens are accepted.
#[derive(Debug)]
pub struct OidcSettings {
    /// The required value of the claim `iss`.
    pub issuer: String,
    /// The claim `aud` must contain one of these.
    pub audiences: Vec<String>,
    /// The URL by which clients know the endpoint: http or https, without characters that need escaping in a quoted string.
    pub resource: Uri,
    /// The URL of the key set, if it is not the one in the issuer's metadata.
    pub jwks_url: Option<Uri>,
    /// The scopes that clients should request.
    pub scopes: Vec<String>,
    /// The accepted signing algorithms; at least one.
    pub algorithms: Vec<SigningAlgorithm>,
    /// Tolerated difference between the clocks of the issuer and the gateway.
    pub clock_leeway: Duration,
    /// Time between two fetches of the key set.
    pub key_refresh: Duration,
    /// Certificate authorities that are trusted instead of the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Whether the key set may be fetched without TLS.
    pub allow_http: bool,
}
