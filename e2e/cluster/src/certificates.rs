//! The certificate authority of the cluster, and the certificates that it signs.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// The certificate authority of one cluster, with the folder of its certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    dir: PathBuf,
}

/// The identity of a client certificate.
pub(crate) struct Identity<'a> {
    /// Name of the certificate and key files, without extension.
    pub(crate) file: &'a str,
    /// The Kubernetes user.
    pub(crate) user: &'a str,
    /// The Kubernetes group.
    pub(crate) group: Option<&'a str>,
}

/// The identity of the cluster administrator.
pub(crate) const ADMIN: Identity<'_> = Identity {
    file: "admin",
    user: "admin",
    group: Some("system:masters"),
};

impl Authority {
    /// Creates an authority in `dir`, with `ca.crt` and the key pair that signs the tokens of service accounts.
    pub(crate) fn create(dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let mut params = named("cluster", None)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        fs::write(dir.join("ca.crt"), certificate.pem())?;
        let tokens = KeyPair::generate()?;
        write_secret(&dir.join("service-accounts.key"), &tokens.serialize_pem())?;
        fs::write(dir.join("service-accounts.pub"), tokens.public_key_pem())?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            dir: dir.to_owned(),
        })
    }

    /// Writes the certificate of the API server for `addresses` and its names in the cluster.
    pub(crate) fn api_server(&self, addresses: &[IpAddr]) -> anyhow::Result<()> {
        let mut params = named("kube-apiserver", None)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = addresses.iter().copied().map(SanType::IpAddress).collect();
        for name in [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
        ] {
            params.subject_alt_names.push(SanType::DnsName(name.try_into()?));
        }
        self.sign(&params, "kube-apiserver")
    }

    /// Writes a client certificate for `identity`.
    pub(crate) fn client(&self, identity: &Identity<'_>) -> anyhow::Result<()> {
        let mut params = named(identity.user, identity.group)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params, identity.file)
    }

    fn sign(&self, params: &CertificateParams, file: &str) -> anyhow::Result<()> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        fs::write(self.dir.join(format!("{file}.crt")), certificate.pem())?;
        write_secret(&self.dir.join(format!("{file}.key")), &key.serialize_pem())
    }
}

fn named(user: &str, group: Option<&str>) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, user);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    Ok(params)
}

fn write_secret(file: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut open| open.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", file.display()))
}
