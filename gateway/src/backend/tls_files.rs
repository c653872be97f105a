//! TLS with a backend whose configuration names files: trusted authorities, a client certificate, or both.
//!
//! The files are read for each new connection, so renewed certificates are used without a restart, and once per second while requests are
//! sent, so that no request uses a connection that was opened with other content. When one becomes unreadable, the last good content
//! stays in use.

use std::path::Path;
use std::sync::Arc;

use hyper_rustls::ConfigBuilderExt as _;
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};

use crate::backend::http_client::with_alpn;
use crate::certificates::{self, CertificatePair, LastGood, PairText, ShownCertificate, Trust, Verifier};
use crate::config::UpstreamTls;

/// The files and the configuration from their last good content.
#[derive(Debug)]
pub(super) struct TlsFiles {
    files: UpstreamTls,
    last: LastGood<Content, ClientConfig>,
}

/// The content of the files.
#[derive(Debug, PartialEq, Eq)]
struct Content {
    authorities: Option<Vec<u8>>,
    identity: Option<PairText>,
}

impl TlsFiles {
    /// `None` when `files` names none: the client's own configuration is then the right one.
    pub(super) fn new(files: &UpstreamTls) -> Option<Self> {
        (*files != UpstreamTls::default()).then(|| Self {
            files: files.clone(),
            last: LastGood::new("a backend"),
        })
    }

    /// Returns the number of changes of the content so far. A connection that was opened with an older one must not be used again.
    pub(super) async fn version(&self) -> u64 {
        if self.last.is_due() {
            // An unusable file is reported when a connection is opened.
            drop(self.client_config().await);
        }
        self.last.version()
    }

    /// Returns the TLS configuration for the current content of the files.
    ///
    /// # Errors
    /// When a file is unreadable or invalid, and has been from the beginning.
    pub(super) async fn client_config(&self) -> Result<Arc<ClientConfig>, String> {
        let files = self.files.clone();
        let make = |content: &Content| client_config(&self.files, content);
        self.last.load(move || read(&files), make).await
    }
}

fn read(files: &UpstreamTls) -> Result<Content, String> {
    let authorities = files.ca_file.as_deref().map(certificates::read_text);
    let identity = files.identity.as_ref().map(CertificatePair::read);
    Ok(Content {
        authorities: authorities.transpose()?,
        identity: identity.transpose()?,
    })
}

fn client_config(files: &UpstreamTls, content: &Content) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match (&files.ca_file, &content.authorities) {
        (Some(file), Some(text)) => builder
            .dangerous()
            .with_custom_certificate_verifier(verifier(file, text, &provider)?),
        _ => builder.with_native_roots().map_err(|error| {
            format!("the system has no trusted certificate authorities ({error}); set tls.caFile")
        })?,
    };
    let config = match (&files.identity, &content.identity) {
        (Some(pair), Some(text)) => {
            let (chain, key) = pair.parse(text)?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| pair.mismatch(&error))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(with_alpn(config))
}

fn verifier(
    file: &Path,
    text: &[u8],
    provider: &Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<Verifier<ListedCertificates>>, String> {
    let listed =
        certificates::parse(text).map_err(|reason| format!("the file {} {reason}", file.display()))?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(listed.iter().cloned());
    let authorities = if roots.is_empty() {
        None
    } else {
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        Some(builder.build().map_err(|error| error.to_string())?)
    };
    let trust = ListedCertificates { listed, authorities };
    Ok(Arc::new(Verifier::new(trust, provider)))
}

/// Trusts the certificates in the file, and certificates signed by the authorities among them. A server that presents a listed
/// certificate itself is trusted regardless of name and date.
#[derive(Debug)]
struct ListedCertificates {
    listed: Vec<CertificateDer<'static>>,
    authorities: Option<Arc<WebPkiServerVerifier>>,
}

impl Trust for ListedCertificates {
    fn check(&self, shown: &ShownCertificate<'_>) -> Result<(), rustls::Error> {
        match &self.authorities {
            _ if self.listed.contains(shown.end_entity) => Ok(()),
            Some(authorities) => shown.is_signed_by(authorities),
            None => Err(rustls::CertificateError::UnknownIssuer.into()),
        }
    }
}
