//! The `vmcp-operator` binary.

use anyhow::Context as _;
use clap::Parser as _;
use kube::Config;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use vmcp_operator::api_server::WriteFence;
use vmcp_operator::args::{Args, OperatorCommand};
use vmcp_operator::{api_server, app, installation_check, telemetry};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    telemetry::init(args.log_format, &args.log).context("invalid value of --log")?;
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok()
        .context("a TLS provider is already installed")?;
    let config = Config::infer()
        .await
        .context("cannot find the API server: not running in a pod, and KUBECONFIG names no usable file")?;
    let url = config.cluster_url.clone();
    let fence = WriteFence::default();
    let client = api_server::fenced_client(config, fence.clone())
        .context("cannot create a client for the API server")?;
    if let Some(OperatorCommand::Check { timeout }) = args.command {
        return installation_check::run(&client, &args, timeout.get()).await;
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), api = %url, scopes = ?args.scopes(), "operator starting");
    let stop = stop_on_signal()?;
    app::run(client, fence, &args, stop).await
}

/// A token that SIGTERM and Ctrl-C cancel.
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let cancel = stop.clone();
    tokio_util::task::TaskTracker::new().spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("operator stopping");
        cancel.cancel();
    });
    Ok(stop)
}
