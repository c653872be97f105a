//! The certificate authorities that a backend is verified with, where the configuration names a file.
//!
//! The file is read for each new connection, so renewed certificates are trusted without a restart. When it becomes unreadable, the last
//! good content stays in use.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, RootCertStore};

use crate::backend::http_client::with_alpn;
use crate::certificates::{self, Trust, Verifier};

/// The file and its last good content.
#[derive(Debug)]
pub(super) struct CaFile {
    path: PathBuf,
    last: Mutex<Option<(Vec<u8>, Arc<ClientConfig>)>>,
}

impl CaFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            last: Mutex::default(),
        }
    }

    /// Returns the TLS configuration for the file's current content.
    ///
    /// # Errors
    /// When the file is unreadable or invalid.
    pub(super) async fn client_config(&self) -> Result<Arc<ClientConfig>, String> {
        let path = self.path.display();
        let read = tokio::fs::read(&self.path).await;
        let read = read.map_err(|error| format!("the file {path} cannot be read: {error}"));
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let made = read.and_then(|text| match &*last {
            Some((before, config)) if *before == text => Ok((text, Arc::clone(config))),
            _ => {
                let config = client_config(&text).map_err(|reason| format!("the file {path} {reason}"))?;
                Ok((text, Arc::new(config)))
            }
        });
        match (made, &*last) {
            (Ok((text, config)), _) => {
                *last = Some((text, Arc::clone(&config)));
                Ok(config)
            }
            (Err(reason), Some((_, before))) => {
                tracing::warn!(reason, "CA file unreadable; using its last good content");
                Ok(Arc::clone(before))
            }
            (Err(reason), None) => Err(reason),
        }
    }
}

fn client_config(text: &[u8]) -> Result<ClientConfig, String> {
    let listed = certificates::parse(text)?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(listed.iter().cloned());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let authorities = if roots.is_empty() {
        None
    } else {
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        Some(builder.build().map_err(|error| error.to_string())?)
    };
    let verifier = Arc::new(Verifier {
        trust: ListedCertificates { listed, authorities },
        provider: Arc::clone(&provider),
    });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(with_alpn(config))
}

/// Trusts the certificates in the file, and certificates signed by the authorities among them. A server that presents a listed
/// certificate itself is trusted regardless of name and date.
#[derive(Debug)]
struct ListedCertificates {
    listed: Vec<CertificateDer<'static>>,
    authorities: Option<Arc<WebPkiServerVerifier>>,
}

impl Trust for ListedCertificates {
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        match &self.authorities {
            _ if self.listed.contains(end_entity) => Ok(()),
            Some(authorities) => authorities
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
                .map(drop),
            None => Err(rustls::CertificateError::UnknownIssuer.into()),
        }
    }
}
