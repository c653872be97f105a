//! Prints one generated CustomResourceDefinition: `cargo run -p vmcp-crds --features k8s --example crds -- FILE`.
//!
//! This is a separate program, so that `cargo xtask` does not have to compile a Kubernetes client.

use std::process::ExitCode;

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let files = vmcp_crds::v1alpha1::yaml()?;
    let wanted = std::env::args().nth(1).unwrap_or_default();
    if let Some((_, text)) = files.iter().find(|(name, _)| *name == wanted) {
        print!("{text}");
        return Ok(ExitCode::SUCCESS);
    }
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    eprintln!("expected one of these files: {}", names.join(", "));
    Ok(ExitCode::FAILURE)
}
