//! What a backend's spec refers to: the Secrets and ConfigMaps with the values of its headers, and of its TLS settings.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::secret_file::{self, TlsPaths};
use super::{CaBundleRef, SecretFile, SecretKeyRef, SecretRef};
use crate::config::{BackendTls, HeaderSource, cel};

/// The parts of a backend's spec with references.
#[derive(Clone, Debug)]
pub(super) struct BackendReferences<'a> {
    /// The directory of the backend's files.
    pub(super) directory: String,
    /// The headers of every request, by name.
    pub(super) headers: &'a BTreeMap<String, HeaderSpec>,
    /// TLS for connections to the server.
    pub(super) tls: Option<&'a BackendTlsSpec>,
}

impl BackendReferences<'_> {
    /// The files that the gateway's configuration of this backend names.
    pub(super) fn secret_files(&self) -> Vec<SecretFile> {
        let directory = &self.directory;
        let headers = self.headers.iter().filter_map(|(name, header)| {
            let reference = header.secret_key_ref.as_ref()?;
            Some(secret_file::header(directory, name, reference))
        });
        let tls = self.tls.iter().flat_map(|tls| {
            let bundle = tls.ca_bundle_ref.as_ref();
            let bundle =
                bundle.and_then(|bundle| secret_file::ca_bundle(directory, bundle, "spec.tls.caBundleRef"));
            let certificate = tls.client_certificate_ref.iter().flat_map(|certificate| {
                secret_file::certificate(directory, certificate, "spec.tls.clientCertificateRef")
            });
            bundle.into_iter().chain(certificate)
        });
        headers.chain(tls).collect()
    }

    /// Checks the references with the schema's rules, for objects that are older than the schema.
    ///
    /// # Errors
    /// The first invalid field, and why it is invalid.
    pub(super) fn check(&self) -> Result<(), String> {
        for (name, header) in self.headers {
            if header.source.value.is_some() == header.secret_key_ref.is_some() {
                return Err(format!(
                    "spec.headers.{name}: needs exactly one of `value` and `secretKeyRef`"
                ));
            }
        }
        if let Some(bundle) = self.tls.and_then(|tls| tls.ca_bundle_ref.as_ref()) {
            bundle.check("spec.tls.caBundleRef")?;
        }
        self.secret_files().iter().try_for_each(SecretFile::check)
    }

    /// The gateway's configuration of TLS.
    pub(super) fn tls(&self) -> Option<BackendTls> {
        self.tls.map(|tls| tls.to_config(&self.directory))
    }

    /// The gateway's configuration of the headers.
    pub(super) fn header_sources(&self) -> BTreeMap<String, HeaderSource> {
        let source = |(name, header): (&String, &HeaderSpec)| {
            let path = || secret_file::mounted(&self.directory, &secret_file::header_file(name));
            let source = HeaderSource {
                env: None,
                file: header.secret_key_ref.as_ref().map(|_| path()),
                value: header.source.value.clone(),
                prefix: header.source.prefix.clone(),
            };
            (name.clone(), source)
        };
        self.headers.iter().map(source).collect()
    }
}

/// The source of a header's value: the value itself, or a key of a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.value) != has(self.secretKeyRef)")
        .message("needs exactly one of `value` and `secretKeyRef`")
)]
#[cfg_attr(test, x_kube(cel))]
pub struct HeaderSpec {
    /// The fields of the gateway's own configuration, except those that name files and variables.
    #[serde(flatten)]
    #[schemars(schema_with = "without_env_and_file")]
    pub source: HeaderSource,
    /// The Secret key with the value; a line break at the end is ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
}

/// TLS for connections to a server. After a change of a value, new requests use new connections; requests that run finish on the old ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendTlsSpec {
    /// PEM certificates that are trusted, instead of those that the gateway's image trusts. A server is trusted if one of them has signed
    /// its certificate and the certificate contains the host name of the URL. A server is also trusted if its certificate is itself
    /// among them, for example a self-signed one: then name and dates are not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle_ref: Option<CaBundleRef>,
    /// Secret of type `kubernetes.io/tls` with the client certificate that the gateway shows to the server, and its private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_ref: Option<SecretRef>,
}

impl BackendTlsSpec {
    fn to_config(&self, directory: &str) -> BackendTls {
        let paths = TlsPaths::new(
            directory,
            self.ca_bundle_ref.as_ref(),
            self.client_certificate_ref.as_ref(),
        );
        BackendTls {
            ca_file: paths.ca_file,
            cert_file: paths.cert_file,
            key_file: paths.key_file,
        }
    }
}

fn without_env_and_file(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = HeaderSource::json_schema(generator);
    cel::remove_properties(&mut schema, &["env", "file"]);
    schema
}
