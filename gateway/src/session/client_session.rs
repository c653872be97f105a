//! One live client session, as the components of the session layer hand it to each other.

use std::sync::Arc;

use arc_swap::Guard;
use vmcp_crds::session_key::SessionKey;

use super::cache::cache_entry::CacheEntry;
use super::record::{Record, RecordKey};
use crate::config::ServerName;
use crate::session::id::session_bound_token::TokenSigner;

/// A live client session. A cheap-clone handle. While there is one, the cache does not evict the session.
#[derive(Clone, Debug)]
pub(super) struct ClientSession {
    pub(super) key: RecordKey,
    /// The key that signed the session's id. It also signs the tokens that the client gets.
    pub(super) signer: Arc<SessionKey>,
    /// The cache entry, shared by all requests of the session, so that each sees the changes of the others.
    pub(super) entry: Arc<CacheEntry>,
}

impl ClientSession {
    /// The cached record.
    pub(super) fn record(&self) -> Guard<Arc<Record>> {
        self.entry.record()
    }

    /// The signer of the tokens that the client gets from `server`.
    pub(super) fn token_signer<'a>(&'a self, server: &'a ServerName) -> TokenSigner<'a> {
        TokenSigner {
            key: &self.signer,
            server,
            session: &self.key,
        }
    }
}
