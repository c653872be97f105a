//! Free ports of the loopback interface.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::bail;

/// Below the ports that the system gives to outgoing connections: such a connection could take a port between our check and the bind of the
/// program that gets the port.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// An address on which no program listens now, and that this process has not returned before. Processes begin at different ports.
///
/// # Errors
/// When there is none.
pub fn free() -> anyhow::Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id().wrapping_mul(97) % u32::from(COUNT))?;
    for _ in 0..COUNT {
        let offset = (start + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST + offset));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port from {FIRST} to {} is free", FIRST + COUNT - 1)
}
