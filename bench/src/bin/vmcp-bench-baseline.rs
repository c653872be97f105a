//! The baseline of the bench as a process: a bare reverse proxy to one backend.

use std::net::{Ipv4Addr, SocketAddr};

use clap::Parser;

/// Run a bare reverse proxy. Prints its address, and runs until it is killed.
#[derive(Parser)]
struct Args {
    /// Address of the backend
    #[arg(long)]
    backend: SocketAddr,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build()?.block_on(async {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("{}", listener.local_addr()?);
        vmcp_bench::baseline::run(listener, args.backend.to_string().parse()?).await
    })
}
