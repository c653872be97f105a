//! `vmcp-gateway`: reads the configuration, builds the gateway, serves until a termination signal arrives, and drains.

use std::process::ExitCode;

use clap::Parser as _;
use vmcp_gateway::app::App;
use vmcp_gateway::args::{Args, Command};
use vmcp_gateway::commands;
use vmcp_gateway::config::{Config, InvalidConfig};
use vmcp_gateway::import;
use vmcp_gateway::install;
use vmcp_gateway::runtime::huge_pages;
use vmcp_gateway::runtime::signals::termination_signal;
use vmcp_gateway::telemetry::logs;
use vmcp_gateway::version;

/// Requests make many small allocations, which cost a third of the C library's CPU time with this allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code for an invalid configuration (`EX_USAGE` in sysexits.h).
const EX_USAGE: u8 = 64;

fn main() -> ExitCode {
    let outcome = match Args::parse().command {
        Command::Serve(file) => commands::load(&file).map_err(Into::into).and_then(run),
        Command::Validate(file) => commands::validate(&file),
        Command::Keygen => commands::keygen(),
        Command::StatusToken(file) => commands::status_token(&file),
        Command::Bridge(bridge) => bridge.to_config().map_err(Into::into).and_then(run),
        Command::Install(copy) => install::install(&copy.target).map(|()| ExitCode::SUCCESS),
        Command::Import(options) => import::run(&options),
        Command::Supervise(server) => commands::supervise(&server),
        Command::Version => {
            print!("{}", version::text());
            Ok(ExitCode::SUCCESS)
        }
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("vmcp-gateway: {error:#}");
        if error.is::<InvalidConfig>() {
            ExitCode::from(EX_USAGE)
        } else {
            ExitCode::FAILURE
        }
    })
}

fn run(config: Config) -> anyhow::Result<ExitCode> {
    let level = logs::init();
    huge_pages::disable();
    // rustls fails at the first connection if two providers are compiled in and none is installed.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        let app = App::build(config, level).await?;
        app.run(termination_signal()).await;
        Ok(ExitCode::SUCCESS)
    });
    // Do not wait for threads with unfinished work.
    runtime.shutdown_background();
    outcome
}

/// Builds a runtime with one worker per core. With one core, as in most pods, a current-thread runtime avoids the handover between threads.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let cores = std::thread::available_parallelism()?;
    let mut builder = match cores.get() {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder.enable_all().build()
}
