//! Requests for objects of one kind in one namespace.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ObjectName;
use crate::error::Error;

/// The bounds that [`ObjectApi`] needs of a kind: namespaced, with a type known at compile time.
pub trait NamespacedObject:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned
{
}
impl<K> NamespacedObject for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned
{
}

/// Typed requests for the objects of one kind in one namespace.
#[derive(Clone, Debug)]
pub struct ObjectApi<K> {
    api: Api<K>,
    namespace: String,
}

impl<K: NamespacedObject> ObjectApi<K> {
    /// Requests for the objects in `namespace`.
    ///
    /// # Errors
    /// When `namespace` is not a valid name.
    pub fn in_namespace(client: &Client, namespace: &str) -> Result<Self, Error> {
        ObjectName::parse(namespace)?;
        #[expect(
            clippy::disallowed_methods,
            reason = "the namespace was validated in the line above"
        )]
        let api = Api::namespaced(client.clone(), namespace);
        Ok(Self {
            api,
            namespace: namespace.to_owned(),
        })
    }

    /// Reads an object; `None` if it does not exist.
    ///
    /// # Errors
    /// When the API server rejects the request or does not answer.
    pub async fn get(&self, name: &ObjectName) -> Result<Option<K>, Error> {
        let found = self.api.get_opt(name.as_str()).await;
        found.map_err(|error| self.failed("read", name.as_str(), error))
    }

    /// Reads the metadata of an object; `None` if it does not exist.
    ///
    /// # Errors
    /// When the API server rejects the request or does not answer.
    pub async fn get_metadata(&self, name: &ObjectName) -> Result<Option<ObjectMeta>, Error> {
        let found = self.api.get_metadata_opt(name.as_str()).await;
        found
            .map(|object| object.map(|object| object.metadata))
            .map_err(|error| self.failed("read", name.as_str(), error))
    }

    /// Creates an object.
    ///
    /// # Errors
    /// When the API server rejects the request or does not answer, or an object of that name exists.
    pub async fn create(&self, object: &K) -> Result<K, Error>
    where
        K: Serialize,
    {
        let name = ObjectName::parse(&object.name_any())?;
        let created = self.api.create(&PostParams::default(), object).await;
        created.map_err(|error| self.failed("create", name.as_str(), error))
    }

    /// Replaces an object if its resource version is still that of `object`.
    ///
    /// # Errors
    /// When the API server rejects the request or does not answer, or the object has changed.
    pub async fn replace(&self, object: &K) -> Result<K, Error>
    where
        K: Serialize,
    {
        let name = ObjectName::parse(&object.name_any())?;
        let replaced = self
            .api
            .replace(name.as_str(), &PostParams::default(), object)
            .await;
        replaced.map_err(|error| self.failed("write", name.as_str(), error))
    }

    /// Applies `intent` as field manager `manager`. `action` is the verb for error messages, for example `annotate`.
    ///
    /// # Errors
    /// When the API server rejects the request or does not answer.
    pub async fn apply<P: Serialize + Debug>(
        &self,
        action: &'static str,
        name: &ObjectName,
        manager: &str,
        intent: &P,
    ) -> Result<K, Error> {
        let params = PatchParams::apply(manager).force();
        let applied = self
            .api
            .patch(name.as_str(), &params, &Patch::Apply(intent))
            .await;
        applied.map_err(|error| self.failed(action, name.as_str(), error))
    }

    /// Applies the status in `intent` as field manager `manager`.
    ///
    /// # Errors
    /// When the API server rejects the request or does not answer.
    pub async fn apply_status<P: Serialize + Debug>(
        &self,
        name: &ObjectName,
        manager: &str,
        intent: &P,
    ) -> Result<K, Error> {
        let params = PatchParams::apply(manager).force();
        let written = self
            .api
            .patch_status(name.as_str(), &params, &Patch::Apply(intent))
            .await;
        written.map_err(|error| self.failed("write the status of", name.as_str(), error))
    }

    /// Deletes `object`, but not another object of the same name: the uid is a precondition.
    ///
    /// # Errors
    /// When the API server rejects the request or does not answer.
    pub async fn delete(&self, object: &K) -> Result<(), Error> {
        let name = ObjectName::parse(&object.name_any())?;
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: object.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let deleted = self.api.delete(name.as_str(), &params).await;
        deleted
            .map(drop)
            .map_err(|error| self.failed("delete", name.as_str(), error))
    }

    fn failed(&self, action: &'static str, name: &str, error: kube::Error) -> Error {
        Error::api::<K>(action, &self.namespace, name, error)
    }
}
