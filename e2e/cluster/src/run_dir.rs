//! The folder of one cluster: its configuration, data and logs.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::certificates::{ADMIN, Authority, Identity};
use crate::hex::short;
use crate::{kubeconfig, machine};

/// The URL of the API server in the cluster's network.
const API_SERVER: &str = "https://10.243.0.1:6443";

const SCRIPTS: [(&str, &str); 5] = [
    ("tree.sh", include_str!("../scripts/tree.sh")),
    ("clean.sh", CLEAN),
    ("lib.sh", include_str!("../scripts/lib.sh")),
    ("control-plane.sh", include_str!("../scripts/control-plane.sh")),
    ("node.sh", include_str!("../scripts/node.sh")),
];

/// The script that removes the remains of a cluster outside its namespaces.
pub(crate) const CLEAN: &str = include_str!("../scripts/clean.sh");

const NODE_FILES: [(&str, &str); 3] = [
    ("containerd.toml", include_str!("../config/containerd.toml")),
    ("kubelet.yaml", include_str!("../config/kubelet.yaml")),
    ("cni/pods.conflist", include_str!("../config/cni.conflist")),
];

/// The folder of one cluster.
#[derive(Clone, Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
}

impl RunDir {
    pub(crate) fn at(path: &Path) -> anyhow::Result<Self> {
        let path = std::path::absolute(path).with_context(|| format!("cannot resolve {}", path.display()))?;
        // The tree mounts tmpfs over these folders and would not see the files. The scripts split lists at white space.
        let hidden = ["/run", "/var/lib", "/var/log", "/proc", "/sys"]
            .iter()
            .any(|dir| path.starts_with(dir));
        if hidden || path.as_os_str().as_bytes().iter().any(u8::is_ascii_whitespace) {
            bail!(
                "a cluster cannot run in {}: choose a folder outside /run, /var/lib and /var/log, and without spaces in its path",
                path.display()
            );
        }
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn script(&self, name: &str) -> PathBuf {
        self.path.join("scripts").join(name)
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.path.join("kubeconfig")
    }

    /// The name of the cluster's control group, which is unique on the machine.
    pub(crate) fn control_group(&self) -> String {
        format!("vmcp-{}", short([self.path.as_os_str().as_bytes()]))
    }

    /// The numbers of the nodes, according to their folders.
    pub(crate) fn nodes(&self) -> Vec<u8> {
        (1..=9)
            .filter(|n| self.path.join(format!("node{n}")).is_dir())
            .collect()
    }

    /// Writes the files that the scripts and programs read.
    pub(crate) fn fill(&self, nodes: u8) -> anyhow::Result<()> {
        for dir in ["scripts", "logs", "kubeconfigs", "etcd"] {
            let dir = self.path.join(dir);
            fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        for (name, text) in SCRIPTS {
            fs::write(self.script(name), text)?;
        }
        fs::write(self.path.join("resolv.conf"), "")?;
        fs::write(
            self.path.join("kube-proxy.yaml"),
            self.render(include_str!("../config/kube-proxy.yaml"), 0)?,
        )?;
        for n in 1..=nodes {
            let node = self.path.join(format!("node{n}"));
            fs::create_dir_all(node.join("cni"))?;
            fs::create_dir_all(node.join("data"))?;
            for (name, template) in NODE_FILES {
                fs::write(node.join(name), self.render(template, n)?)?;
            }
        }
        self.identities(nodes)
    }

    fn identities(&self, nodes: u8) -> anyhow::Result<()> {
        let pki = self.path.join("pki");
        let authority = Authority::create(&pki)?;
        let addresses = ["127.0.0.1", "10.243.0.1", "10.96.0.1"]
            .map(str::parse)
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
        authority.api_server(&addresses)?;
        authority.client(&ADMIN)?;
        kubeconfig::write(&self.kubeconfig(), API_SERVER, &pki, ADMIN.file)?;
        for name in ["kube-controller-manager", "kube-scheduler", "kube-proxy"] {
            let user = format!("system:{name}");
            authority.client(&Identity {
                file: name,
                user: &user,
                group: None,
            })?;
            kubeconfig::write(&self.path.join("kubeconfigs").join(name), API_SERVER, &pki, name)?;
        }
        for n in 1..=nodes {
            let (file, user) = (format!("node{n}"), format!("system:node:node{n}"));
            authority.client(&Identity {
                file: &file,
                user: &user,
                group: Some("system:nodes"),
            })?;
            kubeconfig::write(
                &self.path.join("kubeconfigs").join(&file),
                API_SERVER,
                &pki,
                &file,
            )?;
        }
        Ok(())
    }

    fn render(&self, template: &str, n: u8) -> anyhow::Result<String> {
        let run = self
            .path
            .to_str()
            .context("the path of the cluster's folder is not UTF-8")?;
        Ok(template
            .replace("@NODE@", &format!("{run}/node{n}"))
            .replace("@RUN@", run)
            .replace("@N@", &n.to_string())
            .replace("@CGROUP@", &self.control_group())
            .replace("@CNI@", machine::CNI))
    }
}
