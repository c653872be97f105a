//! `spec.sessionStorage` of a virtual server.

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::secret_file::{self, TlsPaths};
use super::{CaBundleRef, SecretFile, SecretKeyRef, SecretRef};
use crate::config::{RedisTls, SessionStorage, cel};

/// Where sessions are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.username) || has(self.passwordRef)")
        .message("passwordRef is required with username: a Redis user needs a password")
        .field_path(".passwordRef"),
    validation = Rule::new("self.provider != 'memory' || !has(self.passwordRef)")
        .message("has no effect with `provider: memory`; set `provider: redis` or remove it")
        .field_path(".passwordRef")
)]
#[cfg_attr(test, x_kube(cel))]
pub struct SessionStorageSpec {
    /// The fields of the gateway's own configuration, except those that name files.
    #[serde(flatten)]
    #[schemars(schema_with = "without_files")]
    pub settings: SessionStorage,
    /// The Secret key with the password of the Redis server. The gateway pods get it as an environment variable. When the password
    /// changes, the operator replaces the pods; no session is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_ref: Option<SecretKeyRef>,
    /// Enables TLS for connections to Redis and to the sentinels. `tls: {}` trusts the certificate authorities of the gateway's image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<RedisTlsSpec>,
}

/// TLS for connections to Redis. A changed certificate is used for new connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisTlsSpec {
    /// The fields of the gateway's own configuration, except those that name files.
    #[serde(flatten)]
    #[schemars(schema_with = "without_tls_files")]
    pub settings: RedisTls,
    /// PEM certificates of trusted authorities, instead of those that the gateway's image trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle_ref: Option<CaBundleRef>,
    /// Secret of type `kubernetes.io/tls` with the gateway's client certificate and its private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_ref: Option<SecretRef>,
}

/// The directory of the files for Redis.
const DIRECTORY: &str = "redis";

impl SessionStorageSpec {
    /// The gateway's configuration.
    #[must_use]
    pub fn to_config(&self) -> SessionStorage {
        SessionStorage {
            password_file: None,
            tls: self.tls.as_ref().map(RedisTlsSpec::to_config),
            ..self.settings.clone()
        }
    }

    /// The files that the gateway's configuration names.
    #[must_use]
    pub fn secret_files(&self) -> Vec<SecretFile> {
        let Some(tls) = &self.tls else { return Vec::new() };
        let bundle = tls.ca_bundle_ref.as_ref().and_then(|bundle| {
            secret_file::ca_bundle(DIRECTORY, bundle, "spec.sessionStorage.tls.caBundleRef")
        });
        let certificate = tls.client_certificate_ref.iter().flat_map(|certificate| {
            let field = "spec.sessionStorage.tls.clientCertificateRef";
            secret_file::certificate(DIRECTORY, certificate, field)
        });
        bundle.into_iter().chain(certificate).collect()
    }
}

impl RedisTlsSpec {
    fn to_config(&self) -> RedisTls {
        let paths = TlsPaths::new(
            DIRECTORY,
            self.ca_bundle_ref.as_ref(),
            self.client_certificate_ref.as_ref(),
        );
        RedisTls {
            ca_file: paths.ca_file,
            cert_file: paths.cert_file,
            key_file: paths.key_file,
            ..self.settings.clone()
        }
    }
}

fn without_tls_files(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = RedisTls::json_schema(generator);
    cel::remove_properties(&mut schema, &["caFile", "certFile", "keyFile"]);
    schema
}

fn without_files(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = SessionStorage::json_schema(generator);
    cel::remove_properties(&mut schema, &["passwordFile", "tls"]);
    // In a resource the choice is explicit.
    schema.insert("required".to_owned(), serde_json::json!(["provider"]));
    schema
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value as Json, json};

    #[expect(clippy::needless_pass_by_value, reason = "the calls read better")]
    fn refusal(storage: Json) -> Option<String> {
        SessionStorageSpec::validate_cel(&storage, None)
            .err()
            .map(|errors| format!("{errors:?}"))
    }

    #[test]
    fn redis_requires_a_server_and_memory_nothing() {
        for storage in [
            json!({"provider": "memory"}),
            json!({"provider": "memory", "ttl": "1h", "maxLifetime": "2h"}),
            json!({"provider": "redis", "address": "redis:6379"}),
            json!({"provider": "redis", "address": "[fd00::1]:6379"}),
            json!({"provider": "redis", "sentinel": {"masterName": "m", "addresses": ["s:1"]}}),
            json!({"provider": "redis", "cluster": {"addresses": ["r:1"]}}),
        ] {
            assert_eq!(refusal(storage), None);
        }
        let message = refusal(json!({"provider": "redis"})).unwrap();
        assert!(message.contains("needs the server's host:port"), "{message}");
    }

    #[test]
    fn invalid_address_is_rejected_with_example() {
        for address in [
            "redis",
            "redis://redis:6379",
            "redis:",
            ":6379",
            "user:secret@redis:6379",
            "redis:99999",
            "redis:0",
        ] {
            let message = refusal(json!({"provider": "redis", "address": address})).unwrap();
            assert!(
                message.contains("for example redis.tools.svc:6379"),
                "{address}: {message}"
            );
        }
    }

    #[test]
    fn redis_fields_are_rejected_with_memory() {
        for (field, value) in [
            ("address", json!("redis:6379")),
            ("sentinel", json!({"masterName": "m", "addresses": ["s:1"]})),
            ("cluster", json!({"addresses": ["r:1"]})),
            ("db", json!(1)),
            ("keyPrefix", json!("acme:")),
            ("username", json!("me")),
            ("onStoreOutage", json!("refuse")),
            ("commandTimeout", json!("2s")),
            ("passwordRef", json!({"name": "a", "key": "b"})),
            ("tls", json!({})),
        ] {
            let message = refusal(json!({"provider": "memory", field: value})).unwrap();
            assert!(
                message.contains("no effect with `provider: memory`"),
                "{field}: {message}"
            );
        }
    }

    #[test]
    fn username_requires_password() {
        let mut storage = json!({"provider": "redis", "address": "r:1", "username": "me"});
        let message = refusal(storage.clone()).unwrap();
        assert!(
            message.contains("passwordRef is required with username"),
            "{message}"
        );
        storage["passwordRef"] = json!({"name": "a", "key": "b"});
        assert_eq!(refusal(storage), None);
    }

    #[test]
    fn key_prefix_with_braces_is_rejected() {
        for prefix in ["{acme}:", "acme}", "{acme"] {
            let message =
                refusal(json!({"provider": "redis", "address": "r:1", "keyPrefix": prefix})).unwrap();
            assert!(message.contains("braces are not allowed"), "{message}");
        }
        let plain = json!({"provider": "redis", "address": "r:1", "keyPrefix": "acme:"});
        assert_eq!(refusal(plain), None);
    }
}
