//! The addresses of a backend's host.
//!
//! A host with several addresses usually means several servers with their own sessions, as with a headless Service. A session is therefore
//! pinned to the address that opened it. Over plain HTTP the address must still belong to the host, because addresses are reassigned. Over
//! TLS the server proves its name instead.
//!
//! Names are resolved for connections, not for calls. A result is fresh for a few seconds, and stays in use for a while when resolution
//! fails.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::Uri;
use hyper_util::client::legacy::connect::dns::Name;
use tokio::time::Instant;
use tower_service::Service;

/// How long a result is fresh.
const FRESH_FOR: Duration = Duration::from_secs(5);
/// How long a stale result is used when resolution fails.
const STALE_FOR: Duration = Duration::from_secs(60);
/// How long an address that failed to connect is tried last.
const AVOID_FOR: Duration = Duration::from_secs(30);

/// The host of one backend and its known addresses.
#[derive(Debug)]
pub(super) struct HostAddresses {
    name: String,
    /// Whether the host is an IP address, which needs no resolution.
    is_literal: bool,
    /// Whether the server proves its name in each connection, with TLS.
    proves_its_name: bool,
    /// The configured addresses, used instead of resolution; empty if there are none.
    configured: Arc<[IpAddr]>,
    found: ArcSwapOption<ResolvedAddresses>,
    /// When addresses last failed to connect.
    failed: Mutex<HashMap<IpAddr, Instant>>,
}

#[derive(Debug)]
struct ResolvedAddresses {
    addresses: Arc<[IpAddr]>,
    at: Instant,
}

/// The DNS resolver of a connector: returns all addresses of the host, or the pinned one.
#[derive(Clone, Debug)]
pub(super) struct Resolver {
    pub(super) host: Arc<HostAddresses>,
    pub(super) only: Option<IpAddr>,
}

impl HostAddresses {
    /// Creates the host of `url`, with the configured addresses or, without them, with resolution.
    pub(super) fn new(url: &Uri, configured: &[IpAddr]) -> Self {
        let name = url.host().unwrap_or_default();
        Self {
            name: name.to_owned(),
            is_literal: name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok(),
            proves_its_name: url.scheme() == Some(&http::uri::Scheme::HTTPS),
            configured: configured.into(),
            found: ArcSwapOption::empty(),
            failed: Mutex::default(),
        }
    }

    /// Returns the addresses for a new session, in the order to try them. The order is random, so that sessions spread, but the address
    /// family that the system prefers comes first, and addresses that recently failed to connect come last. `[None]` for a host that is
    /// an IP address.
    pub(super) async fn candidates(&self) -> io::Result<Vec<Option<IpAddr>>> {
        if self.is_literal {
            return Ok(vec![None]);
        }
        let mut addresses = self.addresses(FRESH_FOR).await?.to_vec();
        let preferred = addresses.first().is_some_and(IpAddr::is_ipv4);
        for last in (1..addresses.len()).rev() {
            let other = crate::runtime::random::u64() % (last as u64 + 1);
            addresses.swap(last, usize::try_from(other).unwrap_or_default());
        }
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let avoided = |address: &IpAddr| failed.get(address).is_some_and(|at| at.elapsed() < AVOID_FOR);
        addresses.sort_by_key(|address| (avoided(address), address.is_ipv4() != preferred));
        Ok(addresses.into_iter().map(Some).collect())
    }

    /// Records that `address` failed to connect. Returns whether its sessions must be opened elsewhere: the host has left `address`, or
    /// `address` refused the connection and the host has others.
    pub(super) async fn note_connect_failure(&self, address: IpAddr, refused: bool) -> bool {
        let Ok(addresses) = self.addresses(Duration::ZERO).await else {
            return false;
        };
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.retain(|other, at| addresses.contains(other) && at.elapsed() < AVOID_FOR);
        if !addresses.contains(&address) {
            return true;
        }
        failed.insert(address, Instant::now());
        refused && addresses.len() > 1
    }

    /// Returns the addresses, at most `age` old.
    async fn addresses(&self, age: Duration) -> io::Result<Arc<[IpAddr]>> {
        if !self.configured.is_empty() {
            return Ok(Arc::clone(&self.configured));
        }
        let known = self.found.load_full();
        if let Some(known) = known.as_ref().filter(|known| known.at.elapsed() < age) {
            return Ok(Arc::clone(&known.addresses));
        }
        let known = known.filter(|known| known.at.elapsed() < STALE_FOR);
        match (self.look_up().await, known) {
            (Ok(addresses), _) => {
                self.found.store(Some(Arc::new(ResolvedAddresses {
                    addresses: Arc::clone(&addresses),
                    at: Instant::now(),
                })));
                Ok(addresses)
            }
            (Err(error), Some(known)) => {
                tracing::warn!(host = self.name, %error, "name resolution failed; using stale addresses");
                Ok(Arc::clone(&known.addresses))
            }
            (Err(error), None) => Err(error),
        }
    }

    async fn look_up(&self) -> io::Result<Arc<[IpAddr]>> {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for found in tokio::net::lookup_host((&*self.name, 0)).await? {
            if !addresses.contains(&found.ip()) {
                addresses.push(found.ip());
            }
        }
        if addresses.is_empty() {
            return Err(io::Error::other(format!("{} has no address", self.name)));
        }
        Ok(addresses.into())
    }

