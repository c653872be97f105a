//! The results of a run.

use std::fmt;
use std::time::Duration;

use anyhow::ensure;

use super::Rest;
use crate::load;

/// The most memory that the gateway may have had at a time.
const MOST_BYTES: u64 = 400 * 1024 * 1024;
/// How much more memory it may hold afterwards than before: what the allocator keeps, and catalogs.
pub(super) const REST_BYTES: u64 = 64 * 1024 * 1024;
/// The longest that `/livez` may take.
const LIVEZ_LIMIT: Duration = Duration::from_millis(100);
/// How many times as long a call of an honest session may take.
const MOST_TIMES: u32 = 2;

/// The results of a run.
#[derive(Debug)]
pub struct AttackReport {
    /// The honest sessions alone.
    pub baseline: load::LoadReport,
    /// The same while another process competes for the gateway's core.
    pub shared: load::LoadReport,
    /// The same beside hostile clients and backends.
    pub under_attack: load::LoadReport,
    /// How long `/livez` took meanwhile, each time.
    pub livez: Vec<Duration>,
    /// The most memory that the gateway has had, in bytes.
    pub peak: u64,
    /// Whether the gateway ended.
    pub restarted: bool,
    /// What it held before.
    pub before: Rest,
    /// What it held afterwards; `None` when it was not there any more.
    pub after: Option<Rest>,
    /// How many hostile requests there were.
    pub tried: u64,
    /// How many of them were refused or broke off.
    pub refused: u64,
}

impl AttackReport {
    /// Whether all figures are within their limits.
    ///
    /// # Errors
    /// What is not.
    pub fn check(&self) -> anyhow::Result<()> {
        self.check_bounds()?;
        let rested = self.after.as_ref();
        let rested = rested.is_some_and(|after| after.holds_as_little_as(&self.before));
        ensure!(rested, "the gateway kept the memory that it took\n{self}");
        let slowest = self.livez.iter().max().copied().unwrap_or(Duration::MAX);
        ensure!(slowest < LIVEZ_LIMIT, "/livez took {slowest:?}\n{self}");
        let (before, after) = (self.shared.percentile(0.99), self.under_attack.percentile(0.99));
        ensure!(
            after <= before * MOST_TIMES,
            "calls of honest sessions took {after:?}, and {before:?} before\n{self}"
        );
        Ok(())
    }

    /// Everything but the memory that it keeps afterwards, and how long it took, which says nothing where the gateway is not optimised or its
    /// core is not its own.
    ///
    /// # Errors
    /// The figures beyond their limits.
    pub fn check_bounds(&self) -> anyhow::Result<()> {
        ensure!(!self.restarted, "the gateway ended\n{self}");
        self.under_attack
            .without_failure()
            .map_err(|error| error.context(self.to_string()))?;
        ensure!(self.peak < MOST_BYTES, "the gateway took too much memory\n{self}");
        let rested = self
            .after
            .as_ref()
            .is_some_and(|after| after.is_idle_as(&self.before));
        ensure!(rested, "the gateway did not come to rest\n{self}");
        Ok(())
    }
}

impl fmt::Display for AttackReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes / (1024 * 1024);
        writeln!(f, "| figure | value |\n| --- | --- |")?;
        writeln!(f, "| hostile requests | {} |", self.tried)?;
        writeln!(f, "| of them refused or broken off | {} |", self.refused)?;
        for (name, calls) in [
            ("alone", &self.baseline),
            ("beside a busy neighbour on the core", &self.shared),
            ("under attack", &self.under_attack),
        ] {
            writeln!(
                f,
                "| honest calls {name}: calls, failures, p50, p99, slowest | {}, {}, {:.1?}, {:.1?}, {:.1?} |",
                calls.done.len(),
                calls.failures().len(),
                calls.percentile(0.5),
                calls.percentile(0.99),
                calls.percentile(1.0),
            )?;
        }
        let livez = |of| load::percentile(self.livez.clone(), of);
        writeln!(
            f,
            "| /livez: p99, slowest | {:.1?}, {:.1?} |",
            livez(0.99),
            livez(1.0)
        )?;
        writeln!(
            f,
            "| memory before, at its peak | {} MiB, {} MiB |",
            mib(self.before.resident),
            mib(self.peak)
        )?;
        if let Some(after) = &self.after {
            writeln!(f, "| memory afterwards | {} MiB |", mib(after.resident))?;
            for (name, value) in &after.gauges {
                let before = self.before.gauges.get(name).copied().unwrap_or_default();
                writeln!(f, "| `{name}` before, afterwards | {before}, {value} |")?;
            }
        }
        Ok(())
    }
}
