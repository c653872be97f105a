//! How a backend is talked to, validated.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use vmcp_crds::config::CatalogScope;

use super::Pattern;
use crate::certificates::CertificatePair;

/// How a backend is talked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// How long it may take.
    pub timeouts: Timeouts,
    /// The addresses of its host, in the place of those that a look-up of its name finds.
    pub addresses: Vec<IpAddr>,
    /// The files for TLS.
    pub tls: UpstreamTls,
    /// The largest answer in JSON, in bytes.
    pub max_answer_bytes: u64,
    /// What every request to it bears.
    pub headers: Vec<ConfiguredHeader>,
    /// What is passed on of a client's headers.
    pub pass_headers: Vec<HeaderName>,
    /// In whose session it is listed.
    pub catalog: CatalogScope,
    /// Whether requests of all clients go in one session.
    pub shares_session: bool,
}

/// The files for TLS with a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The trusted certificates, instead of those that the system trusts.
    pub ca_file: Option<PathBuf>,
    /// The certificate that the gateway shows.
    pub identity: Option<CertificatePair>,
}

/// A header that every request to a backend bears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfiguredHeader {
    /// Its name.
    pub name: HeaderName,
    /// What stands in front of the value.
    pub prefix: String,
    /// Where the value is.
    pub source: HeaderSource,
}

/// Where the value of a header is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderSource {
    /// In this environment variable.
    Env(String),
    /// In this file.
    File(PathBuf),
}

/// How long a backend may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// To make a connection.
    pub connect: Duration,
    /// Until the first byte of an answer, where that is less than the whole answer may take.
    pub first_byte: Option<Duration>,
    /// Between two pieces of an answer in JSON.
    pub idle: Duration,
    /// For a call as a whole.
    pub call: Duration,
    /// For calls of single tools, those that count more first.
    pub tools: Vec<(Pattern, Duration)>,
    /// Whether progress begins a call's time anew.
    pub extend_on_progress: bool,
}

impl Timeouts {
    /// How long a call of `tool` may last, or a call of anything else.
    #[must_use]
    pub fn of_call(&self, tool: Option<&str>) -> Duration {
        let own = tool.and_then(|tool| self.tools.iter().find(|(pattern, _)| pattern.matches(tool)));
        own.map_or(self.call, |(_, length)| *length)
    }

    /// The longest that any call may last, as long as no progress extends it.
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
