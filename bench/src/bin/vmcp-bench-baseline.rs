//! The baseline of the bench as a process: a bare reverse proxy in front of one backend.

use std::net::{Ipv4Addr, SocketAddr};

use clap::Parser;

/// A bare reverse proxy. It prints its address, and runs until it is killed.
#[derive(Parser)]
struct Args {
    /// Where requests go
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
