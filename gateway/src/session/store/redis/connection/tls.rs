//! TLS for connections to Redis.
//!
//! The files are read for every connection, so a renewed certificate is used without a restart.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::failure::certificate_refusal;
use crate::certificates::{self, ShownCertificate, Trust, Verifier};
use crate::config::RedisTls;
use crate::session::store::StoreError;

/// Performs the TLS handshake with `host` over `stream`.
///
/// # Errors
/// A file is unusable, or the server's certificate is not accepted.
pub(super) async fn encrypt(
    tls: &RedisTls,
    host: &str,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, StoreError> {
    let name = tls.server_name.as_deref().unwrap_or(host);
    let name = ServerName::try_from(name.to_owned())
        .map_err(|_| StoreError::unavailable(format!("{name:?} is no name that a certificate can bear")))?;
    let config = client_config(tls).map_err(StoreError::unavailable)?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    connecting.await.map_err(|error| {
        let failure = certificate_refusal(&error).unwrap_or_else(|| StoreError::unavailable(error));
        failure.context(format!("TLS with Redis at {host} failed"))
    })
}

/// Builds the TLS configuration from the files of `tls`.
///
/// # Errors
/// A file is unusable.
pub(super) fn client_config(tls: &RedisTls) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if tls.insecure_skip_verify {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier::new(AnyCertificate, &provider)))
    } else {
        builder.with_root_certificates(roots(tls.ca_file.as_deref())?)
    };
    let Some(identity) = &tls.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let (chain, key) = identity.parse(&identity.read()?)?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|error| identity.mismatch(&error))
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(file) => {
            for certificate in certificates::read(file)? {
                roots.add(certificate).map_err(|error| {
                    format!("a certificate in {} cannot be trusted: {error}", file.display())
                })?;
            }
        }
        None => {
            let native = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(native.certs);
            if roots.is_empty() {
                return Err(
                    "the system has no trusted certificate authorities; set sessionStorage.tls.caFile"
                        .to_owned(),
                );
            }
        }
    }
    Ok(roots)
}

/// Accepts every certificate, for `insecureSkipVerify`.
#[derive(Debug)]
struct AnyCertificate;

impl Trust for AnyCertificate {
    fn check(&self, _shown: &ShownCertificate<'_>) -> Result<(), rustls::Error> {
        Ok(())
    }
}
