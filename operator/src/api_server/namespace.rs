//! Reads the metadata of a namespace.

use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::api::{Api, ObjectMeta};

use super::ObjectName;
use crate::error::Error;

/// The metadata of the namespace `name`; `None` if it does not exist.
///
/// # Errors
/// When the API server rejects the request or does not answer.
pub async fn namespace_metadata(client: &Client, name: &str) -> Result<Option<ObjectMeta>, Error> {
    let name = ObjectName::parse(name)?;
    #[expect(
        clippy::disallowed_methods,
        reason = "the name was validated in the line above"
    )]
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let found = namespaces.get_metadata_opt(name.as_str()).await;
    found
        .map(|namespace| namespace.map(|namespace| namespace.metadata))
        .map_err(|error| Error::cluster_api::<Namespace>("read", name.as_str(), error))
}
