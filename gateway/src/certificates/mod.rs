//! Reads certificate files, and verifies the certificates of TLS servers: backends and Redis.

mod last_good;

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};

pub(crate) use last_good::LastGood;

/// Largest certificate file in bytes.
const MAX_BYTES: usize = 1024 * 1024;

/// Reads the certificates in the PEM file `path`; at least one.
///
/// # Errors
/// A message that names the file and what is wrong with it.
pub(crate) fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    parse(&read_text(path)?).map_err(|reason| format!("the file {} {reason}", path.display()))
}

/// The content of the file `path`.
///
/// # Errors
/// Why it cannot be read.
pub(crate) fn read_text(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("the file {} cannot be read: {error}", path.display()))
}

/// Parses the certificates in the PEM text `text`; at least one.
///
/// # Errors
/// What is wrong with it, as a phrase that follows the name of the file.
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

/// Files with a certificate and its private key, in PEM: those of a server, or those that the gateway shows to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificatePair {
    /// The file with the certificate, followed by those of the authorities between it and the root.
    pub cert_file: PathBuf,
    /// The file with the private key of the certificate.
    pub key_file: PathBuf,
}

/// The content of both files of a [`CertificatePair`].
#[derive(PartialEq, Eq)]
pub(crate) struct PairText {
    chain: Vec<u8>,
    key: Vec<u8>,
}

// The key is a secret.
impl Debug for PairText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PairText").finish_non_exhaustive()
    }
}

impl CertificatePair {
    /// Reads both files.
    ///
    /// # Errors
    /// Which file cannot be read, and why.
    pub(crate) fn read(&self) -> Result<PairText, String> {
        Ok(PairText {
            chain: read_text(&self.cert_file)?,
            key: read_text(&self.key_file)?,
        })
    }

    /// Parses what [`Self::read`] has read.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub(crate) fn parse(
        &self,
        text: &PairText,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
        let chain =
            parse(&text.chain).map_err(|reason| format!("the file {} {reason}", self.cert_file.display()))?;
        let key = PrivateKeyDer::from_pem_slice(&text.key)
            .map_err(|error| format!("the file {} has no private key: {error}", self.key_file.display()))?;
        Ok((chain, key))
    }

    /// Says that TLS cannot use the pair because of `error`.
    pub(crate) fn mismatch(&self, error: &rustls::Error) -> String {
        let (chain, key) = (self.cert_file.display(), self.key_file.display());
        format!("the key in {key} does not belong to the certificate in {chain}: {error}")
    }
}

/// What a TLS server has shown of itself, and when it is checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShownCertificate<'a> {
    /// The server's own certificate.
    pub(crate) end_entity: &'a CertificateDer<'a>,
    intermediates: &'a [CertificateDer<'a>],
    server_name: &'a ServerName<'a>,
    ocsp_response: &'a [u8],
    now: UnixTime,
}

impl ShownCertificate<'_> {
    /// Whether one of the `authorities` has signed the certificate, and it is valid for this server now.
    pub(crate) fn is_signed_by(&self, authorities: &WebPkiServerVerifier) -> Result<(), rustls::Error> {
        let verified = authorities.verify_server_cert(
            self.end_entity,
            self.intermediates,
            self.server_name,
            self.ocsp_response,
            self.now,
        );
        verified.map(drop)
    }
}

/// Decides which server certificates are trusted.
pub(crate) trait Trust: Debug + Send + Sync {
    /// Returns an error if the certificate is not trusted.
    fn check(&self, shown: &ShownCertificate<'_>) -> Result<(), rustls::Error>;
}

/// Verifies the certificate with `T`, and that the server has the private key.
#[derive(Debug)]
pub(crate) struct Verifier<T> {
    trust: T,
    algorithms: WebPkiSupportedAlgorithms,
}

impl<T: Trust> Verifier<T> {
    pub(crate) fn new(trust: T, provider: &CryptoProvider) -> Self {
        Self {
            trust,
            algorithms: provider.signature_verification_algorithms,
        }
    }
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
        let shown = ShownCertificate {
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        };
        self.trust.check(&shown).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
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
