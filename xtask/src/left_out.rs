//! What this system cannot run, and why.

use anyhow::bail;

/// The environment variable that makes it a failure when something is left out. CI sets it.
const REQUIRE_ALL: &str = "VMCP_REQUIRE_ALL";

/// What was left out so far.
#[derive(Default)]
pub(crate) struct LeftOut(Vec<(&'static str, String)>);

impl LeftOut {
    /// Leaves `name` out, and says why at once.
    pub(crate) fn add(&mut self, name: &'static str, reason: &str) {
        // One line, so that the list at the end can be read.
        let reason = reason.split('\n').map(str::trim).collect::<Vec<_>>().join(" ");
        eprintln!("left out: {name}: {reason}");
        self.0.push((name, reason));
    }

    /// Runs `work`, which makes `name` available; leaves it out when that fails.
    pub(crate) fn unless<T>(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> anyhow::Result<T>,
    ) -> Option<T> {
        match work() {
            Ok(value) => Some(value),
            Err(error) => {
                self.add(name, &format!("{error:#}"));
                None
            }
        }
    }

    /// The names, as tests read them from [`vmcp_peers::LEFT_OUT`].
    pub(crate) fn names(&self) -> String {
        self.0.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(",")
    }

    /// Fails when something is left out that this run must not leave out.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let required = std::env::var_os(REQUIRE_ALL).is_some_and(|value| !value.is_empty());
        if required && !self.0.is_empty() {
            bail!("{REQUIRE_ALL} is set, so nothing may be left out");
        }
        Ok(())
    }

    /// One line for each thing that was left out.
    pub(crate) fn report(&self) -> String {
        let lines = self.0.iter().map(|(name, reason)| format!("  {name}: {reason}"));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Whether nothing was left out.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