    async fn for_connection(&self, only: Option<IpAddr>) -> io::Result<Vec<IpAddr>> {
        let Some(only) = only else {
            return Ok(self.addresses(FRESH_FOR).await?.to_vec());
        };
        // Another replica may have resolved the name more recently, so resolve again before refusing.
        if self.proves_its_name
            || self.addresses(FRESH_FOR).await?.contains(&only)
            || self.addresses(Duration::ZERO).await?.contains(&only)
        {
            return Ok(vec![only]);
        }
        let reason = format!("{only} is no longer an address of {}", self.name);
        Err(io::Error::other(reason))
    }
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Ignores the name, which is always the backend's host.
    fn call(&mut self, _: Name) -> Self::Future {
        let Self { host, only } = self.clone();
        Box::pin(async move {
            let addresses = host.for_connection(only).await?;
            // The connector sets the port of the URL.
            let addresses: Vec<_> = addresses.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect();
            Ok(addresses.into_iter())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    fn host(url: &str, configured: &[IpAddr]) -> HostAddresses {
        HostAddresses::new(&url.parse().unwrap(), configured)
    }

    #[tokio::test]
    async fn candidates_are_random_with_failed_addresses_last() {
        // Sessions spread over the addresses; those that failed to connect come last.
        let v6: IpAddr = "::1".parse().unwrap();
        let host = host("http://a.test/mcp", &[ip(1), v6, ip(2), ip(3)]);
        let mut first = std::collections::BTreeSet::new();
        while first.len() < 3 {
            let candidates = host.candidates().await.unwrap();
            assert_eq!(candidates[3], Some(v6));
            first.insert(candidates[0]);
        }
        assert!(host.note_connect_failure(ip(1), true).await, "there are others");
        assert!(!host.note_connect_failure(ip(3), false).await, "it may be alive");
        for _ in 0..16 {
            let candidates = host.candidates().await.unwrap();
            assert_eq!(candidates[..2], [Some(ip(2)), Some(v6)]);
        }
    }

    #[tokio::test]
    async fn refusing_address_is_left_only_with_alternatives() {
        // The only address of a host is kept when it refuses; an address that the host has left is not.
        let host = host("http://a.test/mcp", &[ip(1)]);
        assert!(!host.note_connect_failure(ip(1), true).await);
        assert!(host.note_connect_failure(ip(2), false).await);
        assert_eq!(host.for_connection(Some(ip(1))).await.unwrap(), [ip(1)]);
        let gone = host.for_connection(Some(ip(2))).await.unwrap_err();
        assert_eq!(gone.to_string(), "127.0.0.2 is no longer an address of a.test");
    }

    #[tokio::test]
    async fn tls_server_may_be_at_an_unlisted_address() {
        // A server that proves its name with TLS may be at an address that the host does not list.
        let host = host("https://a.test/mcp", &[ip(1)]);
        assert_eq!(host.for_connection(Some(ip(2))).await.unwrap(), [ip(2)]);
    }

    #[tokio::test]
    async fn host_name_is_resolved_and_ip_address_is_not() {
        let named = host("http://localhost/mcp", &[]);
        let candidates = named.candidates().await.unwrap();
        assert!(
            candidates
                .iter()
                .all(|found| found.is_some_and(|ip| ip.is_loopback()))
        );
        assert!(host("http://[::1]:80/mcp", &[]).candidates().await.unwrap() == [None]);
    }

    #[tokio::test]
    async fn stale_addresses_are_used_while_resolution_fails() {
        // The last addresses stay in use for a while when resolution fails.
        tokio::time::pause();
        let host = host("http://no-such-name.invalid/mcp", &[]);
        host.found.store(Some(Arc::new(ResolvedAddresses {
            addresses: [ip(1)].into(),
            at: Instant::now(),
        })));
        tokio::time::advance(STALE_FOR - Duration::from_secs(1)).await;
        tokio::time::resume();
        assert_eq!(host.candidates().await.unwrap(), [Some(ip(1))]);
        tokio::time::pause();
        tokio::time::advance(STALE_FOR).await;
        tokio::time::resume();
        assert!(host.candidates().await.is_err());
    }

    #[tokio::test]
    async fn stale_addresses_are_resolved_again() {
        // A result that is no longer fresh is resolved again.
        let host = host("http://localhost/mcp", &[]);
        let found = |age: Duration| {
            host.found.store(Some(Arc::new(ResolvedAddresses {
                addresses: [ip(9)].into(),
                at: Instant::now().checked_sub(age).unwrap(),
            })));
        };
        found(Duration::ZERO);
        assert_eq!(host.candidates().await.unwrap(), [Some(ip(9))]);
        found(FRESH_FOR);
        assert!(!host.candidates().await.unwrap().contains(&Some(ip(9))));
        found(Duration::ZERO);
        let listed = host.for_connection(Some(ip(9))).await.unwrap();
        assert_eq!(listed, [ip(9)], "it is one of those that are known");
        let found_elsewhere = host.for_connection(Some(ip(1))).await.unwrap();
        assert_eq!(found_elsewhere, [ip(1)], "it is looked up before it is refused");
    }

    #[tokio::test(start_paused = true)]
    async fn failed_address_recovers_after_a_while() {
        // After a while an address that failed to connect is tried like the others.
        let host = host("http://a.test/mcp", &[ip(1), ip(2)]);
        assert!(host.note_connect_failure(ip(1), true).await);
        tokio::time::advance(AVOID_FOR - Duration::from_millis(1)).await;
        for _ in 0..32 {
            assert_eq!(host.candidates().await.unwrap()[0], Some(ip(2)));
        }
        tokio::time::advance(Duration::from_millis(1)).await;
        while host.candidates().await.unwrap()[0] != Some(ip(1)) {}
    }
}
