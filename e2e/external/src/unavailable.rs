//! The programs that this system cannot run.

/// The environment variable in which `cargo xtask test` names the unavailable programs, separated by commas.
///
/// Without it every program counts as available, so a test that is run by hand fails with the reason.
pub const UNAVAILABLE: &str = "VMCP_UNAVAILABLE";

/// Whether this system cannot run `program`, by the names of [`requires`](crate::requires).
///
/// For a test that runs in parts, of which some need the program. A test that needs the program as a whole is marked with
/// `#[requires(...)]`, so that the test runner reports it as ignored.
#[must_use]
pub fn is_unavailable(program: &str) -> bool {
    let is_listed = lists(&std::env::var(UNAVAILABLE).unwrap_or_default(), program);
    if is_listed {
        eprintln!("skipped: the part of this test that needs {program}, which this system cannot run");
    }
    is_listed
}

fn lists(names: &str, program: &str) -> bool {
    names.split(',').any(|name| name.trim() == program)
}

#[cfg(test)]
mod tests {
    use super::lists;

    // A program is listed under its whole name only.
    #[test]
    fn program_is_listed_by_its_whole_name() {
        assert!(lists("redis,npm", "npm"));
        assert!(lists("redis, npm", "npm"));
        assert!(!lists("redis,npm", "np"));
        assert!(!lists("", "npm"));
    }
}
