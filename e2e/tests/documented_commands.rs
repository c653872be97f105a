//! The commands and manifests of docs/kubernetes.md work, in their order, on a real API server with the operator. No node runs pods, so what
//! waits for pods is only checked for its object; `kubernetes/` waits on a real cluster.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use vmcp_cluster::ApiServer;
use vmcp_e2e::{binaries, wait};
use vmcp_external::process::Process;
use vmcp_external::requires;

/// Time for an API server on a busy machine to serve new kinds.
const LIMIT: Duration = Duration::from_secs(60);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The code blocks of a page that are commands or YAML, with their language, in the order of the page.
fn blocks(page: &str) -> Vec<(&str, &str)> {
    let fenced = page.split("\n```").skip(1).step_by(2);
    let blocks = fenced.filter_map(|block| block.split_once('\n'));
    blocks
        .filter(|(language, _)| ["sh", "yaml"].contains(language))
        .collect()
}

/// The block without what only a node can do.
fn without_nodes(block: &str) -> String {
    let line = |line: &str| {
        if let Some(rest) = line.strip_prefix("kubectl wait --for=condition=Ready ") {
            return format!("kubectl get {}\n", rest.split(' ').next().unwrap_or_default());
        }
        if line.starts_with("helm test ") {
            return String::new();
        }
        format!("{line}\n")
    };
    block.lines().map(line).collect()
}

/// The objects of a manifest. A manifest that begins with `spec` is a part of an MCPServerEntry, if it has a `url`, or of a VirtualMCPServer.
fn objects(manifest: &str) -> anyhow::Result<Vec<Value>> {
    let documents = serde_yaml::Deserializer::from_str(manifest);
    let mut objects = documents.map(Value::deserialize).collect::<Result<Vec<_>, _>>()?;
    for object in &mut objects {
        if object["kind"].is_null() {
            object["apiVersion"] = json!("vmcp.dev/v1alpha1");
            let is_entry = object["spec"]["url"].is_string();
            object["kind"] = json!(if is_entry {
                "MCPServerEntry"
            } else {
                "VirtualMCPServer"
            });
            object["metadata"]["name"] = json!("part");
            object["spec"]["groupRef"] = json!({"name": "tools"});
        }
    }
    Ok(objects)
}

/// A shell in a folder with the charts, the examples and a certificate, on an API server.
struct Shell {
    server: ApiServer,
    helm: PathBuf,
    directory: TempDir,
}

impl Shell {
    fn start() -> anyhow::Result<Self> {
        let (server, directory) = (ApiServer::start()?, TempDir::new()?);
        for folder in ["charts", "crds", "examples"] {
            std::os::unix::fs::symlink(root().join(folder).canonicalize()?, directory.path().join(folder))?;
        }
        let key = rcgen::KeyPair::generate()?;
        let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
        std::fs::write(directory.path().join("tls.crt"), certificate.pem())?;
        std::fs::write(directory.path().join("tls.key"), key.serialize_pem())?;
        let helm = vmcp_cluster::helm()?;
        let helm = helm.parent().context("helm is in a folder")?.to_owned();
        Ok(Self {
            server,
            helm,
            directory,
        })
    }

    fn run(&self, script: &str) -> anyhow::Result<String> {
        let home = |kind: &str| (format!("HELM_{kind}_HOME"), self.directory.path().join("helm"));
        let output = self
            .server
            .command("sh")
            .args(["-euc", &format!("PATH=\"$HELM_FOLDER:$PATH\"\n{script}")])
            .current_dir(self.directory.path())
            .env("HELM_FOLDER", &self.helm)
            .envs(["CACHE", "CONFIG", "DATA"].map(home))
            .output()?;
        if !output.status.success() {
            bail!("{script}\n{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    fn apply(&self, object: &Value) -> anyhow::Result<()> {
        std::fs::write(self.directory.path().join("object.json"), object.to_string())?;
        // An incomplete manifest shows a few fields.
        let is_part = object["metadata"]["name"] == "part";
        let dry_run = if is_part { "--dry-run=server" } else { "" };
        let options = "--server-side --force-conflicts --validate=strict";
        self.run(&format!("kubectl apply {options} {dry_run} -f object.json"))
            .map(drop)
    }
}

#[requires(api_server, helm)]
#[test]
fn commands_of_kubernetes_page_work_in_their_order() -> anyhow::Result<()> {
    let page = std::fs::read_to_string(root().join("docs/kubernetes.md"))?;
    let shell = Shell::start()?;
    let mut operator = None;
    let mut commands = 0;
    for (language, block) in blocks(&page) {
        if language == "yaml" {
            for object in objects(block)? {
                shell.apply(&object).with_context(|| block.to_owned())?;
            }
            continue;
        }
        shell.run(&without_nodes(block))?;
        commands += 1;
        if operator.is_none() {
            // The first block installs everything. Nothing runs the operator's pods, so it runs here.
            for kind in ["vmcp", "mcpgroups", "mcpservers", "mcpserverentries"] {
                wait::until("the kinds are served", LIMIT, || {
                    shell.run(&format!("kubectl get {kind}"))
                })?;
            }
            let mut command = Command::new(binaries::path("vmcp-operator")?);
            command
                .args(["--leader-election", "false", "--admin-listen", "127.0.0.1:0"])
                .env("KUBECONFIG", shell.server.kubeconfig());
            operator = Some(Process::start("operator", &command)?);
        }
    }
    ensure!(commands >= 6, "only {commands} blocks of commands");
    // The operator took what the commands said.
    wait::until("the Deployment is there", LIMIT, || {
        let deployment = shell.run("kubectl get deployment vmcp-everything -o yaml")?;
        ensure!(deployment.contains("THV_SESSION_REDIS_PASSWORD"), "{deployment}");
        shell.run("kubectl get hpa vmcp-everything")
    })?;
    Ok(())
}

#[requires(helm)]
#[test]
fn helm_commands_of_chart_readmes_work() -> anyhow::Result<()> {
    let helm = vmcp_cluster::helm()?;
    let mut commands = 0;
    for chart in ["vmcp-crds", "vmcp-operator"] {
        let readme = std::fs::read_to_string(root().join("charts").join(chart).join("README.md"))?;
        let lines = readme.lines().map(str::trim_start);
        for line in lines.filter(|line| line.starts_with("helm install ")) {
            // Nothing is installed, so that each command stands for itself.
            let script = format!(
                "{} --dry-run=client",
                line.replacen("helm", &helm.to_string_lossy(), 1)
            );
            let output = Command::new("sh")
                .args(["-euc", &script])
                .current_dir(root())
                .output()?;
            ensure!(
                output.status.success(),
                "{line}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            commands += 1;
        }
    }
    ensure!(commands >= 4, "only {commands} commands");
    Ok(())
}
