//! The controller: when to look at which virtual server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{FutureExt as _, StreamExt as _, future};
use kube::Client;
use kube::runtime::controller::{self, Action, applier};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use vmcp_crds::v1alpha1::VirtualMCPServer;

use crate::backoff::Backoff;
use crate::error::Error;
use crate::gateways::Gateways;
use crate::memory::Memories;
use crate::metrics::Metrics;
use crate::policy::Policy;
use crate::reconcile::{Context, reconcile};
use crate::unreadable;
use crate::watch::{Scope, watch};

/// How many virtual servers are looked at at once.
const CONCURRENCY: u16 = 16;
/// Changes that come together are one look.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// What the controller is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// What to watch.
    pub scopes: Vec<Scope>,
    /// The image of the gateway, when a spec names none.
    pub default_image: String,
    /// What specs may name.
    pub policy: Policy,
    /// The name of this operator's pod, for events.
    pub identity: String,
}

/// Keeps all virtual servers as their specs say, until `stop`; then finishes the looks that have begun.
pub async fn run(client: Client, options: Options, metrics: Metrics, stop: CancellationToken) {
    let scopes = options
        .scopes
        .iter()
        .map(|scope| one_scope(&client, scope, &options, &metrics, &stop));
    future::join_all(scopes).await;
}

async fn one_scope(
    client: &Client,
    scope: &Scope,
    options: &Options,
    metrics: &Metrics,
    stop: &CancellationToken,
) {
    let (found_unreadable, unreadable) = mpsc::channel(unreadable::MAX_WAITING);
    let (stores, queue) = watch(client, scope, &found_unreadable);
    drop(found_unreadable);
    let servers = stores.servers.clone();
    let reporter = Reporter {
        controller: "vmcp-operator".to_owned(),
        instance: Some(options.identity.clone()),
    };
    let context = Arc::new(Context {
        client: client.clone(),
        stores,
        gateways: Gateways::default(),
        default_image: options.default_image.clone(),
        policy: options.policy.clone(),
        memories: Arc::default(),
        backoff: Arc::default(),
        metrics: metrics.clone(),
        recorder: Recorder::new(client.clone(), reporter),
    });
    let (memories, backoff) = (context.memories.clone(), context.backoff.clone());
    let config = controller::Config::default()
        .concurrency(CONCURRENCY)
        .debounce(DEBOUNCE);
    let queue = queue.take_until(stop.clone().cancelled_owned());
    let on_error = |server: Arc<_>, error: &Error, context: Arc<_>| error_policy(&server, error, &context);
    let looks = applier(measured, on_error, context, servers, queue, config).for_each(|result| {
        if let Err(controller::Error::ObjectNotFound(gone)) = result {
            forget(
                &memories,
                &backoff,
                gone.namespace.as_deref().unwrap_or_default(),
                &gone.name,
            );
        }
        future::ready(())
    });
    // Ends with the watches, which end with the looks.
    future::join(looks, unreadable::report(client, unreadable)).await;
}

/// A look, with its time and outcome counted.
fn measured(
    server: Arc<VirtualMCPServer>,
    context: Arc<Context>,
) -> future::BoxFuture<'static, Result<Action, Error>> {
    async move {
        let begun = Instant::now();
        let key = ObjectRef::from_obj(&*server);
        let result = reconcile(server, context.clone()).await;
        context.metrics.looked(
            begun.elapsed(),
            result.as_ref().err().map_or("none", Error::reason),
        );
        if result.is_ok() {
            context.backoff.clear(&key);
        }
        result
    }
    .boxed()
}

fn error_policy(server: &VirtualMCPServer, error: &Error, context: &Context) -> Action {
    let key = ObjectRef::from_obj(server);
    let wait = context.backoff.failed(&key);
    // That somebody was faster is everyday business.
    if error.is_conflict() {
        tracing::debug!(server = %key, %error, ?wait, "looking again");
    } else {
        tracing::warn!(server = %key, %error, ?wait, "failed, trying again");
    }
    Action::requeue(wait)
}

fn forget(memories: &Memories, backoff: &Backoff, namespace: &str, name: &str) {
    let server = ObjectRef::new(name).within(namespace);
    memories.forget(&server);
    backoff.clear(&server);
}
