//! The watches: what the operator knows of the cluster, and what makes it look again.

use std::convert::Infallible;
use std::fmt::Debug;

use futures::stream::{BoxStream, select_all};
use futures::{Stream, StreamExt as _, future};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount};
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
use vmcp_crds::v1alpha1::{MCPGroup, MCPServerEntry, VirtualMCPServer};

use crate::api_server::explain_watch;
use crate::desired::labels;
use crate::error::Error;
use crate::index;
use crate::unreadable::{Guarded, readable};

/// What the operator watches: the whole cluster, or one namespace of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All namespaces.
    Cluster,
    /// One namespace.
    Namespace(String),
}

/// What the operator knows of its scope.
#[derive(Clone, Debug)]
pub struct Stores {
    /// The virtual servers.
    pub servers: Store<VirtualMCPServer>,
    /// Their groups.
    pub groups: Store<MCPGroup>,
    /// The members of the groups.
    pub entries: Store<MCPServerEntry>,
    /// Our ConfigMaps.
    pub config_maps: Store<ConfigMap>,
    /// Our ServiceAccounts.
    pub service_accounts: Store<ServiceAccount>,
    /// Our Services.
    pub services: Store<Service>,
    /// Our Deployments.
    pub deployments: Store<Deployment>,
    /// Our PodDisruptionBudgets.
    pub disruption_budgets: Store<PodDisruptionBudget>,
    /// The ReplicaSets of our Deployments.
    pub replica_sets: Store<ReplicaSet>,
    /// The gateway pods.
    pub pods: Store<Pod>,
    /// All autoscalers.
    pub autoscalers: Store<HorizontalPodAutoscaler>,
    /// All Secrets, without what they hold.
    pub secrets: Store<PartialObjectMeta<Secret>>,
}

/// What makes the operator look at a virtual server.
pub type Queue = BoxStream<'static, Result<ReconcileRequest<VirtualMCPServer>, Infallible>>;

/// Begins to watch `scope`. The stores fill while the queue is polled. Virtual servers that cannot be read go to `unreadable`.
#[must_use]
pub fn watch(client: &Client, scope: &Scope, unreadable: &mpsc::Sender<InvalidObject>) -> (Stores, Queue) {
    let watches = Watches { client, scope };

    let (servers, server_events) = watches.ours::<VirtualMCPServer>(unreadable);
    let (groups, group_events) = watches.ours(unreadable);
    let (entries, entry_events) = watches.ours::<MCPServerEntry>(unreadable);
    let (config_maps, config_map_events) = watches.children::<ConfigMap>();
    let (service_accounts, service_account_events) = watches.children::<ServiceAccount>();
    let (services, service_events) = watches.children::<Service>();
    let (deployments, deployment_events) = watches.children::<Deployment>();
    let (disruption_budgets, disruption_budget_events) = watches.children::<PodDisruptionBudget>();
    let (replica_sets, replica_set_events) = watches.descendants::<ReplicaSet>();
    let (pods, pod_events) = watches.descendants::<Pod>();
    let (autoscalers, autoscaler_events) = watches.others();
    let (secrets, secret_events) = watches.names::<PartialObjectMeta<Secret>>();

    let known = || servers.clone();
    let (by_group, by_member, by_autoscaler, by_secret) = (known(), known(), known(), known());
    let queue = select_all([
        triggers(server_events, |server| vec![ObjectRef::from_obj(server)]),
        triggers(group_events, move |group| index::by_group(&by_group, group)),
        triggers(entry_events, move |entry| index::by_member(&by_member, entry)),
        triggers(config_map_events, index::by_label),
        triggers(service_account_events, index::by_label),
        triggers(service_events, index::by_label),
        triggers(deployment_events, index::by_label),
        triggers(disruption_budget_events, index::by_label),
        triggers(replica_set_events, index::by_label),
        triggers(pod_events, index::by_label),
        triggers(autoscaler_events, move |scaler| {
            index::by_autoscaler(&by_autoscaler, scaler)
        }),
        triggers(secret_events, move |secret| index::by_secret(&by_secret, secret)),
    ]);
    let stores = Stores {
        servers,
        groups,
        entries,
        config_maps,
        service_accounts,
        services,
        deployments,
        disruption_budgets,
        replica_sets,
        pods,
        autoscalers,
        secrets,
    };
    (stores, queue.boxed())
}

