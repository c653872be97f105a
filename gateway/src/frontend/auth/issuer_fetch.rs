//! HTTP client for the issuer's metadata and keys.
//!
//! It is separate from the backends' client, because it may trust other certificate authorities. Connections
//! are not kept alive: there is one request every few minutes, and each reads the file of certificate
//! authorities again. Redirects are not followed: only the configuration decides which hosts may supply keys.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use vmcp_crds::config::rules;

use crate::certificates::LastGood;
use crate::config::file_watcher::FileWatcher;
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

#[derive(Debug)]
pub(super) struct IssuerClient {
    trusted: TrustedAuthorities,
    allow_http: bool,
}

/// The certificate authorities that may sign the issuer's certificate.
#[derive(Debug)]
enum TrustedAuthorities {
    System(Arc<ClientConfig>),
    Bundle(CaBundle),
}

/// A file of certificate authorities, which may change while the process runs.
#[derive(Debug)]
struct CaBundle {
    file: PathBuf,
    last: LastGood<Vec<u8>, ClientConfig>,
}

impl CaBundle {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// Why it cannot be used.
    fn load_first(file: &Path) -> Result<Self, String> {
        let last = LastGood::new("the token issuer");
        last.update(read(file), |text| client_config(file, text))?;
        Ok(Self {
            file: file.to_owned(),
            last,
        })
    }

    async fn client_config(&self) -> Result<Arc<ClientConfig>, String> {
        let file = self.file.clone();
        let make = |text: &Vec<u8>| client_config(&self.file, text);
        self.last.load(move || read(&file), make).await
    }
}

impl IssuerClient {
    /// Creates a client that trusts the certificate authorities in `ca_bundle`, or those of the system if
    /// there is no bundle.
    ///
    /// # Errors
    /// Why the bundle cannot be used.
    pub(super) fn new(ca_bundle: Option<&Path>, allow_http: bool) -> Result<Self, String> {
        let trusted = match ca_bundle {
            Some(file) => TrustedAuthorities::Bundle(CaBundle::load_first(file)?),
            None => TrustedAuthorities::System(Arc::new(system_config())),
        };
        Ok(Self { trusted, allow_http })
    }

    /// A watcher of the file of certificate authorities, if there is one.
    pub(super) fn watch_ca_bundle(&self) -> Option<FileWatcher> {
        self.ca_bundle().map(|bundle| FileWatcher::new(&bundle.file))
    }

    /// Waits until the file of certificate authorities has other good content. Without a file, it never has.
    pub(super) async fn ca_bundle_changed(&self, watcher: &mut Option<FileWatcher>) {
        let (Some(bundle), Some(watcher)) = (self.ca_bundle(), watcher) else {
            return std::future::pending().await;
        };
        let before = bundle.last.version();
        while bundle.last.version() == before {
            watcher.changed().await;
            // An unusable file is logged, and part of the status.
            drop(bundle.client_config().await);
        }
    }

    /// Why the content of the file of certificate authorities is not in use, if it is not.
    pub(super) fn ca_bundle_problem(&self) -> Option<String> {
        let problem = self.ca_bundle()?.last.problem()?;
        Some(format!("{problem}; its last good content stays in use"))
    }

    fn ca_bundle(&self) -> Option<&CaBundle> {
        match &self.trusted {
            TrustedAuthorities::System(_) => None,
            TrustedAuthorities::Bundle(bundle) => Some(bundle),
        }
    }

    async fn client(&self) -> Result<Client<HttpsConnector<HttpConnector>, Empty<Bytes>>, String> {
        let tls = match &self.trusted {
            TrustedAuthorities::System(config) => Arc::clone(config),
            TrustedAuthorities::Bundle(bundle) => bundle.client_config().await?,
        };
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .build(HttpsConnector::from((http, tls)));
        Ok(client)
    }

    /// Fetches the JSON document at `url`.
    pub(super) async fn json(&self, url: &Uri) -> Result<Bytes, FetchError> {
        let redacted_url = || rules::without_secrets(&url.to_string());
        if url.scheme() != Some(&Scheme::HTTPS) && !self.allow_http {
            return Err(FetchError::NotHttps(redacted_url()));
        }
        let no_answer = |reason: String| FetchError::Unreachable {
            url: redacted_url(),
            reason,
        };
        let unreachable = |error: &dyn std::error::Error| no_answer(root_cause(error));
        let request = Request::get(url)
            .header(header::ACCEPT, media::JSON)
            .body(Empty::new())
            .map_err(|error| unreachable(&error))?;
        let client = self.client().await.map_err(no_answer)?;
        let response = client.request(request).await;
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
pub fn authorities(file: &Path) -> Result<RootCertStore, String> {
    parse(file, &read(file)?)
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| unusable(file, &error))
}

fn parse(file: &Path, text: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(text) {
        let certificate = certificate.map_err(|error| unusable(file, &error))?;
        roots.add(certificate).map_err(|error| unusable(file, &error))?;
    }
    if roots.is_empty() {
        return Err(format!("there is no certificate authority in {}", file.display()));
    }
    Ok(roots)
}

fn unusable(file: &Path, error: &dyn std::error::Error) -> String {
    format!(
        "cannot read the certificate authorities in {}: {error}",
        file.display()
    )
}

fn client_config(file: &Path, text: &[u8]) -> Result<ClientConfig, String> {
    Ok(tls_config(parse(file, text)?))
}

fn system_config() -> ClientConfig {
    match ClientConfig::builder().with_native_roots() {
        Ok(builder) => builder.with_no_client_auth(),
        Err(error) => {
            tracing::warn!(%error, "no system certificate authorities found; token issuer unreachable");
            tls_config(RootCertStore::empty())
        }
    }
}

fn tls_config(roots: RootCertStore) -> ClientConfig {
    ClientConfig::builder()
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
