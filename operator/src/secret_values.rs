//! The values of Secrets and ConfigMaps that specs refer to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt as _};
use vmcp_crds::config::rules;
use vmcp_crds::v1alpha1::{FileContent, KeyedObject, SecretFile};

use crate::api_server::{ObjectApi, ObjectName};
use crate::desired::SecretProblem;
use crate::error::Error;
use crate::policy::Policy;
use crate::watch::ReflectorStores;

/// Maximum number of objects that are read at once for one virtual server.
const MAX_CONCURRENT_READS: usize = 8;

/// The objects that the specs of one virtual server refer to.
#[derive(Debug)]
pub struct SecretValues(BTreeMap<KeyedObject, Arc<ReadObject>>);

/// The objects that earlier reconciles have read, with their resource versions. It only saves requests.
#[derive(Debug, Default)]
pub struct ReadCache(BTreeMap<KeyedObject, (String, Arc<ReadObject>)>);

/// Reads Secrets and ConfigMaps of one namespace.
#[derive(Clone, Copy)]
pub struct SecretReader<'a> {
    /// Client for the API server.
    pub client: &'a Client,
    /// The namespace of the objects.
    pub namespace: &'a str,
    /// The Secrets that may be used.
    pub policy: &'a Policy,
    /// The metadata of all objects.
    pub stores: &'a ReflectorStores,
}

/// What was read.
pub(crate) enum ReadObject {
    Missing,
    /// The policy does not allow the Secret.
    NotAllowed(String),
    Values(BTreeMap<String, Vec<u8>>),
}

// The values are secret.
impl std::fmt::Debug for ReadObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Missing => "Missing",
            Self::NotAllowed(_) => "NotAllowed",
            Self::Values(_) => "Values",
        })
    }
}

impl SecretReader<'_> {
    /// Reads `objects`, except those in `cache` that have not changed since.
    ///
    /// # Errors
    /// When the API server rejects a request or does not answer.
    pub async fn read(
        &self,
        objects: BTreeSet<KeyedObject>,
        cache: &mut ReadCache,
    ) -> Result<SecretValues, Error> {
        cache.0.retain(|object, (read_version, _)| {
            objects.contains(object) && self.watched_version(object).as_ref() == Some(read_version)
        });
        let missing = objects.iter().filter(|object| !cache.0.contains_key(*object));
        let reads = missing.map(|object| async move {
            let (version, read) = self.read_object(object).await?;
            Ok::<_, Error>((object.clone(), (version, Arc::new(read))))
        });
        let reads: Vec<_> = reads.collect();
        let read: Vec<_> = stream::iter(reads)
            .buffer_unordered(MAX_CONCURRENT_READS)
            .try_collect()
            .await?;
        cache.0.extend(read);
        let values = cache.0.iter();
        let values = values.map(|(object, (_, read))| (object.clone(), Arc::clone(read)));
        Ok(SecretValues(values.collect()))
    }

    fn watched_version(&self, object: &KeyedObject) -> Option<String> {
        match object {
            KeyedObject::Secret(name) => {
                let reference = ObjectRef::new(name).within(self.namespace);
                self.stores.secrets.get(&reference)?.resource_version()
            }
            KeyedObject::ConfigMap(name) => {
                let reference = ObjectRef::new(name).within(self.namespace);
                self.stores.named_config_maps.get(&reference)?.resource_version()
            }
        }
    }

    /// Reads an object and its resource version, which is empty if the object does not exist.
    async fn read_object(&self, object: &KeyedObject) -> Result<(String, ReadObject), Error> {
        let name = ObjectName::parse(object.name())?;
        match object {
            KeyedObject::Secret(_) => {
                let secrets = ObjectApi::<Secret>::in_namespace(self.client, self.namespace)?;
                let Some(secret) = secrets.get(&name).await? else {
                    return Ok((String::new(), ReadObject::Missing));
                };
                let version = secret.resource_version().unwrap_or_default();
                if let Err(message) = self.policy.check_secret(&secret) {
                    return Ok((version, ReadObject::NotAllowed(message)));
                }
                let data = secret.data.unwrap_or_default().into_iter();
                let values = data.map(|(key, value)| (key, value.0));
                Ok((version, ReadObject::Values(values.collect())))
            }
            KeyedObject::ConfigMap(_) => {
                let config_maps = ObjectApi::<ConfigMap>::in_namespace(self.client, self.namespace)?;
                let Some(config_map) = config_maps.get(&name).await? else {
                    return Ok((String::new(), ReadObject::Missing));
                };
                let version = config_map.resource_version().unwrap_or_default();
                let text = config_map.data.unwrap_or_default().into_iter();
                let binary = config_map.binary_data.unwrap_or_default().into_iter();
                let values = text
                    .map(|(key, value)| (key, value.into_bytes()))
                    .chain(binary.map(|(key, value)| (key, value.0)));
                Ok((version, ReadObject::Values(values.collect())))
            }
        }
    }
}