impl Stores {
    /// Waits until every watch has had its first full list: what is missing before that may only be late.
    ///
    /// # Errors
    /// When a watch ended before.
    pub async fn ready(&self) -> Result<(), Error> {
        let Self {
            servers,
            groups,
            entries,
            config_maps,
            service_accounts,
            services,
            deployments,
            disruption_budgets,
            replica_sets,
            pods,
            autoscalers,
            secrets,
        } = self;
        let all = async {
            servers.wait_until_ready().await?;
            groups.wait_until_ready().await?;
            entries.wait_until_ready().await?;
            config_maps.wait_until_ready().await?;
            service_accounts.wait_until_ready().await?;
            services.wait_until_ready().await?;
            deployments.wait_until_ready().await?;
            disruption_budgets.wait_until_ready().await?;
            replica_sets.wait_until_ready().await?;
            pods.wait_until_ready().await?;
            autoscalers.wait_until_ready().await?;
            secrets.wait_until_ready().await
        };
        all.await.map_err(|_| Error::Ending)
    }
}

/// What a kind has to be for a watch.
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

struct Watches<'a> {
    client: &'a Client,
    scope: &'a Scope,
}

impl Watches<'_> {
    /// What we made and apply again: with the record of who owns which field.
    fn children<K: Watchable>(&self) -> (Store<K>, BoxStream<'static, K>) {
        self.reflect(watcher::Config::default().labels(labels::OURS), |_| {})
    }

    /// What others make of what we made: without that record, which is most of such an object.
    fn descendants<K: Watchable>(&self) -> (Store<K>, BoxStream<'static, K>) {
        self.reflect(watcher::Config::default().labels(labels::OURS), forget_owners)
    }

    /// What others make.
    fn others<K: Watchable>(&self) -> (Store<K>, BoxStream<'static, K>) {
        self.reflect(watcher::Config::default(), forget_owners)
    }

    /// What only has to be noticed.
    fn names<K: Watchable>(&self) -> (Store<K>, BoxStream<'static, K>) {
        self.reflect(watcher::Config::default(), |object| {
            let metadata = object.meta_mut();
            metadata.managed_fields = None;
            metadata.annotations = None;
            metadata.labels = None;
        })
    }

    /// Our own kinds, each object read by itself: one that is older than its schema must not hide the others.
    fn ours<K: Watchable + Guarded>(
        &self,
        unreadable: &mpsc::Sender<InvalidObject>,
    ) -> (Store<K>, BoxStream<'static, K>) {
        let (store, writer) = reflector::store();
        let unreadable = unreadable.clone();
        let events = watcher(self.api::<DeserializeGuard<K>>(), watcher::Config::default())
            .default_backoff()
            .filter_map(move |event| {
                future::ready(match event {
                    Ok(event) => readable(event, &unreadable).map(Ok),
                    Err(error) => Some(Err(error)),
                })
            })
            .modify(forget_owners)
            .reflect(writer)
            .touched_objects()
            .filter_map(|event| future::ready(heard(event)));
        (store, events.boxed())
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a namespace is a name, or the client refuses the request"
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
            .default_backoff()
            .reflect(writer)
            .touched_objects()
            .filter_map(|event| future::ready(heard(event)));
        (store, events.boxed())
    }
}

fn forget_owners<K: Watchable>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

/// A watch that breaks is begun again after a pause; what it missed comes with the new list.
fn heard<K: Resource<DynamicType = ()>>(event: Result<K, watcher::Error>) -> Option<K> {
    event
        .inspect_err(|error| {
            let error = explain_watch(error);
            tracing::warn!(kind = %K::kind(&()), error, "a watch broke");
        })
        .ok()
}

fn triggers<K: Resource<DynamicType = ()> + Send + 'static>(
    events: impl Stream<Item = K> + Send + 'static,
    servers: impl Fn(&K) -> Vec<ObjectRef<VirtualMCPServer>> + Send + 'static,
) -> Queue {
    events
        .flat_map(move |object| {
            tracing::trace!(kind = %K::kind(&()), name = object.name_any(), "changed");
            futures::stream::iter(servers(&object))
        })
        .map(|server| Ok(ReconcileRequest::from(server)))
        .boxed()
}
