//! `cargo xtask bench`: measures the cost of the gateway.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Parser, ValueEnum as _};
use vmcp_bench::cores::Cores;
use vmcp_bench::metric;
use vmcp_bench::metric::Metric;
use vmcp_bench::scenario::{Run, Scenario};

/// Measure the cost of the gateway, compared with a bare hyper proxy in the same run.
///
/// `cargo xtask bench` builds both in the profile `image`, as for a release. Prints the progress, then a table, and one line of JSON for
/// each metric. The measured process runs alone on one core; the backend and the load run on another one. The run is invalid if the
/// bare proxy does not reach 0.45 of the calls per second of the backend alone, because the machine was busy then.
#[derive(Parser)]
#[command(name = "cargo xtask bench", version)]
struct Args {
    /// The scenarios to run; by default all except `sessions` and `soak`
    #[arg(value_enum, value_name = "NAME")]
    scenarios: Vec<Scenario>,
    /// Fail if a metric is out of its bound, or the run is invalid
    #[arg(long)]
    check: bool,
    /// Also write the lines of JSON to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Number of repeats of each measurement; the median counts
    #[arg(long, default_value_t = 7, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    repeats: u16,
    /// Duration of one measurement in milliseconds
    #[arg(long, default_value_t = 1_000, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..))]
    milliseconds: u64,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let run = Run {
        cores: Cores::take()?,
        repeats: args.repeats.into(),
        duration: Duration::from_millis(args.milliseconds),
    };
    let scenarios = match &*args.scenarios {
        [] => Scenario::BRIEF,
        named => named,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut metrics = Vec::new();
    for scenario in scenarios {
        let name = scenario.to_possible_value();
        let name = name.as_ref().map_or("", |name| name.get_name());
        eprintln!("==> {name}");
        metrics.extend(
            runtime
                .block_on(scenario.run(&run))
                .with_context(|| name.to_owned())?,
        );
    }
    let lines = lines(&metrics)?;
    println!("\n{}\n{lines}", metric::table(&metrics));
    if let Some(file) = &args.json {
        fs::write(file, lines).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if metrics.iter().any(|metric| metric.invalidates && !metric.passed) {
        eprintln!("the run is invalid: the bare proxy was too slow, so the machine was busy with other work");
    }
    if args.check && !metrics.iter().all(|metric| metric.passed) {
        bail!("not all metrics passed");
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(metrics: &[Metric]) -> anyhow::Result<String> {
    let mut lines = String::new();
    for metric in metrics {
        lines.push_str(&serde_json::to_string(metric)?);
        lines.push('\n');
    }
    Ok(lines)
}
