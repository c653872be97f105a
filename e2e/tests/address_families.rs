//! A gateway where there are addresses of one family only: in a network namespace with IPv6 alone, and in one with IPv4 alone.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use vmcp_e2e::http_client::{self, Session};
use vmcp_e2e::{binaries, wait};
use vmcp_external::process::Process;
use vmcp_external::{hosts, requires};

/// The environment variable with the gateway's program, for this program in the namespace.
const GATEWAY: &str = "VMCP_TEST_GATEWAY";
/// The files' listeners of a pod, as the operator renders them.
const CONFIG: &str = "{version: v1, hot: {}, listeners: {mcp: '[::]:4483', admin: '[::]:9483'}}";

/// Runs `test` again in a network namespace that the shell commands `setup` prepare. There, calls `check` with the gateway's program.
fn in_network(test: &str, setup: &str, check: impl Fn(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    if let Some(gateway) = std::env::var_os(GATEWAY) {
        return check(gateway.as_ref());
    }
    let output = Command::new("unshare")
        .args(hosts::supported()?)
        .args(["--net", "sh", "-euc", &format!("{setup}; exec \"$@\""), "sh"])
        .arg(std::env::current_exe()?)
        .args(["--exact", test, "--nocapture"])
        .env(GATEWAY, binaries::path("vmcp-gateway")?)
        .output()?;
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed);
    ensure!(
        output.status.success() && printed.contains("1 passed"),
        "{}: {printed}",
        output.status
    );
    Ok(())
}

/// Starts a gateway with the listeners of a pod. A session begins and ends at each address, and the admin port answers there.
fn serves_at(gateway: &Path, addresses: &[&str]) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("gateway.yaml");
    std::fs::write(&file, CONFIG)?;
    let mut command = Command::new(gateway);
    command.arg("serve").arg("--config").arg(&file);
    let mut process = Process::start("gateway", &command)?;
    for address in addresses {
        let at = |port| Ok::<_, anyhow::Error>(SocketAddr::new(address.parse()?, port));
        let (mcp, admin) = (at(4483)?, at(9483)?);
        wait::until(&format!("ready at {admin}"), Duration::from_secs(15), || {
            let ready = http_client::get(admin, "/readyz", &[])?;
            ensure!(ready.status == 200, "{}", ready.text());
            Ok(())
        })
        .with_context(|| process.last_words())?;
        let session = Session::open(mcp)?;
        ensure!(session.names(mcp, "tools/list")?.is_empty());
        ensure!(session.delete(mcp)?.status == 200);
    }
    Ok(())
}

#[requires(hosts)]
#[test]
fn gateway_serves_where_only_ipv6_exists() -> anyhow::Result<()> {
    let setup = "ip link set lo up; ip -4 addr flush dev lo; ip -6 addr add fd00::1/128 dev lo nodad";
    in_network("gateway_serves_where_only_ipv6_exists", setup, |gateway| {
        ensure!(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).is_err());
        serves_at(gateway, &["::1", "fd00::1"])
    })
}

#[requires(hosts)]
#[test]
fn gateway_serves_where_only_ipv4_exists() -> anyhow::Result<()> {
    let setup = "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; ip link set lo up";
    in_network("gateway_serves_where_only_ipv4_exists", setup, |gateway| {
        ensure!(TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err());
        serves_at(gateway, &["127.0.0.1"])
    })
}
