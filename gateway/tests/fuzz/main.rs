//! Property tests: for random input, each parser agrees with a slower and simpler one, and does not panic.
//!
//! Each run first repeats the failed inputs in `regressions`, and then generates new ones, four times the number in PROPTEST_CASES (256).

mod configuration;
mod envelope;
mod events;

use proptest::test_runner::{Config, FileFailurePersistence};

/// The settings of a property test. Inputs that fail are stored in `file`.
fn config(file: &'static str) -> Config {
    let mut config = Config::default();
    config.cases = config.cases.saturating_mul(4);
    config.failure_persistence = Some(Box::new(FileFailurePersistence::Direct(file)));
    config
}
