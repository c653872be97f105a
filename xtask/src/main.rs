//! The project's own commands. `cargo xtask --help` lists them.

mod bench;
mod cargo;
mod conformance;
mod demo;
mod drift;
mod fresh;
mod generate;
mod hostile;
mod inspector;
mod left_out;
mod test;
mod totals;
mod unused_dependencies;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's own commands: what CI runs, a person runs the same way.
///
/// Programs that these commands need and nobody here wrote are installed on first use: into $VMCP_CACHE (by default
/// ~/.cache/vmcp), and with apt when you are root on Debian. Later runs find them there.
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
            // Where in our code an error arose helps nobody here, so no backtrace.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
