//! Records what this system cannot run, with the reasons.

use anyhow::bail;

/// Environment variable that turns skipped parts into failures. CI sets it.
const REQUIRE_ALL: &str = "VMCP_REQUIRE_ALL";

/// The parts that were skipped so far, with the reasons.
#[derive(Default)]
pub(crate) struct Skipped(Vec<(&'static str, String)>);

impl Skipped {
    /// Skips `name` and prints the reason.
    pub(crate) fn add(&mut self, name: &'static str, reason: &str) {
        // In one line, to keep the list at the end readable.
        let reason = reason.split('\n').map(str::trim).collect::<Vec<_>>().join(" ");
        eprintln!("skipped: {name}: {reason}");
        self.0.push((name, reason));
    }

    /// Runs `install`, which makes `name` available, and skips `name` if that fails.
    pub(crate) fn unless_installed<T>(
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

    /// The skipped names in the format of [`vmcp_peers::LEFT_OUT`].
    pub(crate) fn names(&self) -> String {
        self.0.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(",")
    }

    /// Fails if something was skipped although [`REQUIRE_ALL`] is set.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let required = std::env::var_os(REQUIRE_ALL).is_some_and(|value| !value.is_empty());
        if required && !self.0.is_empty() {
            bail!("{REQUIRE_ALL} is set, so nothing may be skipped");
        }
        Ok(())
    }

    /// One line with the reason for each skipped part.
    pub(crate) fn report(&self) -> String {
        let lines = self.0.iter().map(|(name, reason)| format!("  {name}: {reason}"));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Whether nothing was skipped.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
