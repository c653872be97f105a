//! The addresses of a backend's host.
//!
//! A host with several addresses is several servers, as a rule, as with a headless Service: each keeps sessions of its own. A session is
//! therefore held at the address at which it was opened, and what belongs to it goes to no other. Over plain HTTP nothing else says who
//! is at an address, and addresses are given to others: there it must be one of the host's at the moment. Over TLS the server proves
//! its name.
//!
//! Names are looked up when connections are made and not for calls, and what was found is used for a few seconds. Where the look-up
//! fails, what was found before stays in use for a while.

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

/// How long an answer is used.
const FRESH: Duration = Duration::from_secs(5);
/// How long it is used when there is no other.
const KEPT: Duration = Duration::from_secs(60);
/// How long an address that took no connection is tried after the others.
const AVOIDED: Duration = Duration::from_secs(30);

/// The host of one backend, and what is known of its addresses.
#[derive(Debug)]
pub(super) struct HostAddresses {
    name: String,
    /// It is an address itself, so that nothing is to be looked up.
    is_literal: bool,
    /// The server proves its name in every connection.
    proves_its_name: bool,
    /// What is configured in the place of what the look-up says; empty without that.
    configured: Arc<[IpAddr]>,
    found: ArcSwapOption<ResolvedAddresses>,
    /// When addresses were met that took no connection.
    silent: Mutex<HashMap<IpAddr, Instant>>,
}

#[derive(Debug)]
struct ResolvedAddresses {
    addresses: Arc<[IpAddr]>,
    at: Instant,
}

/// Gives a connector its addresses: all of the host's, or the one to which sessions are held.
#[derive(Clone, Debug)]
pub(super) struct Resolver {
    pub(super) host: Arc<HostAddresses>,
    pub(super) only: Option<IpAddr>,
}

impl HostAddresses {
    /// The host of `url`, with these addresses, or with those that are found.
    pub(super) fn new(url: &Uri, configured: &[IpAddr]) -> Self {
        let name = url.host().unwrap_or_default();
        Self {
            name: name.to_owned(),
            is_literal: name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok(),
            proves_its_name: url.scheme() == Some(&http::uri::Scheme::HTTPS),
            configured: configured.into(),
            found: ArcSwapOption::empty(),
            silent: Mutex::default(),
        }
    }

    /// The addresses at which a session may be opened, in the order in which they are to be tried. Which is the first is left to chance,
    /// so that sessions spread; but addresses of the other family (IPv6, IPv4) come after those of the one that the system prefers, and
    /// those that took no connection lately come last. `[None]` for a host that is an address itself.
    pub(super) async fn candidates(&self) -> io::Result<Vec<Option<IpAddr>>> {
        if self.is_literal {
            return Ok(vec![None]);
        }
        let mut addresses = self.addresses(FRESH).await?.to_vec();
        let preferred = addresses.first().is_some_and(IpAddr::is_ipv4);
        for last in (1..addresses.len()).rev() {
            let other = crate::runtime::random::u64() % (last as u64 + 1);
            addresses.swap(last, usize::try_from(other).unwrap_or_default());
        }
        let silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let avoided = |address: &IpAddr| silent.get(address).is_some_and(|at| at.elapsed() < AVOIDED);
        addresses.sort_by_key(|address| (avoided(address), address.is_ipv4() != preferred));
        Ok(addresses.into_iter().map(Some).collect())
    }

    /// Takes note that `address` took no connection, and says whether what belongs there is to be opened elsewhere: `address` is not one of
    /// the host's any more, or it is `refused` there while the host has others.
    pub(super) async fn is_left(&self, address: IpAddr, refused: bool) -> bool {
        let Ok(addresses) = self.addresses(Duration::ZERO).await else {
            return false;
        };
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.retain(|other, at| addresses.contains(other) && at.elapsed() < AVOIDED);
        if !addresses.contains(&address) {
            return true;
        }
        silent.insert(address, Instant::now());
        refused && addresses.len() > 1
    }

