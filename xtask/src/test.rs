//! `cargo xtask test`: all checks of CI.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use vmcp_cluster::{ApiServer, Cluster};
use vmcp_peers::confined::Confined;
use vmcp_peers::step::step;
use vmcp_peers::{LEFT_OUT, cargo_tools, go_sdk, hosts, npm, parsers, python, redis};

use crate::cargo::{self, cargo};
use crate::generate;
use crate::skipped::Skipped;
use crate::totals::Totals;
use crate::unused_dependencies;

/// Run all checks of CI: format, lints, dependencies, generated files, and all tests.
///
/// Parts that this system failed to run are skipped, with the reason. With VMCP_REQUIRE_ALL set, as in CI, that is a failure.
/// To run only some tests, use cargo: `cargo test -p vmcp-gateway`.
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
    Peers,
    /// cargo build of the tests and the programs that they run
    Build,
    /// Compare the committed generated files with the code
    Generate,
    /// cargo test
    Tests,
}

impl Test {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let mut skipped = Skipped::default();
        let steps = Step::value_variants().iter();
        let result = steps
            .filter(|step| !self.skip.contains(step))
            .try_for_each(|step| step.run(&mut skipped));
        if !skipped.is_empty() {
            eprintln!("skipped on this system:\n{}", skipped.report());
        }
        result
    }
}

impl Step {
    fn run(self, skipped: &mut Skipped) -> anyhow::Result<()> {
        match self {
            Self::Format => component(skipped, "rustfmt", "fmt --all --check"),
            Self::Clippy => component(
                skipped,
                "clippy",
                "clippy --workspace --all-targets --locked -- -D warnings",
            ),
            Self::Deny => deny(skipped),
            Self::Machete => machete(skipped),
            Self::Peers => peers(skipped),
            // Tests start programs of the workspace, which `cargo test` alone would not build. `--tests` is needed because
            // cargo would otherwise select different features of the dependencies and compile them twice.
            Self::Build => cargo::run("build --workspace --bins --examples --tests --locked"),
            Self::Generate => step("generate --check", generate::check),
            Self::Tests => tests(skipped),
        }
    }
}

/// Runs a cargo command that needs a component of the toolchain. Skips it if the component is missing.
fn component(skipped: &mut Skipped, name: &'static str, arguments: &str) -> anyhow::Result<()> {
    let subcommand = arguments.split(' ').next().unwrap_or_default();
    if !cargo::has(subcommand) {
        let reason = format!("missing in the toolchain; install it with `rustup component add {name}`");
        skipped.add(name, &reason);
        return skipped.check();
    }
    cargo::run(arguments)
}

fn deny(skipped: &mut Skipped) -> anyhow::Result<()> {
    let Some(program) = skipped.unless_installed("cargo-deny", cargo_tools::cargo_deny) else {
        return skipped.check();
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

fn machete(skipped: &mut Skipped) -> anyhow::Result<()> {
    let Some(program) = skipped.unless_installed("cargo-machete", cargo_tools::cargo_machete) else {
        return skipped.check();
    };
    unused_dependencies::check(&program)
}

/// Installs the third-party programs of the tests. The names are those that tests pass to [`vmcp_peers::left_out`].
fn peers(skipped: &mut Skipped) -> anyhow::Result<()> {
    skipped.unless_installed("redis", redis::redis_server);
    skipped.unless_installed("npm", npm::servers);
    skipped.unless_installed("python", python::venv);
    skipped.unless_installed("parsers", parsers::all);
    skipped.unless_installed("conformance", npm::conformance);
    skipped.unless_installed("go", go_sdk::program);
    skipped.unless_installed("hosts", hosts::supported);
    skipped.unless_installed("control-groups", || Confined::new(1 << 30));
    skipped.unless_installed("api-server", ApiServer::install);
    skipped.unless_installed("helm", vmcp_cluster::helm);
    skipped.unless_installed("cluster", Cluster::install);
    skipped.check()
}

fn tests(skipped: &Skipped) -> anyhow::Result<()> {
    let mut totals = Totals::default();
    let result = step("cargo test --workspace --locked", || {
        let mut child = cargo(&["test", "--workspace", "--locked", "--no-fail-fast"])
            .env(LEFT_OUT, skipped.names())
            .stdout(Stdio::piped())
            .spawn()
            .context("failed to run cargo test")?;
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
