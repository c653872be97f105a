//! The backend of the bench as a process: one or more equal MCP servers.

use std::net::Ipv4Addr;

use clap::Parser;

/// Run small and fast MCP servers. Prints their addresses, one per line, and runs until it is killed.
#[derive(Parser)]
struct Args {
    /// Number of servers, each at its own port
    #[arg(long, default_value_t = 1)]
    servers: usize,
    /// Number of tools of each server
    #[arg(long, default_value_t = 10)]
    tools: usize,
    /// Serve one server on the standard streams instead
    #[arg(long, conflicts_with = "servers")]
    stdio: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if args.stdio {
        return vmcp_bench::backend::run_stdio(args.tools);
    }
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
