//! Writes kubeconfig files.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde_json::json;

/// Writes a kubeconfig to `file`. The certificate of `identity` is in the folder `pki`.
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
