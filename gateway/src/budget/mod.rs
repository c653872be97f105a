//! The memory budget for buffered bytes, and its shares.
//!
//! Code that buffers bytes of clients or backends, who decide the size, reserves them first: request bodies, complete responses, incomplete
//! events, batches, catalogs. Bytes beyond a share are not read: the sender gets an error, and other senders are not affected. A reservation
//! ends when it is dropped, or, with [`Reservation::hold`], when the last copy of the bytes is dropped.
//!
//! The accounts form a tree. Invariant: bytes that are reserved in an account are also reserved in all of its parents.

pub(super) mod delivery;
mod memory_limit;
mod unread_responses;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use unread_responses::UnreadResponses;

/// Buffers up to this size are not counted, which makes small calls cheaper. All of them together hold little memory, because the number of
/// concurrent requests is limited.
pub const UNCOUNTED_BYTES: usize = 4 * 1024;

/// The budget if neither the configuration nor the system sets a limit.
const DEFAULT_BYTES: usize = 128 * 1024 * 1024;
/// Divisor: the part of the process's memory that the budget takes. Processing a message takes several times its size.
const PART_OF_MEMORY: usize = 4;
/// The smallest derived budget.
const MIN_BYTES: usize = 16 * 1024 * 1024;
/// Divisor: the part of the budget for the responses of one backend.
const BACKEND_PART: usize = 4;
/// Divisor: the part of the budget for all catalogs, and the part of that share for one backend's catalog.
const CATALOGS_PART: usize = 2;
/// Divisor: the part of the catalogs' share for the lists of individual sessions, and the part of that share for one backend.
const SESSION_CATALOGS_PART: usize = 2;
/// Divisor: the part of the budget for cached sessions.
const SESSIONS_PART: usize = 8;
/// Divisor: the default part of the budget for all requests.
const REQUESTS_PART: usize = 2;
/// Divisor: the part of the requests' share for one authenticated principal.
const PRINCIPAL_PART: usize = 4;

/// The budget of the process. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct Budget {
    total: Account,
    requests: Account,
    catalogs: Account,
    session_catalogs: Account,
    sessions: Account,
    /// Size of the largest allowed request, which fits into every principal's share.
    request_bytes: Arc<AtomicUsize>,
}

impl Budget {
    /// Creates a budget of `bytes`, all of which requests may take.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let total = Account::root(bytes);
        let catalogs = total.share(CATALOGS_PART);
        Self {
            requests: total.with_limit(bytes),
            session_catalogs: catalogs.share(SESSION_CATALOGS_PART),
            catalogs,
            sessions: total.share(SESSIONS_PART),
            total,
            request_bytes: Arc::default(),
        }
    }

    /// Changes the limits. Existing reservations stay. `whole` is the configured size of the budget; without it, the size is derived from the
    /// memory limit of the process. `requests` is the configured size of the requests' share.
    pub fn set(&self, whole: Option<usize>, requests: Option<usize>, largest_request: usize) {
        let derived = || derived_bytes().max(largest_request.saturating_mul(REQUESTS_PART));
        let whole = whole.unwrap_or_else(derived);
        self.total.set_limit(whole);
        self.requests
            .set_limit(requests.unwrap_or((whole / REQUESTS_PART).max(largest_request)));
        self.request_bytes.store(largest_request, Ordering::Relaxed);
    }

    /// The share for the bodies of all requests.
    #[must_use]
    pub fn requests(&self) -> &Account {
        &self.requests
    }

    /// Creates a share for the requests of one authenticated principal.
    #[must_use]
    pub fn principal(&self) -> Account {
        let largest = self.request_bytes.load(Ordering::Relaxed);
        self.requests
            .with_limit((self.requests.limit() / PRINCIPAL_PART).max(largest))
    }

    /// Creates a share for the responses of one backend.
    #[must_use]
    pub fn backend(&self) -> Account {
        self.total.share(BACKEND_PART)
    }

    /// Creates a share for the catalog of one backend.
    #[must_use]
    pub fn catalog(&self) -> Account {
        self.catalogs.share(CATALOGS_PART)
    }

    /// Creates a share for the lists that one backend returns to individual sessions, or for the views that are built from them.
    #[must_use]
    pub fn session_catalog(&self) -> Account {
        self.session_catalogs.share(SESSION_CATALOGS_PART)
    }

    /// The share for cached sessions.
    #[must_use]
    pub fn sessions(&self) -> &Account {
        &self.sessions
    }

    /// The size of the budget in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.total.limit()
    }

    /// Number of reserved bytes in all shares.
    #[must_use]
    pub fn reserved(&self) -> usize {
        self.total.reserved()
    }

    /// Number of reservations that were refused since the process started.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.total.node.refusals.load(Ordering::Relaxed)
    }

    /// Number of responses that were cut off because their clients did not read and other responses needed the room.
    #[must_use]
    pub fn given_up(&self) -> u64 {
        self.total.node.given_up.load(Ordering::Relaxed)
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(derived_bytes())
    }
}

