//! `cargo xtask demo`: demonstrations of the gateway.

mod outages;
mod servers;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use clap::{Parser, Subcommand};
use vmcp_e2e::ports;

/// One endpoint over two third-party MCP servers, on your machine, until you press Ctrl-C.
#[derive(Parser)]
#[command(name = "cargo xtask demo --", version)]
struct Args {
    /// The port of the endpoint; 4483, or a free one when that is taken
    #[arg(long)]
    port: Option<u16>,
    #[command(subcommand)]
    story: Option<Story>,
}

#[derive(Subcommand)]
enum Story {
    /// Conversations over three replicas and a real Redis, which are killed one after the other
    Outages {
        /// How long to show each outage, in seconds
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match args.story {
        None => servers::show(address(args.port)?),
        Some(Story::Outages { seconds }) => outages::show(seconds),
    }
}

/// The address for the endpoint: the port that was asked for, the usual one, or a free one.
fn address(port: Option<u16>) -> anyhow::Result<SocketAddr> {
    if let Some(port) = port {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    let usual: SocketAddr = (Ipv4Addr::LOCALHOST, 4483).into();
    if TcpListener::bind(usual).is_ok() {
        Ok(usual)
    } else {
        ports::free()
    }
}
