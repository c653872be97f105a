//! The watches of one scope: their reflector stores, and the queue of virtual servers to reconcile.
//!
//! One table, `watch_table!`, lists every watched kind with the kind of its watch and its mapper.

use std::convert::Infallible;
use std::fmt::Debug;
use std::sync::Arc;

use futures::stream::{BoxStream, select_all};
use futures::{Stream, StreamExt as _, future};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::Api;
use kube::core::error_boundary::InvalidObject;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::controller::ReconcileRequest;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use vmcp_crds::v1alpha1::{MCPGroup, MCPServer, MCPServerEntry, VirtualMCPServer};

use crate::changed_namespaces::ChangedNamespaces;
use crate::desired::labels;
use crate::error::Error;
use crate::invalid_objects::{FromMetadata, skip_invalid};
use crate::kube_error::describe_watch_error;
use crate::mappers::{self, Referrers};
use crate::mcp_server_queue::{McpServerQueue, enqueue};
use crate::owned_fields;
use crate::watch_backoff::WatchBackoff;
use crate::watch_health::ScopeWatchHealth;
use crate::watched_fields::{Descendant, drop_bookkeeping, keep_name, keep_observed};

/// The part of the cluster that one set of watches covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All namespaces.
    Cluster,
    /// A single namespace.
    Namespace(String),
}

/// Stream of the virtual servers to reconcile.
pub type ReconcileQueue = BoxStream<'static, Result<ReconcileRequest<VirtualMCPServer>, Infallible>>;

