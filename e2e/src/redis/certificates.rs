//! A certificate authority for tests.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

/// An authority, and what it has issued, as PEM files. They are removed when this value is dropped.
pub struct Certificates {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The file with the certificate.
    pub cert: PathBuf,
    /// The file with the key.
    pub key: PathBuf,
}

impl Certificates {
    /// A new authority.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new() -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // OpenSSL takes a certificate for self-signed that bears its issuer's name.
        params.distinguished_name.push(DnType::CommonName, "an authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let directory = TempDir::new()?;
        std::fs::write(directory.path().join("ca.pem"), issuer.pem())?;
        Ok(Self { issuer, directory })
    }

    /// The file with the authority's certificate.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Issues a certificate for `name`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn issue(&self, name: &str) -> anyhow::Result<Identity> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer)?;
        let file = |suffix: &str| self.directory.path().join(format!("{name}.{suffix}"));
        let identity = Identity {
            cert: file("pem"),
            key: file("key"),
        };
        std::fs::write(&identity.cert, certificate.pem())?;
        std::fs::write(&identity.key, key.serialize_pem())?;
        Ok(identity)
    }
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}
