//! The files in gateway pods with the values of Secrets and ConfigMaps that specs refer to.

use std::path::{Path, PathBuf};

use super::field_rules::{object_name, secret_key};
use super::{CaBundleRef, SecretKeyRef, SecretRef};

/// Directory of the files in a gateway pod.
pub const SECRETS_DIR: &str = "/etc/vmcp/secrets";

/// Key of the certificate in a Secret of type `kubernetes.io/tls`.
const TLS_CERTIFICATE: &str = "tls.crt";
/// Key of the private key in a Secret of type `kubernetes.io/tls`.
const TLS_PRIVATE_KEY: &str = "tls.key";
/// Name of the file with trusted authorities.
const CA_BUNDLE: &str = "ca.crt";

/// An object with values by key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyedObject {
    /// The Secret of this name.
    Secret(String),
    /// The ConfigMap of this name.
    ConfigMap(String),
}

impl KeyedObject {
    /// The name of the object.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Secret(name) | Self::ConfigMap(name) => name,
        }
    }
}

/// What a file must contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileContent {
    /// The value of a header.
    HeaderValue,
    /// PEM certificates.
    Certificates,
    /// A PEM private key.
    PrivateKey,
}

/// A file with the value of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFile {
    /// The path below [`SECRETS_DIR`].
    pub path: String,
    /// The object with the value.
    pub object: KeyedObject,
    /// The key of the value.
    pub key: String,
    /// The field of the spec that refers to it, for example `spec.headers.Authorization.secretKeyRef`.
    pub field: String,
    /// What the file must contain.
    pub content: FileContent,
}

impl SecretFile {
    /// Checks the name and the key with the schema's rules, for objects that are older than the schema.
    ///
    /// # Errors
    /// The invalid field, what was found, and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        let at = |leaf: &'static str| move |problem| format!("{}.{leaf}: {problem}", self.field);
        object_name(self.object.name()).map_err(at("name"))?;
        secret_key(&self.key).map_err(at("key"))
    }
}

/// The path of the file `name` in a pod.
pub(super) fn mounted(directory: &str, name: &str) -> PathBuf {
    Path::new(SECRETS_DIR).join(directory).join(name)
}

/// The directory of the files of a backend.
pub(super) fn backend_directory(name: &str) -> String {
    format!("backends/{name}")
}

/// The name of the file with the value of a header. The prefix makes every name of a header a valid name of a file.
pub(super) fn header_file(header: &str) -> String {
    format!("header-{}", header.to_ascii_lowercase())
}

/// The file with the value of a header.
pub(super) fn header(directory: &str, header: &str, reference: &SecretKeyRef) -> SecretFile {
    SecretFile {
        path: format!("{directory}/{}", header_file(header)),
        object: KeyedObject::Secret(reference.name.clone()),
        key: reference.key.clone(),
        field: format!("spec.headers.{header}.secretKeyRef"),
        content: FileContent::HeaderValue,
    }
}

/// The paths of the files for TLS in a pod.
#[derive(Debug, Default)]
pub(super) struct TlsPaths {
    pub(super) ca_file: Option<PathBuf>,
    pub(super) cert_file: Option<PathBuf>,
    pub(super) key_file: Option<PathBuf>,
}

impl TlsPaths {
    pub(super) fn new(
        directory: &str,
        ca_bundle: Option<&CaBundleRef>,
        certificate: Option<&SecretRef>,
    ) -> Self {
        Self {
            ca_file: ca_bundle.map(|_| mounted(directory, CA_BUNDLE)),
            cert_file: certificate.map(|_| mounted(directory, TLS_CERTIFICATE)),
            key_file: certificate.map(|_| mounted(directory, TLS_PRIVATE_KEY)),
        }
    }
}

/// The file with trusted authorities. `field` refers to them.
pub(super) fn ca_bundle(directory: &str, reference: &CaBundleRef, field: &str) -> Option<SecretFile> {
    let (object, key, leaf) = match (&reference.config_map_key_ref, &reference.secret_key_ref) {
        (Some(map), _) => (
            KeyedObject::ConfigMap(map.name.clone()),
            &map.key,
            "configMapKeyRef",
        ),
        (None, Some(secret)) => (
            KeyedObject::Secret(secret.name.clone()),
            &secret.key,
            "secretKeyRef",
        ),
        (None, None) => return None,
    };
    Some(SecretFile {
        path: format!("{directory}/{CA_BUNDLE}"),
        object,
        key: key.clone(),
        field: format!("{field}.{leaf}"),
        content: FileContent::Certificates,
    })
}

/// The files with a certificate and its private key. `field` refers to them.
pub(super) fn certificate(directory: &str, reference: &SecretRef, field: &str) -> [SecretFile; 2] {
    let file = |key: &str, content| SecretFile {
        path: format!("{directory}/{key}"),
        object: KeyedObject::Secret(reference.name.clone()),
        key: key.to_owned(),
        field: field.to_owned(),
        content,
    };
    [
        file(TLS_CERTIFICATE, FileContent::Certificates),
        file(TLS_PRIVATE_KEY, FileContent::PrivateKey),
    ]
}