/// The size of the budget, derived from the memory limit of the process, which does not change while it runs.
fn derived_bytes() -> usize {
    static DERIVED: OnceLock<usize> = OnceLock::new();
    *DERIVED.get_or_init(|| {
        let part = |memory: usize| (memory / PART_OF_MEMORY).max(MIN_BYTES);
        memory_limit::of_this_process().map_or(DEFAULT_BYTES, part)
    })
}

/// Largest size of the memory session store in bytes: the same part of the memory as the budget. Unlimited if the memory is unlimited.
#[must_use]
pub fn session_bytes() -> usize {
    memory_limit::of_this_process().map_or(usize::MAX, |memory| memory / PART_OF_MEMORY)
}

/// A share of the budget with its own limit. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct Account {
    node: Arc<Node>,
}

#[derive(Debug)]
struct Node {
    parent: Option<Account>,
    limit: AccountLimit,
    reserved: AtomicUsize,
    /// The part of the reserved bytes that belongs to messages which are still being read.
    growing: AtomicUsize,
    unread: UnreadResponses,
    /// Number of refused reservations. Only the root counts, for all accounts.
    refusals: AtomicU64,
    /// Number of responses that were cut off. Only the root counts, for all accounts.
    given_up: AtomicU64,
}

#[derive(Debug)]
enum AccountLimit {
    Bytes(AtomicUsize),
    /// The parent's limit divided by this number.
    Part(usize),
}

impl Account {
    /// Creates an account without a parent.
    #[must_use]
    pub fn root(bytes: usize) -> Self {
        Self::new(None, AccountLimit::Bytes(AtomicUsize::new(bytes)))
    }

    /// Creates an account below this one with the limit `bytes`.
    #[must_use]
    pub fn with_limit(&self, bytes: usize) -> Self {
        Self::new(Some(self.clone()), AccountLimit::Bytes(AtomicUsize::new(bytes)))
    }

    /// Creates an account below this one whose limit is this one's limit divided by `part`.
    #[must_use]
    pub fn share(&self, part: usize) -> Self {
        Self::new(Some(self.clone()), AccountLimit::Part(part.max(1)))
    }

    fn new(parent: Option<Self>, limit: AccountLimit) -> Self {
        Self {
            node: Arc::new(Node {
                parent,
                limit,
                reserved: AtomicUsize::new(0),
                growing: AtomicUsize::new(0),
                unread: UnreadResponses::default(),
                refusals: AtomicU64::new(0),
                given_up: AtomicU64::new(0),
            }),
        }
    }

    fn set_limit(&self, bytes: usize) {
        if let AccountLimit::Bytes(limit) = &self.node.limit {
            limit.store(bytes, Ordering::Relaxed);
        }
    }

    /// Most bytes that may be reserved here at a time.
    #[must_use]
    pub fn limit(&self) -> usize {
        match &self.node.limit {
            AccountLimit::Bytes(bytes) => bytes.load(Ordering::Relaxed),
            AccountLimit::Part(part) => self
                .node
                .parent
                .as_ref()
                .map_or(usize::MAX, |parent| parent.limit() / part),
        }
    }

    /// Number of bytes that are reserved here and in the accounts below.
    #[must_use]
    pub fn reserved(&self) -> usize {
        self.node.reserved.load(Ordering::Relaxed)
    }

    /// Creates an empty reservation, which can grow.
    #[must_use]
    pub fn begin(&self) -> Reservation {
        Reservation {
            account: self.clone(),
            bytes: 0,
            growing: 0,
        }
    }

    /// Reserves `bytes` if there is room for them here and in all parents.
    #[must_use]
    pub fn reserve(&self, bytes: usize) -> Option<Reservation> {
        let mut reservation = self.begin();
        reservation.grow(bytes).then_some(reservation)
    }

    /// Reserves `bytes` even if there is no room, because they are buffered already. Further reservations are refused until there is room
    /// again.
    #[must_use]
    pub fn overdraw(&self, bytes: usize) -> Reservation {
        let mut reservation = self.begin();
        reservation.overdraw(bytes);
        reservation
    }

    /// Whether more bytes are reserved than the limit allows.
    #[must_use]
    pub fn is_overdrawn(&self) -> bool {
        self.reserved() > self.limit()
    }

    /// Counts `bytes`, which are buffered already, while a copy of them exists. Small buffers are not counted.
    #[must_use]
    pub fn count(&self, bytes: Bytes) -> Bytes {
        if bytes.len() <= UNCOUNTED_BYTES {
            return bytes;
        }
        self.overdraw(bytes.len()).hold(bytes)
    }

