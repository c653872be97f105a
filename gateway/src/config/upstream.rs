//! Connections and requests to a backend: validated settings.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderName;
use vmcp_crds::config::CatalogScope;

use super::Pattern;
use super::ValueSource;
use crate::certificates::CertificatePair;

/// How the gateway connects to a backend and sends requests to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// Time limits of its connections and responses.
    pub timeouts: Timeouts,
    /// Addresses to connect to. If there are none, the host name is resolved.
    pub addresses: Vec<IpAddr>,
    /// The certificate files for TLS.
    pub tls: UpstreamTls,
    /// Largest JSON response, in bytes.
    pub max_answer_bytes: u64,
    /// Headers that are added to every request.
    pub headers: Vec<ConfiguredHeader>,
    /// Client headers that are forwarded.
    pub pass_headers: Vec<HeaderName>,
    /// Whether its catalog is listed once for all clients or in each client's session.
    pub catalog: CatalogScope,
    /// Whether the requests of all clients use one upstream session.
    pub shares_session: bool,
}

impl UpstreamSettings {
    /// The files that the settings name.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let of_headers = self.headers.iter().filter_map(|header| match &header.source {
            ValueSource::File(file) => Some(file),
            ValueSource::Env(_) | ValueSource::Value(_) => None,
        });
        let pair = self.tls.identity.as_ref();
        let pair = pair.map(|pair| [&pair.cert_file, &pair.key_file]);
        let of_tls = self.tls.ca_file.iter().chain(pair.into_iter().flatten());
        of_headers.chain(of_tls).map(PathBuf::as_path)
    }
}

/// The certificate files for TLS with a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// Certificate authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The client certificate of the gateway.
    pub identity: Option<CertificatePair>,
}

/// A header that is added to every request to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfiguredHeader {
    /// Name of the header.
    pub name: HeaderName,
    /// Text before the value, for example `Bearer `.
    pub prefix: String,
    /// Source of the value.
    pub source: ValueSource,
}

/// Time limits of a backend's connections and responses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Limit for opening a connection.
    pub connect: Duration,
    /// Limit for the first byte of a response. `None` applies only the limit of the call.
    pub first_byte: Option<Duration>,
    /// Longest pause within a JSON response.
    pub idle: Duration,
    /// Limit of a whole call.
    pub call: Duration,
    /// Limits of individual tools. The first matching pattern applies.
    pub tools: Vec<(Pattern, Duration)>,
    /// Whether a progress notification restarts the limit of its call.
    pub extend_on_progress: bool,
}

impl Timeouts {
    /// The time limit of a call of `tool`, or of a call that is not a tool call.
    #[must_use]
    pub fn for_call(&self, tool: Option<&str>) -> Duration {
        let own = tool.and_then(|tool| self.tools.iter().find(|(pattern, _)| pattern.matches(tool)));
        own.map_or(self.call, |(_, length)| *length)
    }

    /// The longest time limit of any call. Progress may extend a call beyond it.
    #[must_use]
    pub fn longest_call(&self) -> Duration {
        let tools = self.tools.iter().map(|(_, length)| *length);
        tools.fold(self.call, Duration::max)
    }
}

impl Default for UpstreamSettings {
    fn default() -> Self {
        Self {
            timeouts: Timeouts::default(),
            addresses: Vec::new(),
            tls: UpstreamTls::default(),
            max_answer_bytes: vmcp_crds::config::BackendConfig::default().max_answer_bytes,
            headers: Vec::new(),
            pass_headers: Vec::new(),
            catalog: CatalogScope::default(),
            shares_session: false,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        let raw = vmcp_crds::config::Timeouts::default();
        Self {
            connect: raw.connect.get(),
            first_byte: raw.first_byte.map(vmcp_crds::config::Duration::get),
            idle: raw.idle.get(),
            call: raw.call.get(),
            tools: Vec::new(),
            extend_on_progress: raw.extend_on_progress,
        }
    }
}
