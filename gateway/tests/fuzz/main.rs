//! Whatever bytes come in, the readers of them agree with a slower and simpler reader, and none of them panics.
//!
//! Each run draws new inputs, four times as many as PROPTEST_CASES says (256), and begins with those in `regressions` on which a reader
//! failed once.

mod configuration;
mod envelope;
mod events;

use proptest::test_runner::{Config, FileFailurePersistence};

/// How a property is checked; what it failed on is kept in `file`.
fn config(file: &'static str) -> Config {
    let mut config = Config::default();
    config.cases = config.cases.saturating_mul(4);
    config.failure_persistence = Some(Box::new(FileFailurePersistence::Direct(file)));
    config
}
