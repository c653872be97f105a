//! The programs that this system cannot run, and why.

use anyhow::bail;

/// The environment variable that makes it a failure if a program is unavailable. CI sets it.
const REQUIRE_ALL: &str = "VMCP_REQUIRE_ALL";

/// The unavailable programs so far.
#[derive(Default)]
pub(crate) struct UnavailablePrograms(Vec<(&'static str, String)>);

impl UnavailablePrograms {
    /// Adds `name`, and prints the reason at once.
    pub(crate) fn add(&mut self, name: &'static str, reason: &str) {
        // One line, so that the list at the end can be read.
        let reason = reason.split('\n').map(str::trim).collect::<Vec<_>>().join(" ");
        eprintln!("unavailable: {name}: {reason}");
        self.0.push((name, reason));
    }

    /// Runs `install`, which makes `name` available. If it fails, adds `name` with the error.
    pub(crate) fn install<T>(
        &mut self,
        name: &'static str,
        install: impl FnOnce() -> anyhow::Result<T>,
    ) -> Option<T> {
        match install() {
            Ok(value) => Some(value),
            Err(error) => {
                self.add(name, &format!("{error:#}"));
                None
            }
        }
    }

    /// Whether `name` is unavailable.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|(other, _)| *other == name)
    }

    /// The names, separated by commas, as [`vmcp_external::UNAVAILABLE`] has them; `None` if everything is available.
    pub(crate) fn names(&self) -> Option<String> {
        let names: Vec<_> = self.0.iter().map(|(name, _)| *name).collect();
        (!names.is_empty()).then(|| names.join(","))
    }

    /// Fails if a program is unavailable that this run requires.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let required = std::env::var_os(REQUIRE_ALL).is_some_and(|value| !value.is_empty());
        if required && !self.0.is_empty() {
            bail!("{REQUIRE_ALL} is set, so every program must be available");
        }
        Ok(())
    }

    /// One line for each program.
    pub(crate) fn report(&self) -> String {
        let lines = self.0.iter().map(|(name, reason)| format!("  {name}: {reason}"));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Whether every program is available.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
