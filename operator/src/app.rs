//! The process: the admin port, the election, and the controller while we lead.

use anyhow::{Context as _, bail};
use kube::Client;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::Admin;
use crate::args::Args;
use crate::controller::{self, Options};
use crate::identity;
use crate::lease::{Candidate, Timing};

/// Runs the operator until `stop`.
///
/// # Errors
/// When the admin port cannot be served, or the Lease is lost: the process then ends, so that nothing of it goes on working.
pub async fn run(client: Client, args: &Args, stop: CancellationToken) -> anyhow::Result<()> {
    let admin = Admin::default();
    let tasks = TaskTracker::new();
    // The admin port goes last: until the lease is given back, probes and scrapes have an answer.
    let end = CancellationToken::new();
    let (serve, address, ended) = (admin.clone(), args.admin_listen, end.clone());
    let served = tasks.spawn(async move { serve.serve(address, ended).await });
    let result = tokio::select! {
        served = served => served?.with_context(|| format!("cannot serve the admin port on {address}")),
        worked = work(client, args, &admin, &stop) => worked,
    };
    end.cancel();
    tasks.close();
    tasks.wait().await;
    result
}

async fn work(client: Client, args: &Args, admin: &Admin, stop: &CancellationToken) -> anyhow::Result<()> {
    let identity = args.identity.clone().map_or_else(identity::unique, Ok)?;
    let options = Options {
        scopes: args.scopes(),
        default_image: args.gateway_image.clone(),
        policy: args.policy(),
        identity: identity.clone(),
    };
    if !args.leader_election {
        admin.set_ready(true);
        admin.metrics.set_leader(true);
        controller::run(client, options, admin.metrics.clone(), stop.clone()).await;
        return Ok(());
    }
    let candidate = Candidate::new(
        &client,
        &args.namespace,
        &args.lease_name,
        &identity,
        Timing::default(),
    )?;
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = candidate.acquire(|| admin.set_ready(true)) => {}
    }
    admin.metrics.set_leader(true);
    tokio::select! {
        () = controller::run(client, options, admin.metrics.clone(), stop.clone()) => {}
        () = candidate.hold() => bail!("this operator lost the lease {}; another one works now", args.lease_name),
    }
    admin.metrics.set_leader(false);
    candidate.release().await;
    Ok(())
}
