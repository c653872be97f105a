//! The version of the program.

use vmcp_crds::config::ConfigVersion;

use crate::mcp::revision::Revision;

/// The output of `vmcp-gateway version`.
#[must_use]
pub fn text() -> String {
    let revisions: Vec<_> = Revision::ALL.into_iter().rev().map(Revision::as_str).collect();
    format!(
        "vmcp-gateway {}\ncommit: {}\nprotocol revisions: {}\nconfiguration: {}\n",
        env!("CARGO_PKG_VERSION"),
        option_env!("VMCP_BUILT_FROM").unwrap_or("unknown"),
        revisions.join(", "),
        ConfigVersion::default().as_str(),
    )
}