    /// Whether there is another handle to the account, or bytes are reserved in it.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.node) > 1 || self.reserved() > 0
    }

    /// Charges `bytes` here and in all parents. If an account has no room, nothing is charged, and the error is that account.
    fn charge(&self, bytes: usize) -> Result<(), &Self> {
        let node = &*self.node;
        let limit = self.limit();
        let more = |reserved: usize| reserved.checked_add(bytes).filter(|sum| *sum <= limit);
        node.reserved
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .map_err(|_| self)?;
        if let Some(parent) = &node.parent {
            parent.charge(bytes).inspect_err(|_| {
                node.reserved.fetch_sub(bytes, Ordering::Relaxed);
            })?;
        }
        Ok(())
    }

    fn discharge(&self, bytes: usize) {
        for account in self.self_and_parents() {
            account.node.reserved.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Whether `other` is a handle to the same account.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.node, &other.node)
    }

    /// This account and all of its parents up to the root.
    pub(crate) fn self_and_parents(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |account| account.node.parent.as_ref())
    }

    fn root_account(&self) -> &Self {
        self.self_and_parents().last().unwrap_or(self)
    }

    fn record_refusal(&self) {
        self.root_account().node.refusals.fetch_add(1, Ordering::Relaxed);
    }
}

/// Reserved bytes of an account. They are released when this value is dropped.
#[derive(Debug)]
pub struct Reservation {
    account: Account,
    bytes: usize,
    /// The bytes that the account counts as those of a message which is still being read.
    growing: usize,
}

impl Reservation {
    /// Reserves `bytes` more and returns `true` if there is room. Otherwise nothing changes.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        if bytes == 0 {
            return true;
        }
        if self.account.charge(bytes).is_err() {
            self.account.record_refusal();
            return false;
        }
        self.bytes += bytes;
        true
    }

    /// Changes the reservation to `bytes` and returns `true` if there is room. Otherwise nothing changes.
    #[must_use]
    pub fn resize(&mut self, bytes: usize) -> bool {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.grow(more),
            None => {
                self.account.discharge(self.bytes - bytes);
                self.bytes = bytes;
                self.end_growth_above(bytes);
                true
            }
        }
    }

    /// Changes the reservation to `bytes` even if there is no room.
    pub fn overdraw(&mut self, bytes: usize) {
        let Some(more) = bytes.checked_sub(self.bytes) else {
            let _less = self.resize(bytes);
            return;
        };
        for account in self.account.self_and_parents() {
            account.node.reserved.fetch_add(more, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }

    /// Number of reserved bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The account of the reservation.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Attaches the reservation to `bytes`. It ends when the last copy of the result is dropped.
    #[must_use]
    pub fn hold(mut self, bytes: Bytes) -> Bytes {
        /// The owner of the bytes, which lives as long as a copy of them.
        struct Held {
            bytes: Bytes,
            _reservation: Reservation,
        }
        impl AsRef<[u8]> for Held {
            fn as_ref(&self) -> &[u8] {
                &self.bytes
            }
        }
        self.end_growth_above(0);
        Bytes::from_owner(Held {
            bytes,
            _reservation: self,
        })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.end_growth_above(0);
        if self.bytes > 0 {
            self.account.discharge(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservation_beyond_a_share_is_refused_and_changes_nothing() {
        let budget = Budget::new(1000);
        let (one, other) = (budget.backend(), budget.backend());
        let mut held = one.reserve(200).unwrap();
        assert!(!held.grow(51) && one.reserve(51).is_none());
        assert!(held.grow(50));
        // The share of another backend is untouched, and released bytes are available again.
        let others = other.reserve(250).unwrap();
        assert_eq!((budget.reserved(), budget.refusals()), (500, 2));
        assert!(held.resize(10) && one.reserve(240).is_some());
        drop((held, others));
        assert_eq!((one.reserved(), budget.reserved()), (0, 0));
    }

    #[test]
    fn shares_together_do_not_exceed_the_whole() {
        let budget = Budget::new(1000);
        budget.set(Some(1000), Some(900), 100);
        let backends: Vec<_> = (0..3).map(|_| budget.backend().reserve(250).unwrap()).collect();
        assert!(budget.requests().reserve(251).is_none());
        assert!(budget.requests().reserve(250).is_some());
        drop(backends);
        assert!(budget.requests().reserve(901).is_none() && budget.requests().reserve(900).is_some());
        // A smaller budget applies to further reservations.
        budget.set(Some(100), Some(900), 100);
        assert!(budget.requests().reserve(101).is_none());
    }

    /// A principal's share is a part of the requests' share, but never smaller than one request.
    #[test]
    fn share_of_a_principal_holds_at_least_one_request() {
        let budget = Budget::new(1000);
        budget.set(Some(1000), Some(800), 100);
        assert_eq!(budget.principal().limit(), 200);
        budget.set(Some(1000), Some(800), 300);
        assert_eq!(budget.principal().limit(), 300);
    }

    #[test]
    fn bytes_are_counted_until_their_last_copy_is_gone() {
        let budget = Budget::new(100_000);
        let account = budget.backend();
        let held = account.count(Bytes::from(vec![0; 5000]));
        let slice = held.slice(10..20);
        drop(held);
        assert_eq!(account.reserved(), 5000);
        drop(slice);
        assert_eq!(account.reserved(), 0);
        let small = account.count(Bytes::from(vec![0; UNCOUNTED_BYTES]));
        assert_eq!(account.reserved(), 0);
        drop(small);
        // Bytes that are buffered already count even if there is no room for them.
        let over = account.overdraw(30_000);
        assert!(account.reserve(1).is_none());
        drop(over);
        assert!(account.reserve(1).is_some());
    }
}
