//! `cargo xtask test`: everything that CI checks.

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
use crate::left_out::LeftOut;
use crate::totals::Totals;
use crate::unused_dependencies;

/// Run everything that CI checks: format, lints, dependencies, generated files, and all tests.
///
/// What this system cannot run is left out, with the reason. With VMCP_REQUIRE_ALL set, as in CI, that is a failure.
/// For a part of it, use cargo itself: `cargo test -p vmcp-gateway`.
#[derive(Args)]
pub(crate) struct Test {
    /// Steps to skip, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STEPS")]
    skip: Vec<Step>,
}

/// The steps, in their order.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// cargo fmt
    Format,
    /// cargo clippy, where a warning is a failure
    Clippy,
    /// cargo deny: licenses, sources and duplicates of the dependencies
    Deny,
    /// cargo machete: dependencies that no code uses
    Machete,
    /// Install the programs that tests run
    Peers,
    /// cargo build of everything that the tests are and run
    Build,
    /// The committed files that are made from the code
    Generate,
    /// cargo test
    Tests,
}

impl Test {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let mut left_out = LeftOut::default();
        let steps = Step::value_variants().iter();
        let result = steps
            .filter(|step| !self.skip.contains(step))
            .try_for_each(|step| step.run(&mut left_out));
        if !left_out.is_empty() {
            eprintln!("left out on this system:\n{}", left_out.report());
        }
        result
    }
}

impl Step {
    fn run(self, left_out: &mut LeftOut) -> anyhow::Result<()> {
        match self {
            Self::Format => component(left_out, "rustfmt", "fmt --all --check"),
            Self::Clippy => component(
                left_out,
                "clippy",
                "clippy --workspace --all-targets --locked -- -D warnings",
            ),
            Self::Deny => deny(left_out),
            Self::Machete => machete(left_out),
            Self::Peers => peers(left_out),
            // Tests start the workspace's own programs, which cargo test alone would not build. The tests are named too,
            // because without them cargo chooses other features of the dependencies, and compiles them twice.
            Self::Build => cargo::run("build --workspace --bins --examples --tests --locked"),
            Self::Generate => step("generate --check", generate::check),
            Self::Tests => tests(left_out),
        }
    }
}

/// Runs a call of cargo that needs a component of the toolchain, which may be missing.
fn component(left_out: &mut LeftOut, name: &'static str, arguments: &str) -> anyhow::Result<()> {
    let subcommand = arguments.split(' ').next().unwrap_or_default();
    if !cargo::has(subcommand) {
        let reason = format!("the toolchain lacks it; `rustup component add {name}` installs it");
        left_out.add(name, &reason);
        return left_out.check();
    }
    cargo::run(arguments)
}

fn deny(left_out: &mut LeftOut) -> anyhow::Result<()> {
    let Some(program) = left_out.unless("cargo-deny", cargo_tools::cargo_deny) else {
        return left_out.check();
    };
    // Cargo resolves for every platform, and so needs packages that no build here has fetched.
    cargo::run("fetch --locked")?;
    step("cargo deny --offline check bans licenses sources", || {
        let status = Command::new(&program)
            .args("--offline --locked --all-features check bans licenses sources".split(' '))
            .current_dir(cargo::root())
            .status()
            .with_context(|| format!("cannot run {}", program.display()))?;
        cargo::succeeded(status).context("a rule of deny.toml is broken")
    })
}

fn machete(left_out: &mut LeftOut) -> anyhow::Result<()> {
    let Some(program) = left_out.unless("cargo-machete", cargo_tools::cargo_machete) else {
        return left_out.check();
    };
    unused_dependencies::check(&program)
}

/// Installs what the tests run, under the names that they ask for with [`vmcp_peers::left_out`].
fn peers(left_out: &mut LeftOut) -> anyhow::Result<()> {
    left_out.unless("redis", redis::redis_server);
    left_out.unless("npm", npm::servers);
    left_out.unless("python", python::venv);
    left_out.unless("parsers", parsers::all);
    left_out.unless("conformance", npm::conformance);
    left_out.unless("go", go_sdk::program);
    left_out.unless("hosts", hosts::supported);
    left_out.unless("control-groups", || Confined::new(1 << 30));
    left_out.unless("api-server", ApiServer::install);
    left_out.unless("helm", vmcp_cluster::helm);
    left_out.unless("cluster", Cluster::install);
    left_out.check()
}

fn tests(left_out: &LeftOut) -> anyhow::Result<()> {
    let mut totals = Totals::default();
    let result = step("cargo test --workspace --locked", || {
        let mut child = cargo(&["test", "--workspace", "--locked", "--no-fail-fast"])
            .env(LEFT_OUT, left_out.names())
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
