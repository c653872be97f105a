//! Every folder of `examples` is accepted by a real API server, and the operator renders a configuration from it that the gateway loads.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use vmcp_cluster::ApiServer;
use vmcp_crds::config::GatewayConfig;
use vmcp_e2e::{binaries, wait};
use vmcp_external::process::Process;
use vmcp_external::requires;

/// Time for an API server and an operator on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// Lines of a screen.
const SCREEN_LINES: usize = 40;
/// Most lines of a folder's README.
const MAX_README_LINES: usize = 25;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The names of the folders.
fn folders() -> anyhow::Result<Vec<String>> {
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(root().join("examples"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // A user of the README has a folder `keys` there.
        if entry.file_type()?.is_dir() && name != "keys" {
            folders.push(name);
        }
    }
    folders.sort();
    ensure!(folders.len() >= 5, "{folders:?}");
    Ok(folders)
}

#[test]
fn every_example_folder_has_short_readme() -> anyhow::Result<()> {
    let overview = std::fs::read_to_string(root().join("examples/README.md"))?;
    for folder in folders()? {
        let readme = std::fs::read_to_string(root().join("examples").join(&folder).join("README.md"))?;
        ensure!(readme.starts_with("# "), "{folder}: no title");
        ensure!(readme.lines().count() <= MAX_README_LINES, "{folder}: too long");
        let apply = format!("    kubectl apply -f examples/{folder}/\n");
        ensure!(
            readme.contains(&apply),
            "{folder}: the command is missing: {apply}"
        );
        ensure!(
            overview.contains(&format!("[{folder}]({folder})")),
            "{folder} is not in examples/README.md"
        );
    }
    Ok(())
}

// A newcomer sees the resources of the quick start, and its commands, without scrolling.
#[test]
fn quick_start_fits_one_screen() -> anyhow::Result<()> {
    let resources = std::fs::read_to_string(root().join("examples/quickstart/vmcp.yaml"))?;
    ensure!(resources.lines().count() <= SCREEN_LINES, "{resources}");
    let readme = std::fs::read_to_string(root().join("README.md"))?;
    let section = readme
        .split("\n## On Kubernetes\n")
        .nth(1)
        .context("no section")?;
    let section = section.split("\n## ").next().unwrap_or_default();
    ensure!(
        section.contains("helm install") && section.lines().count() <= SCREEN_LINES,
        "{section}"
    );
    Ok(())
}

/// An API server with our kinds, and an operator.
struct Kubernetes {
    server: ApiServer,
    _operator: Process,
}

impl Kubernetes {
    fn start() -> anyhow::Result<Self> {
        let server = ApiServer::start()?;
        let definitions = root().join("crds/yaml");
        server.kubectl(["apply", "--server-side", "-f", &definitions.to_string_lossy()])?;
        server.wait_until_served(&["vmcp", "mcpgroups", "mcpservers", "mcpserverentries"])?;
        let mut command = Command::new(binaries::path("vmcp-operator")?);
        command
            .args(["--leader-election", "false", "--admin-listen", "127.0.0.1:0"])
            .env("KUBECONFIG", server.kubeconfig());
        let operator = Process::start("operator", &command)?;
        Ok(Self {
            server,
            _operator: operator,
        })
    }

    fn get(&self, namespace: &str, what: &[&str]) -> anyhow::Result<Value> {
        let arguments = [&["-n", namespace, "get", "-o", "json"], what].concat();
        Ok(serde_json::from_str(&self.server.kubectl(arguments)?)?)
    }

    fn names(&self, namespace: &str, kind: &str) -> anyhow::Result<BTreeSet<String>> {
        let list = self.get(namespace, &[kind])?;
        let items = list["items"].as_array().into_iter().flatten();
        Ok(items
            .filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned))
            .collect())
    }

    /// Applies an example in a namespace of its name, first as a dry run. Unknown fields are errors.
    fn apply(&self, folder: &str) -> anyhow::Result<()> {
        self.server.kubectl(["create", "namespace", folder])?;
        let path = root()
            .join("examples")
            .join(folder)
            .to_string_lossy()
            .into_owned();
        let apply = [
            "-n",
            folder,
            "apply",
            "--server-side",
            "--validate=strict",
            "-f",
            &path,
        ];
        self.server
            .kubectl([&apply[..], &["--dry-run=server"]].concat())?;
        self.server.kubectl(apply).map(drop)
    }

    /// The names of the backends in the configuration of a virtual server, as the gateway reads it.
    fn configured_backends(&self, namespace: &str, server: &str) -> anyhow::Result<BTreeSet<String>> {
        let deployment = self.get(namespace, &["deployment", &format!("vmcp-{server}")])?;
        let pod = &deployment["spec"]["template"]["spec"];
        let containers = pod["containers"].as_array().into_iter().flatten();
        let gateway = containers
            .clone()
            .find(|container| container["name"] == "gateway");
        let gateway = gateway.context("no container gateway")?;
        let directory = tempfile::tempdir()?;
        for mount in gateway["volumeMounts"].as_array().into_iter().flatten() {
            let mut volumes = pod["volumes"].as_array().into_iter().flatten();
            let volume = volumes.find(|volume| volume["name"] == mount["name"]);
            let path = mount["mountPath"].as_str().context("no mountPath")?;
            self.write(namespace, volume.context("no volume")?, path, directory.path())?;
        }
        let arguments = gateway["args"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        let config = arguments
            .skip_while(|argument| *argument != "--config")
            .nth(1)
            .context("no --config")?;
        let output = Command::new(binaries::path("vmcp-gateway")?)
            .args(["validate", "--config"])
            .arg(below(directory.path(), config))
            .env("THV_SESSION_REDIS_PASSWORD", "change-me")
            .output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr));
        }
        let effective = GatewayConfig::parse(&String::from_utf8(output.stdout)?, Path::new("effective"))?;
        let hot = effective
            .hot
            .context("the effective configuration has no hot part")?;
        Ok(hot.backends.into_iter().map(|backend| backend.name).collect())
    }

    /// Writes the files of a volume, as a kubelet does, below `root`. Paths in them become paths below `root`.
    fn write(&self, namespace: &str, volume: &Value, mount: &str, root: &Path) -> anyhow::Result<()> {
        let own = std::slice::from_ref(volume);
        let sources = volume["projected"]["sources"]
            .as_array()
            .map_or(own, Vec::as_slice);
        for source in sources {
            let (kind, reference) = match (&source["configMap"], &source["secret"]) {
                (Value::Null, Value::Null) => continue,
                (Value::Null, secret) => ("secret", secret),
                (config_map, _) => ("configmap", config_map),
            };
            let name = reference["name"]
                .as_str()
                .or(reference["secretName"].as_str())
                .context("no name")?;
            let object = self.get(namespace, &[kind, name])?;
            let data = object["data"].as_object().context("no data")?;
            for (key, value) in data {
                let items = reference["items"].as_array();
                let item = items.map(|items| items.iter().find(|item| item["key"] == **key));
                let file = match &item {
                    None => key,
                    Some(Some(item)) => item["path"].as_str().context("no path")?,
                    Some(None) => continue,
                };
                let text = value.as_str().unwrap_or_default();
                let bytes = match kind {
                    "secret" => BASE64_STANDARD.decode(text)?,
                    _ => text
                        .replace("/etc/vmcp", &below(root, "/etc/vmcp").to_string_lossy())
                        .into_bytes(),
                };
                let path = below(root, mount).join(file);
                std::fs::create_dir_all(path.parent().context("a file is in a folder")?)?;
                std::fs::write(path, bytes)?;
            }
        }
        Ok(())
    }

    /// Checks that the gateway loads the configuration of every virtual server of an example, and that every entry is a backend of one.
    fn check(&self, folder: &str) -> anyhow::Result<()> {
        let (servers, entries) = (
            self.names(folder, "vmcp")?,
            self.names(folder, "mcpserverentries")?,
        );
        let mcp_servers = self.names(folder, "mcpservers")?;
        ensure!(
            !servers.is_empty() && (!entries.is_empty() || !mcp_servers.is_empty()),
            "{folder} has no virtual server, or neither a server nor an entry"
        );
        // No node runs their pods, so they are no backends here.
        for server in &mcp_servers {
            wait::until("every server has a Deployment", LIMIT, || {
                self.get(folder, &["deployment", &format!("mcp-{server}")])
                    .map(drop)
            })?;
        }
        wait::until("every entry is a backend", LIMIT, || {
            let mut backends = BTreeSet::new();
            for server in &servers {
                backends.extend(self.configured_backends(folder, server)?);
            }
            ensure!(
                backends == entries,
                "backends are {backends:?}, entries {entries:?}"
            );
            Ok(())
        })
    }
}

/// A path of the container below `root`.
fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

#[requires(api_server)]
#[test]
fn every_example_is_accepted_and_its_config_loads() -> anyhow::Result<()> {
    let kubernetes = Kubernetes::start()?;
    let folders = folders()?;
    let mut faults = Vec::new();
    for folder in &folders {
        let applied = kubernetes.apply(folder).and_then(|()| kubernetes.check(folder));
        if let Err(error) = applied {
            let status = kubernetes.get(folder, &["vmcp"]).unwrap_or_default();
            let conditions = status
                .pointer("/items/0/status/conditions")
                .cloned()
                .unwrap_or_default();
            faults.push(format!("{folder}: {error:#}\n{conditions}"));
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}
