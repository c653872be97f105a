//! The project's own commands. `cargo xtask --help` lists them.

mod cargo;
mod demo;
mod drift;
mod generate;
mod left_out;
mod test;
mod totals;

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
    Test(test::Test),
    Generate(generate::Generate),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Demo(demo) => demo.run(),
        Command::Test(test) => test.run(),
        Command::Generate(generate) => generate.run(),
    }
}
