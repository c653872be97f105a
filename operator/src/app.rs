//! The process: the admin port, leader election, and the controller while this process leads.

use std::time::Duration;

use anyhow::{Context as _, bail};
use kube::Client;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::Admin;
use crate::api_server::WriteFence;
use crate::args::Args;
use crate::controller::{self, ControllerOptions};
use crate::identity;
use crate::lease::{Candidate, LeaseTiming};

/// Time for reconciles to finish at shutdown. Another operator waits for the Lease during that time; the writes of a reconcile that is cut short are
/// repeated by it.
const FINISH_TIMEOUT: Duration = Duration::from_millis(500);

/// Runs the operator until `stop` is cancelled. `fence` is that of `client`.
///
/// # Errors
/// When the admin port cannot be served, or the Lease is lost. The process then ends, so that nothing of it reconciles any longer.
pub async fn run(
    client: Client,
    fence: WriteFence,
    args: &Args,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let admin = Admin::default();
    let tasks = TaskTracker::new();
    // The admin port closes last: probes and scrapes are answered until the Lease is released.
    let close_admin = CancellationToken::new();
    let (server, address, closed) = (admin.clone(), args.admin_listen, close_admin.clone());
    let served = tasks.spawn(async move { server.serve(address, closed).await });
    let result = tokio::select! {
        served = served => served?.with_context(|| format!("cannot serve the admin port on {address}")),
        reconciled = run_controller(client, fence, args, &admin, &stop) => reconciled,
    };
    close_admin.cancel();
    tasks.close();
    tasks.wait().await;
    result
}

async fn run_controller(
    client: Client,
    fence: WriteFence,
    args: &Args,
    admin: &Admin,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let identity = args.identity.clone().map_or_else(identity::generate, Ok)?;
    let options = ControllerOptions {
        scopes: args.scopes(),
        images: args.images(),
        policy: args.policy(),
        pod_user: args.pod_user,
        installation: format!("{}/{}", args.namespace, args.lease_name),
        identity: identity.clone(),
    };
    if !args.leader_election {
        admin.set_ready(true);
        admin.metrics.set_leader(true);
        controller::run(
            client,
            options,
            admin.metrics.clone(),
            admin.watch_health.clone(),
            stop.clone(),
        )
        .await;
        return Ok(());
    }
    let candidate = Candidate::new(
        &client,
        &args.namespace,
        &args.lease_name,
        &identity,
        LeaseTiming::default(),
    )?
    .with_fence(fence);
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = candidate.acquire(|| admin.set_ready(true)) => {}
    }
    admin.metrics.set_leader(true);
    tokio::select! {
        () = controller::run(client, options, admin.metrics.clone(), admin.watch_health.clone(), stop.clone()) => {}
        () = candidate.hold() => bail!("lost the Lease {}; another operator leads now", args.lease_name),
        () = finish_timeout(stop) => tracing::warn!("cut reconciles short to release the leader lease"),
    }
    admin.metrics.set_leader(false);
    candidate.release().await;
    Ok(())
}

/// Ends [`FINISH_TIMEOUT`] after `stop` is cancelled.
async fn finish_timeout(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(FINISH_TIMEOUT).await;
}
