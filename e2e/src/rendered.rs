//! A gateway started from the objects that the operator renders, as a kubelet would: with the files of the pod's volumes, and the environment
//! and arguments of its container.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{Container, PodSpec, ProjectedVolumeSource, Volume};
use tempfile::TempDir;
use vmcp_crds::config::Listeners;
use vmcp_crds::session_key::{CURRENT, SessionKey};
use vmcp_crds::v1alpha1::VirtualMCPServer;
use vmcp_operator::desired::{Backend, Children, Inputs, MCP_PORT, children, config_files, names};

use crate::gateway::Gateway;
use crate::{binaries, ports};

/// Secrets and ConfigMaps of users by name, each with its entries.
pub type Secrets = BTreeMap<String, BTreeMap<String, String>>;

/// Renders `server` and starts a gateway by what was rendered.
///
/// # Errors
/// When the server cannot be rendered, or the objects name something that is not there.
pub fn start(
    server: &VirtualMCPServer,
    backends: &[Backend],
    mut secrets: Secrets,
) -> anyhow::Result<Gateway> {
    let files = config_files(server, backends)?;
    let mut secret_files = server.spec.secret_files();
    secret_files.extend(backends.iter().flat_map(|backend| backend.secret_files.clone()));
    let inputs = Inputs {
        files: &files,
        default_image: "vmcp.dev/gateway:dev",
        password_mac: Some("mac"),
        secret_files: &secret_files,
        has_fixed_user: true,
        expected_replicas: 1,
        ignores_replicas: false,
    };
    let children = children(server, &inputs);
    let key = BTreeMap::from([(CURRENT.to_owned(), SessionKey::generate()?.to_text())]);
    secrets.insert(names::session_keys(server), key);

    let template = &children.deployment.spec.template;
    let pod = template.spec.as_ref().context("the Deployment has no pod")?;
    let container = pod
        .containers
        .iter()
        .find(|container| container.name == "gateway");
    let container = container.context("the pod has no container named gateway")?;

    let root = TempDir::new()?;
    let listeners = Listeners {
        mcp: ports::free()?,
        admin: ports::free()?,
        ..Listeners::default()
    };
    mount(pod, container, &children, &secrets, root.path(), &listeners)?;
    let mut command = Command::new(binaries::path("vmcp-gateway")?);
    for argument in container.args.iter().flatten() {
        // A path of the container is a path below our root.
        let below = || root.path().join(argument.trim_start_matches('/'));
        command.arg(if argument.starts_with('/') {
            below()
        } else {
            PathBuf::from(argument)
        });
    }
    for variable in container.env.iter().flatten() {
        let source = variable
            .value_from
            .as_ref()
            .and_then(|source| source.secret_key_ref.as_ref());
        if let Some(reference) = source {
            command.env(&variable.name, secret(&secrets, &reference.name, &reference.key)?);
        }
    }
    Gateway::launch(&command, &listeners, root)
}

/// Writes the files of every volume below `root`. Paths and ports inside them become ours.
fn mount(
    pod: &PodSpec,
    container: &Container,
    children: &Children,
    secrets: &Secrets,
    root: &Path,
    listeners: &Listeners,
) -> anyhow::Result<()> {
    for mount in container.volume_mounts.iter().flatten() {
        let volume = pod
            .volumes
            .iter()
            .flatten()
            .find(|volume| volume.name == mount.name);
        let volume = volume.with_context(|| format!("there is no volume {}", mount.name))?;
        let directory = root.join(mount.mount_path.trim_start_matches('/'));
        std::fs::create_dir_all(&directory)?;
        for (name, text) in entries(volume, children, secrets)? {
            let mut text = text.replace("/etc/vmcp", &root.join("etc/vmcp").to_string_lossy());
            text = text.replace(&format!("[::]:{MCP_PORT}"), &listeners.mcp.to_string());
            text = text.replace("[::]:9483", &listeners.admin.to_string());
            let file = directory.join(name);
            std::fs::create_dir_all(file.parent().unwrap_or(&directory))?;
            std::fs::write(file, text)?;
        }
    }
    Ok(())
}

fn entries(
    volume: &Volume,
    children: &Children,
    secrets: &Secrets,
) -> anyhow::Result<BTreeMap<String, String>> {
    if let Some(source) = &volume.config_map {
        return config_map(children, &source.name)
            .with_context(|| format!("no ConfigMap {} is rendered", source.name));
    }
    if let Some(projected) = &volume.projected {
        return projected_entries(projected, children, secrets);
    }
    let source = volume
        .secret
        .as_ref()
        .with_context(|| format!("what is volume {}?", volume.name))?;
    let name = source.secret_name.as_deref().unwrap_or_default();
    secrets
        .get(name)
        .cloned()
        .with_context(|| format!("there is no Secret {name}"))
}

/// The entries of a ConfigMap among `children`.
fn config_map(children: &Children, name: &str) -> Option<BTreeMap<String, String>> {
    let mut all = children.hot.iter().chain([&children.startup]);
    let found = all.find(|config_map| config_map.metadata.name.as_deref() == Some(name))?;
    Some(found.data.clone().unwrap_or_default())
}

/// The values by the path of their file.
fn projected_entries(
    projected: &ProjectedVolumeSource,
    children: &Children,
    secrets: &Secrets,
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut entries = BTreeMap::new();
    for source in projected.sources.iter().flatten() {
        let (name, items) = match (&source.secret, &source.config_map) {
            (Some(source), _) => (&source.name, &source.items),
            (None, Some(source)) => (&source.name, &source.items),
            (None, None) => bail!("the source is neither a Secret nor a ConfigMap: {source:?}"),
        };
        // Without items it is a part of the hot configuration. Those that may come are optional.
        let Some(items) = items else {
            entries.extend(config_map(children, name).unwrap_or_default());
            continue;
        };
        for item in items {
            let value = secret(secrets, name, &item.key)?;
            entries.insert(item.path.clone(), value.to_owned());
        }
    }
    Ok(entries)
}

fn secret<'a>(secrets: &'a Secrets, name: &str, key: &str) -> anyhow::Result<&'a str> {
    let value = secrets.get(name).and_then(|entries| entries.get(key));
    value
        .map(String::as_str)
        .with_context(|| format!("the Secret {name} has no entry {key}"))
}
