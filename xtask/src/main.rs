//! The commands of the project. `cargo xtask --help` lists them.

mod api_reference;
mod bench;
mod cargo;
mod chart_readme;
mod conformance;
mod demo;
mod drift;
mod fresh;
mod generate;
mod hostile;
mod inspector;
mod test;
mod totals;
mod unavailable;
mod unused_dependencies;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The commands of the project. CI runs the same commands.
///
/// Third-party programs that these commands need are installed on first use: into $VMCP_CACHE (by default ~/.cache/vmcp), or with apt
/// if you are root on Debian.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Demo),
    Conformance(conformance::Conformance),
    Bench(bench::Bench),
    Hostile(hostile::Hostile),
    Test(test::Test),
    Fresh(fresh::Fresh),
    Inspector(inspector::Inspector),
    Generate(generate::Generate),
    #[command(subcommand)]
    Cluster(vmcp_cluster::Command),
    Image(vmcp_cluster::image::Args),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Demo(demo) => demo.run(),
        Command::Conformance(conformance) => conformance.run(),
        Command::Bench(bench) => bench.run(),
        Command::Hostile(hostile) => hostile.run(),
        Command::Test(test) => test.run(),
        Command::Fresh(fresh) => fresh.run(),
        Command::Inspector(inspector) => inspector.run(),
        Command::Generate(generate) => generate.run(),
        Command::Cluster(cluster) => cluster.run(),
        Command::Image(image) => image.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // No backtrace: these errors concern the system, not this code.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
