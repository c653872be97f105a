//! The values of Secrets and ConfigMaps that specs refer to: read, looked at, and dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt as _};
use tokio::sync::Semaphore;
use vmcp_crds::v1alpha1::{KeyedObject, SecretFile};

use crate::api_server::{ObjectApi, ObjectName};
use crate::desired::SecretProblem;
use crate::error::Error;
use crate::policy::Policy;
use crate::value_facts::{ValueDigest, ValueFacts};
use crate::watch::ReflectorStores;

/// Maximum number of objects that are in memory at once, for all virtual servers. Each may have 1 MB, and a response needs a multiple of
/// that while it is parsed.
const MAX_CONCURRENT_READS: usize = 8;

/// The permits to read an object.
static READ_PERMITS: Semaphore = Semaphore::const_new(MAX_CONCURRENT_READS);

/// The keys of each object that specs refer to.
pub type ReferencedKeys = BTreeMap<KeyedObject, BTreeSet<String>>;

/// The objects that the specs of one virtual server refer to.
#[derive(Debug)]
pub struct SecretValues(BTreeMap<KeyedObject, Arc<ReadObject>>);

/// The objects that earlier reconciles have read. It only saves requests.
#[derive(Debug, Default)]
pub struct ReadCache(BTreeMap<KeyedObject, CachedRead>);

#[derive(Debug)]
struct CachedRead {
    version: String,
    /// The keys that were looked at.
    keys: BTreeSet<String>,
    read: Arc<ReadObject>,
}

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
#[derive(Debug)]
enum ReadObject {
    Missing,
    /// The policy does not allow the Secret.
    NotAllowed(String),
    /// The values of the referenced keys that it has.
    Values(BTreeMap<String, ValueFacts>),
}

impl SecretReader<'_> {
    /// Looks at the referenced keys of objects, except where `cache` has them and the object has not changed since. The values are dropped.
    ///
    /// # Errors
    /// When the API server rejects a request or does not answer.
    pub async fn read(
        &self,
        references: &ReferencedKeys,
        cache: &mut ReadCache,
    ) -> Result<SecretValues, Error> {
        cache.0.retain(|object, cached| {
            references.get(object) == Some(&cached.keys)
                && self.watched_version(object).as_ref() == Some(&cached.version)
        });
        let missing = references
            .iter()
            .filter(|(object, _)| !cache.0.contains_key(*object));
        let reads = missing.map(|(object, keys)| async move {
            let (version, read) = self.read_object(object, keys).await?;
            let cached = CachedRead {
                version,
                keys: keys.clone(),
                read: Arc::new(read),
            };
            Ok::<_, Error>((object.clone(), cached))
        });
        let reads: Vec<_> = reads.collect();
        let read: Vec<_> = stream::iter(reads)
            .buffer_unordered(MAX_CONCURRENT_READS)
            .try_collect()
            .await?;
        cache.0.extend(read);
        let values = cache.0.iter();
        let values = values.map(|(object, cached)| (object.clone(), Arc::clone(&cached.read)));
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

    /// Looks at `keys` of an object. Also returns its resource version, which is empty if the object does not exist.
    async fn read_object(
        &self,
        object: &KeyedObject,
        keys: &BTreeSet<String>,
    ) -> Result<(String, ReadObject), Error> {
        // The semaphore is never closed.
        let _permit = READ_PERMITS.acquire().await.ok();
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
                let data = secret.data.unwrap_or_default();
                let values = data.iter().map(|(key, value)| (key, value.0.as_slice()));
                Ok((version, ReadObject::of(values, keys)))
            }
            KeyedObject::ConfigMap(_) => {
                let config_maps = ObjectApi::<ConfigMap>::in_namespace(self.client, self.namespace)?;
                let Some(config_map) = config_maps.get(&name).await? else {
                    return Ok((String::new(), ReadObject::Missing));
                };
                let version = config_map.resource_version().unwrap_or_default();
                let text = config_map.data.unwrap_or_default();
                let text = text.iter().map(|(key, value)| (key, value.as_bytes()));
                let binary = config_map.binary_data.unwrap_or_default();
                let binary = binary.iter().map(|(key, value)| (key, value.0.as_slice()));
                Ok((version, ReadObject::of(text.chain(binary), keys)))
            }
        }
    }
}

impl ReadObject {
    /// Looks at those of `values` that have one of `keys`.
    fn of<'a>(values: impl Iterator<Item = (&'a String, &'a [u8])>, keys: &BTreeSet<String>) -> Self {
        let referenced = values.filter(|(key, _)| keys.contains(*key));
        let facts = referenced.map(|(key, value)| (key.clone(), ValueFacts::of(value)));
        Self::Values(facts.collect())
    }
}

impl SecretValues {
    /// What is known of the value of `key` in `object`. `field` is the field of the spec that refers to it.
    ///
    /// # Errors
    /// Why there is no value.
    pub(crate) fn facts(
        &self,
        object: &KeyedObject,
        key: &str,
        field: &str,
    ) -> Result<&ValueFacts, SecretProblem> {
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
            Some(ReadObject::Values(values)) => values.get(key).ok_or_else(|| {
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
        let facts = self.facts(&file.object, &file.key, &file.field)?;
        facts
            .check(file.content)
            .map_err(|problem| invalid(file, problem))
    }

    /// The digest of the value that the kubelet mounts, if there is one.
    pub(crate) fn mounted(&self, file: &SecretFile) -> Option<&ValueDigest> {
        match &**self.0.get(&file.object)? {
            ReadObject::Values(values) => values.get(&file.key).map(|facts| &facts.digest),
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

#[cfg(test)]
mod tests {
    use vmcp_crds::v1alpha1::FileContent;

    use super::*;

    /// What an object with the key `t` and this value is seen as.
    fn looked_at(object: &KeyedObject, value: &[u8], keys: &[&str]) -> SecretValues {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        let read = ReadObject::of(std::iter::once((&"t".to_owned(), value)), &keys);
        SecretValues(BTreeMap::from([(object.clone(), Arc::new(read))]))
    }

    // Nothing of a value stays in memory: facts own nothing, and only those of referenced keys are kept.
    #[test]
    fn facts_hold_no_value_and_only_of_referenced_keys() {
        fn owns_nothing<T: Copy>(_: T) {}
        let object = KeyedObject::Secret("token".to_owned());
        let facts = looked_at(&object, b"s3cret", &["t", "u"]);
        owns_nothing(*facts.facts(&object, "t", "field").unwrap());
        assert!(!format!("{facts:?}").contains("s3cret"));
        let other = looked_at(&object, b"s3cret", &["u"]);
        let ReadObject::Values(values) = &*other.0[&object] else {
            panic!("{other:?}")
        };
        assert!(values.is_empty());
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
        let problem = |content, value: &[u8]| looked_at(&object, value, &["t"]).check(&file(content)).err();
        assert_eq!(problem(FileContent::HeaderValue, b"s3cret\n"), None);
        assert_eq!(
            problem(FileContent::Certificates, b"-----BEGIN CERTIFICATE-----"),
            None
        );
        assert_eq!(
            problem(FileContent::PrivateKey, b"-----BEGIN EC PRIVATE KEY-----"),
            None
        );
        for (content, value) in [
            (FileContent::HeaderValue, b"s3cret\nline".as_slice()),
            (FileContent::HeaderValue, b"s3cret\xff"),
            (FileContent::HeaderValue, b"s3cret\0"),
            (FileContent::HeaderValue, b"\n"),
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
