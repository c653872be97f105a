//! What the issuer publishes, over HTTP.
//!
//! A pool of its own, because the certificate authorities may be others than the backends'. Connections are not kept: there is one
//! exchange in minutes. Redirects are not followed: who may give keys is in the configuration and nowhere else.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use vmcp_crds::config::rules;

use crate::mcp::header_names as media;

const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// Sets of keys are a few KiB.
const MAX_BYTES: usize = 256 * 1024;

/// Why nothing was fetched. The message is for the person who watches the gateway; the URL in it is without secrets.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{0} is not https")]
    NotHttps(String),
    #[error("{url} cannot be reached: {reason}")]
    Unreachable { url: String, reason: String },
    #[error("{url} answered with HTTP status {status}")]
    Status { url: String, status: StatusCode },
    #[error("the answer of {0} is larger than {MAX_BYTES} bytes")]
    TooLarge(String),
}

/// A file with certificate authorities that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UnusableCa {
    /// It cannot be read, or something in it is no certificate.
    #[error("cannot read the certificate authorities in {}: {reason}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// There is none in it.
    #[error("there is no certificate authority in {}", .0.display())]
    Empty(PathBuf),
}

#[derive(Debug)]
pub(super) struct IssuerClient {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    allow_http: bool,
}

impl IssuerClient {
    /// TLS trusts the authorities in `ca_bundle`, and without one those of the system.
    pub(super) fn new(ca_bundle: Option<&Path>, allow_http: bool) -> Result<Self, UnusableCa> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT_DEADLINE));
        let https = HttpsConnectorBuilder::new();
        let https = match ca_bundle {
            Some(file) => https.with_tls_config(trusting(authorities(file)?)),
            None => match https.with_native_roots() {
                Ok(https) => https,
                Err(error) => {
                    tracing::warn!(%error, "no certificate authorities found; the token issuer cannot be reached");
                    let nobody = rustls::RootCertStore::empty();
                    HttpsConnectorBuilder::new().with_tls_config(trusting(nobody))
                }
            },
        };
        let connector = https.https_or_http().enable_http1().wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .build(connector);
        Ok(Self { client, allow_http })
    }

    /// The JSON at `url`.
    pub(super) async fn json(&self, url: &Uri) -> Result<Bytes, FetchError> {
        let shown = || rules::without_secrets(&url.to_string());
        if url.scheme() != Some(&Scheme::HTTPS) && !self.allow_http {
            return Err(FetchError::NotHttps(shown()));
        }
        let unreachable = |error: &dyn std::error::Error| FetchError::Unreachable {
            url: shown(),
            reason: root_cause(error),
        };
        let request = Request::get(url)
            .header(header::ACCEPT, media::JSON)
            .body(Empty::new())
            .map_err(|error| unreachable(&error))?;
        let response = self.client.request(request).await;
        let response = response.map_err(|error| unreachable(&error))?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status {
                url: shown(),
                status: response.status(),
            });
        }
        match Limited::new(response.into_body(), MAX_BYTES).collect().await {
            Ok(whole) => Ok(whole.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLarge(shown())),
            Err(error) => Err(unreachable(&*error)),
        }
    }
}

/// The certificate authorities in `file`, in PEM.
///
/// # Errors
/// When it cannot be read, something in it is no certificate, or there is none in it.
pub fn authorities(file: &Path) -> Result<rustls::RootCertStore, UnusableCa> {
    let unreadable = |reason: String| UnusableCa::Unreadable {
        file: file.to_owned(),
        reason,
    };
    let mut roots = rustls::RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(file).map_err(|error| unreadable(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
        let added = roots.add(certificate);
        added.map_err(|error| unreadable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(UnusableCa::Empty(file.to_owned()));
    }
    Ok(roots)
}

fn trusting(roots: rustls::RootCertStore) -> rustls::ClientConfig {
    rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// The innermost error of a chain: the outer ones say only that there is an inner one.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
