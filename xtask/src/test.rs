//! `cargo xtask test`: all checks of CI.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use vmcp_cluster::{ApiServer, Cluster};
use vmcp_external::confined::Confined;
use vmcp_external::previous_commit::PreviousCommit;
use vmcp_external::step::step;
use vmcp_external::{UNAVAILABLE, cargo_tools, go_sdk, hosts, npm, parsers, python, redis};

use crate::cargo::{self, cargo};
use crate::generate;
use crate::totals::Totals;
use crate::unavailable::UnavailablePrograms;
use crate::unused_dependencies;

/// Run all checks of CI: format, lints, dependencies, generated files, and all tests.
///
/// Tests that need a program which this system cannot run are reported as ignored, with the reason. With VMCP_REQUIRE_ALL set, as in CI, that
/// is a failure.
/// For a part of it, use cargo itself: `cargo test -p vmcp-gateway`.
#[derive(Args)]
pub(crate) struct Test {
    /// Steps to skip, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STEPS")]
    skip: Vec<Step>,
}

/// The steps in the order in which they run.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// cargo fmt
    Format,
    /// cargo clippy; warnings are failures
    Clippy,
    /// cargo deny: licenses, sources and duplicates of the dependencies
    Deny,
    /// cargo machete: dependencies that no code uses
    Machete,
    /// Install the programs that tests run
    Programs,
    /// cargo build of everything that the tests are and run
    Build,
    /// Compare the committed generated files with the code
    Generate,
    /// cargo test
    Tests,
}

impl Test {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let mut unavailable = UnavailablePrograms::default();
        let steps = Step::value_variants().iter();
        let result = steps
            .filter(|step| !self.skip.contains(step))
            .try_for_each(|step| step.run(&mut unavailable));
        if !unavailable.is_empty() {
            eprintln!(
                "unavailable on this system, so tests that need it are skipped:\n{}",
                unavailable.report()
            );
        }
        result
    }
}

impl Step {
    fn run(self, unavailable: &mut UnavailablePrograms) -> anyhow::Result<()> {
        match self {
            Self::Format => component(unavailable, "rustfmt", "fmt --all --check"),
            Self::Clippy => component(
                unavailable,
                "clippy",
                "clippy --workspace --all-targets --locked -- -D warnings",
            ),
            Self::Deny => deny(unavailable),
            Self::Machete => machete(unavailable),
            Self::Programs => programs(unavailable),
            // Tests start the workspace's own programs, which cargo test alone would not build. The tests are named too,
            // because without them cargo chooses other features of the dependencies, and compiles them twice.
            Self::Build => build(unavailable),
            Self::Generate => step("generate --check", generate::check),
            Self::Tests => tests(unavailable),
        }
    }
}

/// Runs a call of cargo that needs a component of the toolchain, which may be missing.
fn component(
    unavailable: &mut UnavailablePrograms,
    name: &'static str,
    arguments: &str,
) -> anyhow::Result<()> {
    let subcommand = arguments.split(' ').next().unwrap_or_default();
    if !cargo::has(subcommand) {
        let reason = format!("the toolchain lacks it; `rustup component add {name}` installs it");
        unavailable.add(name, &reason);
        return unavailable.check();
    }
    cargo::run(arguments)
}

fn deny(unavailable: &mut UnavailablePrograms) -> anyhow::Result<()> {
    let Some(program) = unavailable.install("cargo-deny", cargo_tools::cargo_deny) else {
        return unavailable.check();
    };
    // cargo deny resolves for all platforms, and so needs packages that no build on this system has fetched.
    cargo::run("fetch --locked")?;
    step("cargo deny --offline check bans licenses sources", || {
        let status = Command::new(&program)
            .args("--offline --locked --all-features check bans licenses sources".split(' '))
            .current_dir(cargo::root())
            .status()
            .with_context(|| format!("failed to run {}", program.display()))?;
        cargo::succeeded(status).context("a rule of deny.toml is violated")
    })
}

fn machete(unavailable: &mut UnavailablePrograms) -> anyhow::Result<()> {
    let Some(program) = unavailable.install("cargo-machete", cargo_tools::cargo_machete) else {
        return unavailable.check();
    };
    unused_dependencies::check(&program)
}

/// Installs the programs that tests run, under the names of [`vmcp_external::requires`].
fn programs(unavailable: &mut UnavailablePrograms) -> anyhow::Result<()> {
    unavailable.install("redis", redis::redis_server);
    unavailable.install("npm", npm::servers);
    unavailable.install("python", python::venv);
    unavailable.install("parsers", parsers::all);
    unavailable.install("conformance", npm::conformance);
    unavailable.install("go", go_sdk::program);
    unavailable.install("hosts", hosts::supported);
    unavailable.install("control-groups", || Confined::new(1 << 30));
    unavailable.install("api-server", ApiServer::install);
    unavailable.install("helm", vmcp_cluster::helm);
    unavailable.install("cluster", Cluster::install);
    unavailable.install("previous-commit", PreviousCommit::find);
    unavailable.check()
}

fn build(unavailable: &UnavailablePrograms) -> anyhow::Result<()> {
    let arguments = "build --workspace --bins --examples --tests --locked";
    step(&format!("cargo {arguments}"), || {
        let words: Vec<&str> = arguments.split(' ').collect();
        let status = cargo_with(unavailable, &words)
            .status()
            .context("cannot run cargo")?;
        cargo::succeeded(status)
    })?;
    // After the build, which has compiled most of its dependencies. Tests on a cluster are the only ones that need it.
    if ["cluster", "previous-commit"]
        .iter()
        .any(|name| unavailable.contains(name))
    {
        return Ok(());
    }
    PreviousCommit::install().map(drop)
}

/// A call of cargo that compiles tests. The attribute of [`vmcp_external::requires`] reads the variable when it is compiled, so it must be
/// the same in all calls.
fn cargo_with(unavailable: &UnavailablePrograms, arguments: &[&str]) -> Command {
    let mut command = cargo(arguments);
    match unavailable.names() {
        Some(names) => command.env(UNAVAILABLE, names),
        None => command.env_remove(UNAVAILABLE),
    };
    command
}

fn tests(unavailable: &UnavailablePrograms) -> anyhow::Result<()> {
    let mut totals = Totals::default();
    let result = step("cargo test --workspace --locked", || {
        let mut child = cargo_with(
            unavailable,
            &["test", "--workspace", "--locked", "--no-fail-fast"],
        )
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo test")?;
        let output = child.stdout.take().context("cargo test has no output")?;
        for line in BufReader::new(output).split(b'\n') {
            let line = line?;
            let mut out = std::io::stdout().lock();
            out.write_all(&line)?;
            out.write_all(b"\n")?;
            totals.add(&String::from_utf8_lossy(&line));
        }
        let status = child.wait()?;
        cargo::succeeded(status)
    });
    println!("{totals}");
    result
}