    /// The addresses, as they were at most `age` ago.
    async fn addresses(&self, age: Duration) -> io::Result<Arc<[IpAddr]>> {
        if !self.configured.is_empty() {
            return Ok(Arc::clone(&self.configured));
        }
        let known = self.found.load_full();
        if let Some(known) = known.as_ref().filter(|known| known.at.elapsed() < age) {
            return Ok(Arc::clone(&known.addresses));
        }
        let known = known.filter(|known| known.at.elapsed() < KEPT);
        match (self.look_up().await, known) {
            (Ok(addresses), _) => {
                self.found.store(Some(Arc::new(ResolvedAddresses {
                    addresses: Arc::clone(&addresses),
                    at: Instant::now(),
                })));
                Ok(addresses)
            }
            (Err(error), Some(known)) => {
                tracing::warn!(host = self.name, %error, "the addresses found before stay in use");
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
            return Ok(self.addresses(FRESH).await?.to_vec());
        };
        // What another process has found may be younger than what was found here.
        if self.proves_its_name
            || self.addresses(FRESH).await?.contains(&only)
            || self.addresses(Duration::ZERO).await?.contains(&only)
        {
            return Ok(vec![only]);
        }
        let reason = format!("{only} is no address of {} any more", self.name);
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

    /// The name is always that of the host: whatever is sent to a backend goes there.
    fn call(&mut self, _: Name) -> Self::Future {
        let Self { host, only } = self.clone();
        Box::pin(async move {
            let addresses = host.for_connection(only).await?;
            // The connector puts in the port of the URL.
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
    async fn sessions_spread_over_the_addresses_and_those_that_take_no_connection_come_last() {
        let v6: IpAddr = "::1".parse().unwrap();
        let host = host("http://a.test/mcp", &[ip(1), v6, ip(2), ip(3)]);
        let mut first = std::collections::BTreeSet::new();
        while first.len() < 3 {
            let candidates = host.candidates().await.unwrap();
            assert_eq!(candidates[3], Some(v6));
            first.insert(candidates[0]);
        }
        assert!(host.is_left(ip(1), true).await, "there are others");
        assert!(!host.is_left(ip(3), false).await, "it may be alive");
        for _ in 0..16 {
            let candidates = host.candidates().await.unwrap();
            assert_eq!(candidates[..2], [Some(ip(2)), Some(v6)]);
        }
    }

    #[tokio::test]
    async fn an_only_address_that_refuses_is_not_left_and_one_that_is_gone_is() {
        let host = host("http://a.test/mcp", &[ip(1)]);
        assert!(!host.is_left(ip(1), true).await);
        assert!(host.is_left(ip(2), false).await);
        assert_eq!(host.for_connection(Some(ip(1))).await.unwrap(), [ip(1)]);
        let gone = host.for_connection(Some(ip(2))).await.unwrap_err();
        assert_eq!(gone.to_string(), "127.0.0.2 is no address of a.test any more");
    }

    #[tokio::test]
    async fn whoever_proves_its_name_may_be_at_an_address_that_is_not_listed() {
        let host = host("https://a.test/mcp", &[ip(1)]);
        assert_eq!(host.for_connection(Some(ip(2))).await.unwrap(), [ip(2)]);
    }

    #[tokio::test]
    async fn a_name_is_looked_up_and_an_address_is_not() {
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
    async fn what_was_found_stays_in_use_for_a_while_when_nothing_is_found() {
        tokio::time::pause();
        let host = host("http://no-such-name.invalid/mcp", &[]);
        host.found.store(Some(Arc::new(ResolvedAddresses {
            addresses: [ip(1)].into(),
            at: Instant::now(),
        })));
        tokio::time::advance(KEPT - Duration::from_secs(1)).await;
        tokio::time::resume();
        assert_eq!(host.candidates().await.unwrap(), [Some(ip(1))]);
        tokio::time::pause();
        tokio::time::advance(KEPT).await;
        tokio::time::resume();
        assert!(host.candidates().await.is_err());
    }

    #[tokio::test]
    async fn what_was_found_is_looked_up_again_when_it_is_not_fresh_any_more() {
        let host = host("http://localhost/mcp", &[]);
        let found = |age: Duration| {
            host.found.store(Some(Arc::new(ResolvedAddresses {
                addresses: [ip(9)].into(),
                at: Instant::now().checked_sub(age).unwrap(),
            })));
        };
        found(Duration::ZERO);
        assert_eq!(host.candidates().await.unwrap(), [Some(ip(9))]);
        found(FRESH);
        assert!(!host.candidates().await.unwrap().contains(&Some(ip(9))));
        found(Duration::ZERO);
        let listed = host.for_connection(Some(ip(9))).await.unwrap();
        assert_eq!(listed, [ip(9)], "it is one of those that are known");
        let found_elsewhere = host.for_connection(Some(ip(1))).await.unwrap();
        assert_eq!(found_elsewhere, [ip(1)], "it is looked up before it is refused");
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_took_no_connection_is_one_like_the_others_after_a_while() {
        let host = host("http://a.test/mcp", &[ip(1), ip(2)]);
        assert!(host.is_left(ip(1), true).await);
        tokio::time::advance(AVOIDED - Duration::from_millis(1)).await;
        for _ in 0..32 {
            assert_eq!(host.candidates().await.unwrap()[0], Some(ip(2)));
        }
        tokio::time::advance(Duration::from_millis(1)).await;
        while host.candidates().await.unwrap()[0] != Some(ip(1)) {}
    }
}
