//! The servers to reconcile, as the watches have found them.

use std::convert::Infallible;
use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};
use kube::runtime::controller::ReconcileRequest;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt as _};
use vmcp_crds::v1alpha1::MCPServer;

use crate::changed_namespaces::ChangedKeys;
use crate::desired::labels;

/// Namespace and name of the servers to reconcile. One that changes several times before it is taken is in it once.
pub type McpServerQueue = ChangedKeys<(String, String)>;

/// Adds the server that `object` is, or to which it belongs.
pub fn enqueue<K: Resource<DynamicType = ()>>(queue: &McpServerQueue, object: &K) {
    let is_server = K::kind(&()) == MCPServer::kind(&()) && K::group(&()) == MCPServer::group(&());
    let name = if is_server {
        Some(object.name_any())
    } else {
        let of_server = object.labels().get(labels::NAME).map(String::as_str) == Some(labels::MCP_SERVER);
        let name = object.labels().get(labels::INSTANCE).cloned();
        name.filter(|_| of_server)
    };
    if let Some(name) = name {
        queue.add((object.namespace().unwrap_or_default(), name));
    }
}

/// The servers in `queue`, as they come.
pub fn requests(
    queue: Arc<McpServerQueue>,
) -> BoxStream<'static, Result<ReconcileRequest<MCPServer>, Infallible>> {
    let batches = stream::unfold(queue, |queue| async {
        let keys = queue.take().await;
        Some((stream::iter(keys), queue))
    });
    batches
        .flatten()
        .map(|(namespace, name)| Ok(ReconcileRequest::from(ObjectRef::new(&name).within(&namespace))))
        .boxed()
}
