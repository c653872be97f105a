//! What this system cannot run.

/// The environment variable in which `cargo xtask test` tells the tests which peers are not to be had: names separated
/// by commas.
pub const LEFT_OUT: &str = "VMCP_LEFT_OUT";

/// Whether the tests that need `peer` are left out on this system; says so in one line when they are. The peers are
/// `redis`, `npm`, `python`, `parsers`, `conformance`, `go` and `hosts`, and what `cargo xtask test` adds to them.
///
/// Without the variable nothing is left out, so that a test which is run by hand fails with the reason.
#[must_use]
pub fn left_out(peer: &str) -> bool {
    let listed = listed(&std::env::var(LEFT_OUT).unwrap_or_default(), peer);
    if listed {
        eprintln!("left out: this test needs {peer}, which this system cannot run");
    }
    listed
}

fn listed(names: &str, peer: &str) -> bool {
    names.split(',').any(|name| name.trim() == peer)
}

#[cfg(test)]
mod tests {
    use super::listed;

    #[test]
    fn a_peer_is_left_out_only_under_its_whole_name() {
        assert!(listed("redis,npm", "npm"));
        assert!(listed("redis, npm", "npm"));
        assert!(!listed("redis,npm", "np"));
        assert!(!listed("", "npm"));
    }
}
