//! The file with which a client finds the API server and proves who it is.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde_json::json;

/// Writes to `file` a kubeconfig for the identity whose certificate `pki` holds under the name `identity`.
pub(crate) fn write(file: &Path, server: &str, pki: &Path, identity: &str) -> anyhow::Result<()> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "vmcp", "cluster": {
            "server": server,
            "certificate-authority": pki.join("ca.crt"),
        }}],
        "users": [{ "name": identity, "user": {
            "client-certificate": pki.join(format!("{identity}.crt")),
            "client-key": pki.join(format!("{identity}.key")),
        }}],
        "contexts": [{ "name": "vmcp", "context": { "cluster": "vmcp", "user": identity } }],
        "current-context": "vmcp",
    });
    // JSON is YAML.
    fs::write(file, format!("{config:#}\n")).with_context(|| format!("cannot write {}", file.display()))
}
