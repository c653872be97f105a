//! Certificates in files, and how a server's is checked, whoever the server is: a backend or Redis.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};

/// The most that is read of a file.
const MAX_BYTES: usize = 1024 * 1024;

/// The certificates in the file `path`, in PEM; at least one.
///
/// # Errors
/// What is wrong with the file.
pub(crate) fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let text = std::fs::read(path).map_err(|error| format!("the file {shown} cannot be read: {error}"))?;
    parse(&text).map_err(|reason| format!("the file {shown} {reason}"))
}

/// The certificates in `text`, which is PEM; at least one.
///
/// # Errors
/// What is wrong with it, to be said behind the name of the file.
pub(crate) fn parse(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("is larger than {MAX_BYTES} bytes"));
    }
    let certificates = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| format!("has no certificate: {error}"))?;
    if certificates.is_empty() {
        return Err("has no certificate".to_owned());
    }
    Ok(certificates)
}

/// Which certificates of servers are trusted.
pub(crate) trait Trust: Debug + Send + Sync {
    /// Refuses a certificate that is not.
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<(), rustls::Error>;
}

/// Trusts what `T` trusts, and checks that the server has the key to it.
#[derive(Debug)]
pub(crate) struct Verifier<T> {
    pub(crate) trust: T,
    pub(crate) provider: Arc<CryptoProvider>,
}

impl<T: Trust> ServerCertVerifier for Verifier<T> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.trust
            .check(end_entity, intermediates, server_name, ocsp_response, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_without_certificates_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ca.crt");
        let reason = || read(&file).unwrap_err();
        assert!(reason().contains("ca.crt cannot be read"), "{}", reason());
        for (text, says) in [
            (String::new(), "ca.crt has no certificate"),
            ("nothing".to_owned(), "ca.crt has no certificate"),
            (
                "-----BEGIN CERTIFICATE-----\nx".to_owned(),
                "ca.crt has no certificate: ",
            ),
            ("x".repeat(MAX_BYTES + 1), "ca.crt is larger than 1048576 bytes"),
        ] {
            std::fs::write(&file, text).unwrap();
            assert!(reason().contains(says), "{}", reason());
        }
    }
}