impl SecretValues {
    /// The value of `key` in `object`. `field` is the field of the spec that refers to it.
    ///
    /// # Errors
    /// Why there is no value.
    pub fn value(&self, object: &KeyedObject, key: &str, field: &str) -> Result<&[u8], SecretProblem> {
        let (kind, name) = match object {
            KeyedObject::Secret(name) => ("Secret", name),
            KeyedObject::ConfigMap(name) => ("ConfigMap", name),
        };
        let problem = |of_secret, of_config_map, message| SecretProblem {
            reason: match object {
                KeyedObject::Secret(_) => of_secret,
                KeyedObject::ConfigMap(_) => of_config_map,
            },
            message,
        };
        match self.0.get(object).map(|read| &**read) {
            None | Some(ReadObject::Missing) => Err(problem(
                "SecretNotFound",
                "ConfigMapNotFound",
                format!("{field} names {kind} {name}, which does not exist in this namespace"),
            )),
            Some(ReadObject::NotAllowed(message)) => Err(problem(
                "SecretNotAllowed",
                "SecretNotAllowed",
                format!("{field}: {message}"),
            )),
            Some(ReadObject::Values(values)) => values.get(key).map(Vec::as_slice).ok_or_else(|| {
                problem(
                    "SecretKeyNotFound",
                    "ConfigMapKeyNotFound",
                    format!("{field} names key {key} of {kind} {name}, which has no such key"),
                )
            }),
        }
    }

    /// Checks the value of a file.
    ///
    /// # Errors
    /// Why it cannot be used. The message does not contain the value.
    pub fn check(&self, file: &SecretFile) -> Result<(), SecretProblem> {
        let value = self.value(&file.object, &file.key, &file.field)?;
        check_content(&file.content, value).map_err(|problem| invalid(file, problem))
    }

    /// The value that the kubelet mounts, if there is one.
    pub(crate) fn mounted(&self, file: &SecretFile) -> Option<&[u8]> {
        match &**self.0.get(&file.object)? {
            ReadObject::Values(values) => values.get(&file.key).map(Vec::as_slice),
            ReadObject::Missing | ReadObject::NotAllowed(_) => None,
        }
    }

    /// Whether the object exists and is allowed.
    pub(crate) fn is_usable(&self, object: &KeyedObject) -> bool {
        matches!(
            self.0.get(object).map(|read| &**read),
            Some(ReadObject::Values(_))
        )
    }
}

fn invalid(file: &SecretFile, problem: &str) -> SecretProblem {
    let kind = match file.object {
        KeyedObject::Secret(_) => "Secret",
        KeyedObject::ConfigMap(_) => "ConfigMap",
    };
    SecretProblem {
        reason: "SecretValueInvalid",
        message: format!(
            "{}: the value of key {} of {kind} {} {problem}",
            file.field,
            file.key,
            file.object.name()
        ),
    }
}

/// Says what is wrong with `value`, as a phrase that follows "the value".
fn check_content(content: &FileContent, value: &[u8]) -> Result<(), &'static str> {
    let text = std::str::from_utf8(value).map_err(|_| "is not valid UTF-8")?;
    match content {
        FileContent::HeaderValue { prefix } => rules::header_value(prefix, text).map(drop),
        // The gateway parses them, and reports in its status what is wrong inside.
        FileContent::Certificates if !text.contains("-----BEGIN CERTIFICATE-----") => {
            Err("has no certificate in PEM")
        }
        FileContent::PrivateKey if !text.contains("PRIVATE KEY-----") => Err("has no private key in PEM"),
        FileContent::Certificates | FileContent::PrivateKey => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(prefix: &str) -> FileContent {
        FileContent::HeaderValue {
            prefix: prefix.to_owned(),
        }
    }

    // A value that the gateway could not use is found, and the message does not repeat it.
    #[test]
    fn unusable_value_is_found_and_not_repeated() {
        let object = KeyedObject::Secret("token".to_owned());
        let file = |content| SecretFile {
            path: "p".to_owned(),
            object: object.clone(),
            key: "t".to_owned(),
            field: "spec.headers.X.secretKeyRef".to_owned(),
            content,
        };
        let problem = |content, value: &[u8]| {
            let values = BTreeMap::from([("t".to_owned(), value.to_vec())]);
            let values = SecretValues(BTreeMap::from([(
                object.clone(),
                Arc::new(ReadObject::Values(values)),
            )]));
            assert!(!format!("{values:?}").contains("s3cret"));
            values.check(&file(content)).err()
        };
        assert_eq!(problem(header("Bearer "), b"s3cret\n"), None);
        assert_eq!(
            problem(FileContent::Certificates, b"-----BEGIN CERTIFICATE-----"),
            None
        );
        assert_eq!(
            problem(FileContent::PrivateKey, b"-----BEGIN EC PRIVATE KEY-----"),
            None
        );
        for (content, value) in [
            (header(""), b"s3cret\nline".as_slice()),
            (header(""), b"s3cret\xff"),
            (header(""), b"s3cret\0"),
            (header(""), b"\n"),
            (FileContent::Certificates, b"s3cret"),
            (FileContent::PrivateKey, b"s3cret"),
        ] {
            let problem = problem(content, value).unwrap();
            assert_eq!(problem.reason, "SecretValueInvalid");
            let begin = "spec.headers.X.secretKeyRef: the value of key t of Secret token ";
            assert!(
                problem.message.starts_with(begin) && !problem.message.contains("s3cret"),
                "{}",
                problem.message
            );
        }
    }
}
