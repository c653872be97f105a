//! The backend of the bench as a process: one MCP server, or many that are alike.

use std::net::Ipv4Addr;

use clap::Parser;

/// Small and fast MCP servers. It prints their addresses, one in each line, and runs until it is killed.
#[derive(Parser)]
struct Args {
    /// How many servers there are, each at a port of its own
    #[arg(long, default_value_t = 1)]
    servers: usize,
    /// How many tools each has
    #[arg(long, default_value_t = 10)]
    tools: usize,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build()?.block_on(async {
        let mut listeners = Vec::new();
        for _ in 0..args.servers {
            let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            println!("{}", listener.local_addr()?);
            listeners.push(listener);
        }
        vmcp_bench::backend::run(listeners, args.tools).await
    })
}
