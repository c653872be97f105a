//! HTTP client for the issuer's metadata and keys.
//!
//! It is separate from the backends' client, because it may trust other certificate authorities. Connections
//! are not kept alive: there is one request every few minutes. Redirects are not followed: only the
//! configuration decides which hosts may supply keys.

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

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest response; key sets have a few KiB.
const MAX_RESPONSE_BYTES: usize = 256 * 1024;

/// Why a fetch failed. The message is for operators; its URL contains no secrets.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{0} is not https")]
    NotHttps(String),
    #[error("{url} cannot be reached: {reason}")]
    Unreachable { url: String, reason: String },
    #[error("{url} answered with HTTP status {status}")]
    Status { url: String, status: StatusCode },
    #[error("the answer of {0} is larger than {MAX_RESPONSE_BYTES} bytes")]
    TooLarge(String),
}

/// Why a file of certificate authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaBundleError {
    /// The file cannot be read, or contains an invalid certificate.
    #[error("cannot read the certificate authorities in {}: {reason}", file.display())]
    Unreadable {
        /// Path of the file.
        file: PathBuf,
        /// What is wrong with the file.
        reason: String,
    },
    /// The file contains no certificate.
    #[error("there is no certificate authority in {}", .0.display())]
    Empty(PathBuf),
}

#[derive(Debug)]
pub(super) struct IssuerClient {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    allow_http: bool,
}

impl IssuerClient {
    /// Creates a client that trusts the certificate authorities in `ca_bundle`, or those of the system if
    /// there is no bundle.
    pub(super) fn new(ca_bundle: Option<&Path>, allow_http: bool) -> Result<Self, CaBundleError> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let https = HttpsConnectorBuilder::new();
        let https = match ca_bundle {
            Some(file) => https.with_tls_config(tls_config(authorities(file)?)),
            None => match https.with_native_roots() {
                Ok(https) => https,
                Err(error) => {
                    tracing::warn!(%error, "no system certificate authorities found; token issuer unreachable");
                    let no_roots = rustls::RootCertStore::empty();
                    HttpsConnectorBuilder::new().with_tls_config(tls_config(no_roots))
                }
            },
        };
        let connector = https.https_or_http().enable_http1().wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .build(connector);
        Ok(Self { client, allow_http })
    }

    /// Fetches the JSON document at `url`.
    pub(super) async fn json(&self, url: &Uri) -> Result<Bytes, FetchError> {
        let redacted_url = || rules::without_secrets(&url.to_string());
        if url.scheme() != Some(&Scheme::HTTPS) && !self.allow_http {
            return Err(FetchError::NotHttps(redacted_url()));
        }
        let unreachable = |error: &dyn std::error::Error| FetchError::Unreachable {
            url: redacted_url(),
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
                url: redacted_url(),
                status: response.status(),
            });
        }
        match Limited::new(response.into_body(), MAX_RESPONSE_BYTES)
            .collect()
            .await
        {
            Ok(whole) => Ok(whole.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLarge(redacted_url())),
            Err(error) => Err(unreachable(&*error)),
        }
    }
}

/// Reads the PEM certificate authorities in `file`.
///
/// # Errors
///
/// If the file cannot be read, contains an invalid certificate, or contains none.
pub fn authorities(file: &Path) -> Result<rustls::RootCertStore, CaBundleError> {
    let unreadable = |reason: String| CaBundleError::Unreadable {
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
        return Err(CaBundleError::Empty(file.to_owned()));
    }
    Ok(roots)
}

fn tls_config(roots: rustls::RootCertStore) -> rustls::ClientConfig {
    rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// The innermost error of a chain. The outer errors add no information.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
