//! The controller: runs a reconcile when a watched object changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{FutureExt as _, StreamExt as _, future};
use kube::Client;
use kube::runtime::controller::{self, Action, applier};
use kube::runtime::reflector::ObjectRef;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::changed_namespaces::ChangedNamespaces;
use crate::desired::mcp_server::ServerImages;
use crate::error::Error;
use crate::event_recorder::EventRecorder;
use crate::group_status::GroupStatusWriter;
use crate::invalid_objects;
use crate::mcp_server_queue::{self, McpServerQueue};
use crate::metrics::Metrics;
use crate::pod_user::{PodUser, PodUsers};
use crate::policy::Policy;
use crate::reconcile::{Context, reconcile, reconcile_mcp_server};
use crate::status_client::StatusClient;
use crate::watch::{Scope, watch};
use crate::watch_health::{ScopeWatchHealth, WatchHealth};
use crate::workload::Workload;

/// Maximum number of virtual servers, and of servers, that are reconciled at once.
const MAX_CONCURRENT_RECONCILES: u16 = 16;
/// Changes within this time are handled by one reconcile.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// Configuration of the controller.
#[derive(Clone, Debug)]
pub struct ControllerOptions {
    /// The namespaces to watch, or the whole cluster.
    pub scopes: Vec<Scope>,
    /// The images that the operator brings: the gateway's for specs without one, and those of packages.
    pub images: ServerImages,
    /// The images and Secrets that specs may name.
    pub policy: Policy,
    /// The user id of gateway pods.
    pub pod_user: PodUser,
    /// The installation that this process belongs to: the namespace and the name of its Lease.
    pub installation: String,
    /// The name of this operator process, for Events.
    pub identity: String,
}

/// Reconciles all virtual servers until `stop` is cancelled, then finishes the reconciles that have begun.
pub async fn run(
    client: Client,
    options: ControllerOptions,
    metrics: Metrics,
    watch_health: WatchHealth,
    stop: CancellationToken,
) {
    let scopes = options.scopes.iter().map(|scope| {
        let health = watch_health.of_scope(scope, &metrics);
        run_scope(&client, scope, &options, &metrics, health, &stop)
    });
    future::join_all(scopes).await;
}

async fn run_scope(
    client: &Client,
    scope: &Scope,
    options: &ControllerOptions,
    metrics: &Metrics,
    watch_health: ScopeWatchHealth,
    stop: &CancellationToken,
) {
    let (invalid_sender, invalid_objects) = mpsc::channel(invalid_objects::QUEUE_CAPACITY);
    let changed = Arc::new(ChangedNamespaces::default());
    let mcp_server_queue = Arc::new(McpServerQueue::default());
    let (stores, queue) = watch(
        client,
        scope,
        watch_health,
        &invalid_sender,
        &changed,
        &mcp_server_queue,
    );
    drop(invalid_sender);
    let (servers, mcp_servers) = (stores.servers.clone(), stores.mcp_servers.clone());
    let groups = GroupStatusWriter {
        client: client.clone(),
        stores: stores.clone(),
        metrics: metrics.clone(),
    };
    let context = Arc::new(Context {
        client: client.clone(),
        stores,
        status_client: StatusClient::default(),
        images: options.images.clone(),
        policy: options.policy.clone(),
        pod_users: PodUsers::new(options.pod_user),
        installation: options.installation.clone(),
        server_states: Arc::default(),
        mcp_server_states: Arc::default(),
        backoff: Arc::default(),
        mcp_server_backoff: Arc::default(),
        metrics: metrics.clone(),
        recorder: EventRecorder::new(client.clone(), &options.identity),
    });
    let config = controller::Config::default()
        .concurrency(MAX_CONCURRENT_RECONCILES)
        .debounce(DEBOUNCE);
    let queue = queue.take_until(stop.clone().cancelled_owned());
    let of_context = context.clone();
    let reconciles = applier(
        |server, context| reconcile_measured(server, context, reconcile, |context| &context.backoff),
        |server, error, context| error_policy(&*server, error, &context.backoff),
        context.clone(),
        servers,
        queue,
        config.clone(),
    )
    .for_each(move |result| {
        if let Err(controller::Error::ObjectNotFound(gone)) = result {
            let server = ObjectRef::new(&gone.name).within(gone.namespace.as_deref().unwrap_or_default());
            of_context.server_states.remove(&server);
            of_context.backoff.clear(&server);
        }
        future::ready(())
    });
    let queue = mcp_server_queue::requests(mcp_server_queue).take_until(stop.clone().cancelled_owned());
    let of_context = context.clone();
    let mcp_server_reconciles = applier(
        |server, context| {
            reconcile_measured(server, context, reconcile_mcp_server, |context| {
                &context.mcp_server_backoff
            })
        },
        |server, error, context| error_policy(&*server, error, &context.mcp_server_backoff),
        context,
        mcp_servers,
        queue,
        config,
    )
    .for_each(move |result| {
        if let Err(controller::Error::ObjectNotFound(gone)) = result {
            let server = ObjectRef::new(&gone.name).within(gone.namespace.as_deref().unwrap_or_default());
            of_context.mcp_server_states.remove(&server);
            of_context.mcp_server_backoff.clear(&server);
        }
        future::ready(())
    });
    // The third future ends when the watches drop their senders, which happens when the first one ends.
    future::join4(
        reconciles,
        mcp_server_reconciles,
        invalid_objects::write_statuses(client, invalid_objects),
        groups.run(&changed, stop),
    )
    .await;
}

/// Runs a reconcile and records its duration and outcome.
fn reconcile_measured<W, F>(
    server: Arc<W>,
    context: Arc<Context>,
    reconcile: impl FnOnce(Arc<W>, Arc<Context>) -> F + Send + 'static,
    backoff: impl FnOnce(&Context) -> &Backoff<W> + Send + 'static,
) -> future::BoxFuture<'static, Result<Action, Error>>
where
    W: Workload + Send + Sync,
    F: Future<Output = Result<Action, Error>> + Send,
{
    async move {
        let begun = Instant::now();
        let key = ObjectRef::from_obj(&*server);
        let result = reconcile(server, context.clone()).await;
        context.metrics.record_reconcile(
            begun.elapsed(),
            result.as_ref().err().map_or("none", Error::reason),
        );
        if result.is_ok() {
            backoff(&context).clear(&key);
        }
        result
    }
    .boxed()
}

/// Logs a failed reconcile and schedules its retry.
fn error_policy<W: Workload>(server: &W, error: &Error, backoff: &Backoff<W>) -> Action {
    let key = ObjectRef::from_obj(server);
    let retry_in = backoff.record_failure(&key);
    // Conflicts with other writers are normal.
    if error.is_conflict() {
        tracing::debug!(server = %key, %error, ?retry_in, "conflict during reconcile");
    } else {
        tracing::warn!(server = %key, %error, ?retry_in, "reconcile failed");
    }
    Action::requeue(retry_in)
}
