//! The connection pools of one backend, one per address with sessions. A request for one address must not use a connection to another.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::Uri;

use super::BackendError;
use super::tls_files::TlsFiles;
use crate::backend::host_addresses::HostAddresses;
use crate::backend::http_client::{ConnectionPool, HttpClient};
use crate::config::UpstreamSettings;

/// The most addresses with a pool of their own. Beyond that all pools are dropped, and those in use are created again.
const MAX_ADDRESSES: usize = 256;

/// The connection pools of one backend.
#[derive(Debug)]
pub(super) struct ConnectionPools {
    http_client: HttpClient,
    host: Arc<HostAddresses>,
    contact: Arc<UpstreamSettings>,
    tls_files: Option<Arc<TlsFiles>>,
    any: Arc<ConnectionPool>,
    held: ArcSwap<HashMap<IpAddr, Arc<ConnectionPool>>>,
}

impl ConnectionPools {
    pub(super) fn new(http_client: &HttpClient, url: &Uri, contact: &Arc<UpstreamSettings>) -> Self {
        let host = Arc::new(HostAddresses::new(url, &contact.addresses));
        let tls_files = TlsFiles::new(&contact.tls).map(Arc::new);
        let any = http_client.pool(contact.timeouts.connect, &host, None, tls_files.as_ref());
        Self {
            http_client: http_client.clone(),
            any: Arc::new(any),
            tls_files,
            contact: Arc::clone(contact),
            host,
            held: ArcSwap::default(),
        }
    }

    /// Whether the pools match the settings in `contact`.
    pub(super) fn is_valid_for(&self, contact: &UpstreamSettings) -> bool {
        self.contact.timeouts.connect == contact.timeouts.connect
            && self.contact.addresses == contact.addresses
            && self.contact.tls == contact.tls
    }

    /// Returns the pool for `address`, or the pool for any address of the host.
    pub(super) fn pool(&self, address: Option<IpAddr>) -> Arc<ConnectionPool> {
        let Some(address) = address else {
            return Arc::clone(&self.any);
        };
        if let Some(pool) = self.held.load().get(&address) {
            return Arc::clone(pool);
        }
        let connect = self.contact.timeouts.connect;
        let tls_files = self.tls_files.as_ref();
        let pool = self
            .http_client
            .pool(connect, &self.host, Some(address), tls_files);
        let pool = Arc::new(pool);
        self.held.rcu(|held| {
            let mut held = HashMap::clone(held);
            if held.len() >= MAX_ADDRESSES {
                held.clear();
            }
            held.entry(address).or_insert_with(|| Arc::clone(&pool));
            held
        });
        pool
    }

    /// Returns [`HostAddresses::candidates`], at most after the connect timeout.
    pub(super) async fn candidates(&self) -> Result<Vec<Option<IpAddr>>, BackendError> {
        let limit = self.contact.timeouts.connect;
        match tokio::time::timeout(limit, self.host.candidates()).await {
            Ok(Ok(candidates)) => Ok(candidates),
            Ok(Err(error)) => Err(BackendError::Unreachable(error.to_string())),
            Err(_) => {
                let seconds = limit.as_secs_f32();
                let message = format!("its host's name could not be looked up within {seconds} s");
                Err(BackendError::Unreachable(message))
            }
        }
    }

    /// Calls [`HostAddresses::note_connect_failure`], for at most the connect timeout.
    pub(super) async fn note_connect_failure(&self, address: IpAddr, refused: bool) -> bool {
        let resolving = self.host.note_connect_failure(address, refused);
        let should_leave = tokio::time::timeout(self.contact.timeouts.connect, resolving).await;
        should_leave.unwrap_or(false)
    }
}
