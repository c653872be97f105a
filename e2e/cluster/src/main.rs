//! The cluster commands as a separate program.

use clap::Parser as _;

/// A real two-node Kubernetes on this machine, for tests and for trying vmcp.
#[derive(clap::Parser)]
enum Arguments {
    /// Build container images.
    Image(vmcp_cluster::image::Args),
    #[command(flatten)]
    Cluster(vmcp_cluster::Command),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse() {
        Arguments::Image(image) => image.run(),
        Arguments::Cluster(command) => command.run(),
    }
}
