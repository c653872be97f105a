//! The connections to one backend, apart for each address at which sessions are held: a connection that was made for one address must
//! not be found by a request for another.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::Uri;

use super::BackendError;
use super::ca_file::CaFile;
use crate::backend::host_addresses::HostAddresses;
use crate::backend::http_client::{ConnectionPool, HttpClient};
use crate::config::UpstreamSettings;

/// How many addresses have connections of their own. Beyond that all are let go, and those in use are made anew.
const MAX_ADDRESSES: usize = 256;

/// The connections to one backend.
#[derive(Debug)]
pub(super) struct ConnectionPools {
    transport: HttpClient,
    host: Arc<HostAddresses>,
    contact: Arc<UpstreamSettings>,
    ca_file: Option<Arc<CaFile>>,
    any: Arc<ConnectionPool>,
    held: ArcSwap<HashMap<IpAddr, Arc<ConnectionPool>>>,
}

impl ConnectionPools {
    pub(super) fn new(transport: &HttpClient, url: &Uri, contact: &Arc<UpstreamSettings>) -> Self {
        let host = Arc::new(HostAddresses::new(url, &contact.addresses));
        let ca_file = contact.ca_file.clone().map(|path| Arc::new(CaFile::new(path)));
        let any = transport.pool(contact.timeouts.connect, &host, None, ca_file.as_ref());
        Self {
            transport: transport.clone(),
            any: Arc::new(any),
            ca_file,
            contact: Arc::clone(contact),
            host,
            held: ArcSwap::default(),
        }
    }

    /// Whether they are those that `contact` asks for.
    pub(super) fn fit(&self, contact: &UpstreamSettings) -> bool {
        self.contact.timeouts.connect == contact.timeouts.connect
            && self.contact.addresses == contact.addresses
            && self.contact.ca_file == contact.ca_file
    }

    /// The connections to `address`, or to any of the host's.
    pub(super) fn pool(&self, address: Option<IpAddr>) -> Arc<ConnectionPool> {
        let Some(address) = address else {
            return Arc::clone(&self.any);
        };
        if let Some(pool) = self.held.load().get(&address) {
            return Arc::clone(pool);
        }
        let connect = self.contact.timeouts.connect;
        let ca_file = self.ca_file.as_ref();
        let pool = self.transport.pool(connect, &self.host, Some(address), ca_file);
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

    /// The addresses at which a session may be opened, as [`HostAddresses::candidates`].
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

    /// As [`HostAddresses::is_left`].
    pub(super) async fn is_left(&self, address: IpAddr, refused: bool) -> bool {
        let looking = self.host.is_left(address, refused);
        let answer = tokio::time::timeout(self.contact.timeouts.connect, looking).await;
        answer.unwrap_or(false)
    }
}
