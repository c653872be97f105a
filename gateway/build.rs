//! Tells the program from which commit it is built, where that is known: `VMCP_COMMIT`, or what git says.
//!
//! Git is asked for builds with optimisation only, so that a commit does not make developers compile everything again. A build without git,
//! or outside of a repository, is as good as any other.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=VMCP_COMMIT");
    let given = std::env::var("VMCP_COMMIT").ok();
    let given =
        given.filter(|commit| !commit.is_empty() && commit.bytes().all(|byte| byte.is_ascii_graphic()));
    if let Some(commit) = given.or_else(commit) {
        println!("cargo:rustc-env=VMCP_BUILT_FROM={commit}");
    }
}

fn commit() -> Option<String> {
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "debug") {
        return None;
    }
    // It changes with every commit and every checkout.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo:rerun-if-changed={log}");
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}
