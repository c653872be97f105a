//! `cargo xtask generate`: writes the committed files that are generated from the code.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, bail};
use clap::Args;

use crate::api_reference;
use crate::cargo::{example, root};
use crate::chart_readme;
use crate::drift::drift;

/// A generated file: its path in the repository, and the function that generates its content.
type File = (&'static str, fn() -> anyhow::Result<String>);

const FILES: &[File] = &[
    ("docs/configuration.md", || Ok(vmcp_crds::config::reference())),
    ("docs/api.md", api),
    ("charts/vmcp-crds/README.md", || chart_readme::page("vmcp-crds")),
    ("charts/vmcp-operator/README.md", || {
        chart_readme::page("vmcp-operator")
    }),
    ("crds/schema/gateway-config.schema.json", config_schema),
    ("crds/yaml/vmcp.dev_mcpgroups.yaml", || crd("mcpgroups")),
    ("crds/yaml/vmcp.dev_mcpserverentries.yaml", || {
        crd("mcpserverentries")
    }),
    ("crds/yaml/vmcp.dev_mcpservers.yaml", || crd("mcpservers")),
    ("crds/yaml/vmcp.dev_virtualmcpservers.yaml", || {
        crd("virtualmcpservers")
    }),
    ("charts/vmcp-crds/files/vmcp.dev_mcpgroups.yaml", || {
        crd("mcpgroups")
    }),
    ("charts/vmcp-crds/files/vmcp.dev_mcpserverentries.yaml", || {
        crd("mcpserverentries")
    }),
    ("charts/vmcp-crds/files/vmcp.dev_mcpservers.yaml", || {
        crd("mcpservers")
    }),
    ("charts/vmcp-crds/files/vmcp.dev_virtualmcpservers.yaml", || {
        crd("virtualmcpservers")
    }),
];

/// Write the files that are generated from the code: references and schemas.
///
/// Run it after changing a type in `crds`, and commit the result with the change.
#[derive(Args)]
pub(crate) struct Generate {
    /// Write nothing; fail and show the difference if a file is not up to date
    #[arg(long)]
    check: bool,
}

impl Generate {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        if self.check { check() } else { write() }
    }
}

/// Fails if a committed file differs from the generated one.
pub(crate) fn check() -> anyhow::Result<()> {
    let mut drifted = Vec::new();
    for (path, contents) in FILES {
        let found = match fs::read_to_string(root().join(path)) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("failed to read {path}")),
        };
        let wanted = contents().with_context(|| format!("failed to generate {path}"))?;
        if let Some(difference) = drift(&found, &wanted) {
            drifted.push(format!("{path} is not up to date, {difference}"));
        }
    }
    if !drifted.is_empty() {
        bail!(
            "{}\n\nrun `cargo xtask generate` and commit the result",
            drifted.join("\n\n")
        );
    }
    Ok(())
}

fn write() -> anyhow::Result<()> {
    for (path, contents) in FILES {
        let contents = contents().with_context(|| format!("failed to generate {path}"))?;
        let file = root().join(path);
        if fs::read_to_string(&file).is_ok_and(|found| found == contents) {
            println!("unchanged {path}");
            continue;
        }
        fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))
            .with_context(|| format!("failed to write {path}"))?;
        fs::write(&file, contents).with_context(|| format!("failed to write {path}"))?;
        println!("wrote {path}");
    }
    Ok(())
}

fn config_schema() -> anyhow::Result<String> {
    let mut text = serde_json::to_string_pretty(&vmcp_crds::config::json_schema())?;
    text.push('\n');
    Ok(text)
}

/// The reference of all kinds, the one that users begin with first.
fn api() -> anyhow::Result<String> {
    let definitions = ["virtualmcpservers", "mcpgroups", "mcpservers", "mcpserverentries"]
        .into_iter()
        .map(crd)
        .collect::<anyhow::Result<Vec<_>>>()?;
    api_reference::page(&definitions)
}

/// The YAML of a custom resource definition. A separate program prints it, so that xtask does not have to compile a Kubernetes client.
fn crd(plural: &str) -> anyhow::Result<String> {
    // Built once, because each build prints a line even if everything is up to date.
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = match PROGRAM.get() {
        Some(program) => program,
        None => {
            let built = example("crds")?;
            PROGRAM.get_or_init(|| built)
        }
    };
    let file = format!("vmcp.dev_{plural}.yaml");
    let output = Command::new(program)
        .arg(&file)
        .stderr(Stdio::inherit())
        .output()
        .context("failed to run the program that prints the resource definitions")?;
    if !output.status.success() {
        bail!("the program that prints {file} failed; see the output above");
    }
    Ok(String::from_utf8(output.stdout)?)
}