/// Defines the stores and the watches. A row is `store: kind, method of WatchBuilder, mapper`.
macro_rules! watch_table {
    ($($(#[$doc:meta])* $store:ident: $kind:ty, $watch:ident, $mapper:expr;)*) => {
        /// The reflector stores of one scope: all watched objects.
        #[derive(Clone, Debug)]
        pub struct ReflectorStores {
            $($(#[$doc])* pub $store: Store<$kind>,)*
            /// Which of the watches are refused.
            pub health: ScopeWatchHealth,
        }

        impl ReflectorStores {
            /// Waits until every watch has received its first complete list, or is refused. Before that, an object that is not in its store
            /// may still exist.
            ///
            /// # Errors
            /// When a watch ended before.
            pub async fn ready(&self) -> Result<(), Error> {
                $(self.health.wait_until_known(&self.$store).await?;)*
                Ok(())
            }
        }

        /// Creates the watches of `scope`. The stores fill while the queue is polled. Virtual servers that cannot be deserialized
        /// go to `invalid_objects`, the namespaces of changed custom resources to `changed`, and the servers to reconcile to `mcp_servers`.
        #[must_use]
        pub fn watch(
            client: &Client,
            scope: &Scope,
            health: ScopeWatchHealth,
            invalid_objects: &mpsc::Sender<InvalidObject>,
            changed: &Arc<ChangedNamespaces>,
            mcp_servers: &Arc<McpServerQueue>,
        ) -> (ReflectorStores, ReconcileQueue) {
            let builder = WatchBuilder { client, scope, health: &health, invalid_objects, changed };
            $(let $store = builder.$watch::<$kind>();)*
            let stores = ReflectorStores { $($store: $store.0,)* health: health.clone() };
            let referrers = Referrers {
                servers: stores.servers.clone(),
                entries: stores.entries.clone(),
                mcp_servers: stores.mcp_servers.clone(),
            };
            let queue = select_all([$(triggers($store.1, referrers.clone(), mcp_servers.clone(), $mapper),)*]);
            (stores, queue.boxed())
        }
    };
}

watch_table! {
    /// The virtual servers.
    servers: VirtualMCPServer, custom_resources, mappers::to_self;
    /// The groups that virtual servers reference.
    groups: MCPGroup, custom_resources, mappers::by_group;
    /// The members of the groups.
    entries: MCPServerEntry, custom_resources, mappers::by_member;
    /// The servers that the operator runs, which are members of the groups, too.
    mcp_servers: MCPServer, custom_resources, mappers::by_member;
    /// ConfigMaps that the operator created.
    config_maps: ConfigMap, children, mappers::by_label;
    /// ServiceAccounts that the operator created.
    service_accounts: ServiceAccount, children, mappers::by_label;
    /// Services that the operator created.
    services: Service, children, mappers::by_label;
    /// Deployments that the operator created.
    deployments: Deployment, children, mappers::by_label;
    /// PodDisruptionBudgets that the operator created.
    disruption_budgets: PodDisruptionBudget, children, mappers::by_label;
    /// NetworkPolicies that the operator created.
    network_policies: NetworkPolicy, children, mappers::by_label;
    /// Autoscalers that the operator created.
    own_autoscalers: HorizontalPodAutoscaler, children, mappers::by_label;
    /// The ReplicaSets of these Deployments.
    replica_sets: ReplicaSet, descendants, mappers::by_label;
    /// The pods of these ReplicaSets.
    pods: Pod, descendants, mappers::by_label;
    /// All autoscalers.
    autoscalers: HorizontalPodAutoscaler, foreign_objects, mappers::by_autoscaler;
    /// The metadata of all Secrets, without their data.
    secrets: PartialObjectMeta<Secret>, names_only, mappers::by_secret;
    /// The metadata of all ConfigMaps, without their data.
    named_config_maps: PartialObjectMeta<ConfigMap>, names_only, mappers::by_config_map;
}

/// The bounds that a watch needs of a kind.
trait Watchable:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}
impl<K> Watchable for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// Creates the watches of one scope. Each method returns a store and the stream of changed objects.
struct WatchBuilder<'a> {
    client: &'a Client,
    scope: &'a Scope,
    health: &'a ScopeWatchHealth,
    invalid_objects: &'a mpsc::Sender<InvalidObject>,
    changed: &'a Arc<ChangedNamespaces>,
}

impl WatchBuilder<'_> {
    /// Objects that the operator applies. Keeps `managedFields`, which [`crate::apply`] needs.
    fn children<K: Watchable>(&self) -> (Store<K>, BoxStream<'static, K>) {
        self.reflect(
            watcher::Config::default().labels(labels::MANAGED_SELECTOR),
            owned_fields::compact,
        )
    }

    /// Objects that other controllers derive from ours.
    fn descendants<K: Watchable + Descendant>(&self) -> (Store<K>, BoxStream<'static, K>) {
        self.reflect(
            watcher::Config::default().labels(labels::MANAGED_SELECTOR),
            keep_observed,
        )
    }

    /// Objects that others create.
    fn foreign_objects<K: Watchable>(&self) -> (Store<K>, BoxStream<'static, K>) {
        self.reflect(watcher::Config::default(), drop_bookkeeping)
    }

    /// Objects of which only the name matters.
    fn names_only<K: Watchable>(&self) -> (Store<K>, BoxStream<'static, K>) {
        self.reflect(watcher::Config::default(), keep_name)
    }

    /// Our custom resources. Each object is deserialized separately, so that an invalid one does not hide the others.
    fn custom_resources<K: Watchable + FromMetadata>(&self) -> (Store<K>, BoxStream<'static, K>) {
        let (store, writer) = reflector::store();
        let invalid_objects = self.invalid_objects.clone();
        let changed = self.changed.clone();
        let events = watcher(self.api::<DeserializeGuard<K>>(), watcher::Config::default())
            .backoff(WatchBackoff::default())
            .filter_map(move |event| {
                future::ready(match event {
                    Ok(event) => skip_invalid(event, &invalid_objects).map(Ok),
                    Err(error) => Some(Err(error)),
                })
            })
            .modify(drop_bookkeeping)
            .inspect(self.recorder())
            .reflect(writer)
            .touched_objects()
            .filter_map(|event| future::ready(log_watch_error(event)))
            .inspect(move |object| changed.add(object.namespace().unwrap_or_default()));
        (store, events.boxed())
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the client rejects the request if the namespace is not a valid name"
    )]
    fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        match self.scope {
            Scope::Cluster => Api::all(self.client.clone()),
            Scope::Namespace(namespace) => Api::namespaced(self.client.clone(), namespace),
        }
    }

    fn reflect<K: Watchable>(
        &self,
        config: watcher::Config,
        shrink: fn(&mut K),
    ) -> (Store<K>, BoxStream<'static, K>) {
        let (store, writer) = reflector::store();
        let events = watcher(self.api::<K>(), config)
            .modify(shrink)
            .backoff(WatchBackoff::default())
            .inspect(self.recorder())
            .reflect(writer)
            .touched_objects()
            .filter_map(|event| future::ready(log_watch_error(event)));
        (store, events.boxed())
    }

    /// Records what a watch reports, before it reaches the store.
    fn recorder<K: Watchable>(&self) -> impl Fn(&Result<watcher::Event<K>, watcher::Error>) + Send + use<K> {
        let health = self.health.clone();
        move |event| health.record(event)
    }
}

/// Logs a failed watch and drops the error. The watcher restarts it with a backoff, and a new list brings what it missed.
fn log_watch_error<K: Resource<DynamicType = ()>>(event: Result<K, watcher::Error>) -> Option<K> {
    event
        .inspect_err(|error| {
            let error = describe_watch_error(error);
            tracing::warn!(kind = %K::kind(&()), error, "watch failed");
        })
        .ok()
}

/// Maps changed objects to the virtual servers to reconcile, and puts servers into their queue.
fn triggers<K: Resource<DynamicType = ()> + Send + 'static>(
    events: impl Stream<Item = K> + Send + 'static,
    referrers: Referrers,
    mcp_servers: Arc<McpServerQueue>,
    mapper: impl Fn(&Referrers, &K) -> Vec<ObjectRef<VirtualMCPServer>> + Send + 'static,
) -> ReconcileQueue {
    events
        .flat_map(move |object| {
            tracing::trace!(kind = %K::kind(&()), name = object.name_any(), "object changed");
            enqueue(&mcp_servers, &object);
            futures::stream::iter(mapper(&referrers, &object))
        })
        .map(|server| Ok(ReconcileRequest::from(server)))
        .boxed()
}
