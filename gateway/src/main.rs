//! `vmcp-gateway`: reads the configuration, builds the gateway, serves until a termination signal arrives, and drains.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use secrecy::SecretString;
use vmcp_crds::config::{GatewayConfig, REDIS_PASSWORD_ENV, without_line_break};
use vmcp_crds::session_key::SessionKey;
use vmcp_gateway::app::App;
use vmcp_gateway::args::{Args, Command, ConfigFile, ServerArgs};
use vmcp_gateway::config::Config;
use vmcp_gateway::import;
use vmcp_gateway::preflight;
use vmcp_gateway::runtime::huge_pages;
use vmcp_gateway::runtime::signals::termination_signal;
use vmcp_gateway::session::id::signing_keys::SigningKeys;
use vmcp_gateway::supervisor;
use vmcp_gateway::telemetry::logs;
use vmcp_gateway::version;

/// Requests make many small allocations, which cost a third of the C library's CPU time with this allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code for an invalid configuration (`EX_USAGE` in sysexits.h).
const EX_USAGE: u8 = 64;

fn main() -> ExitCode {
    let outcome = match Args::parse().command {
        Command::Serve(file) => serve(&file),
        Command::Validate(file) => validate(&file),
        Command::Keygen => keygen(),
        Command::StatusToken(file) => status_token(&file),
        Command::Supervise(server) => supervise(&server),
        Command::Import(options) => import::run(&options),
        Command::Version => {
            print!("{}", version::text());
            Ok(ExitCode::SUCCESS)
        }
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("vmcp-gateway: {error:#}");
        ExitCode::FAILURE
    })
}

fn serve(file: &ConfigFile) -> anyhow::Result<ExitCode> {
    let config = match load(file) {
        Ok(config) => config,
        Err(exit) => return Ok(exit),
    };
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

fn validate(file: &ConfigFile) -> anyhow::Result<ExitCode> {
    let config = match load(file) {
        Ok(config) => config,
        Err(exit) => return Ok(exit),
    };
    if let Err(error) = preflight::check_programs(&config, &file.config) {
        eprintln!("vmcp-gateway: {error}");
        return Ok(ExitCode::from(EX_USAGE));
    }
    let effective = GatewayConfig::load(&file.config)?.effective();
    print!("{}", serde_yaml::to_string(&effective)?);
    Ok(ExitCode::SUCCESS)
}

fn keygen() -> anyhow::Result<ExitCode> {
    println!("{}", SessionKey::generate()?.to_text());
    Ok(ExitCode::SUCCESS)
}

fn status_token(file: &ConfigFile) -> anyhow::Result<ExitCode> {
    let config = match load(file) {
        Ok(config) => config,
        Err(exit) => return Ok(exit),
    };
    let directory = config.session_keys.as_deref();
    let keys = SigningKeys::load(directory.context("no sessionKeys are configured; /status is open")?)?;
    let server = &config.server;
    println!("{}", keys.current().status_token(&server.namespace, &server.name));
    Ok(ExitCode::SUCCESS)
}

fn supervise(server: &ServerArgs) -> anyhow::Result<ExitCode> {
    let (program, arguments) = server.command.split_first().context("no program")?;
    supervisor::supervise(program, arguments)
}

fn load(file: &ConfigFile) -> Result<Config, ExitCode> {
    let password = std::env::var(REDIS_PASSWORD_ENV)
        .ok()
        .map(|password| without_line_break(&password).to_owned())
        .filter(|password| !password.is_empty());
    preflight::load(&file.config, password.map(SecretString::from)).map_err(|error| {
        eprintln!("vmcp-gateway: {error}");
        ExitCode::from(EX_USAGE)
    })
}
