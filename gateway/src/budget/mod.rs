//! The bytes that the process buffers at a time: one budget, and shares of it.
//!
//! Whatever keeps bytes that a client or a backend sent, and whose number that sender decides, reserves them first: request bodies,
//! answers that are read whole, events under assembly, gathered batches, catalogs. Beyond a share nothing is read: the sender gets an
//! error, and no other sender notices. A reservation ends when its value is dropped, or, with [`Reservation::hold`], when the last copy
//! of the bytes is.
//!
//! An account is a node of a tree. What is reserved in it is reserved in every account above it, too, or in none.

pub(super) mod delivery;
mod memory_limit;
mod unread_responses;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use unread_responses::UnreadResponses;

/// What is not larger than this is not counted: as many of these as may be buffered at a time hold little, and calls cost less.
pub const UNCOUNTED_BYTES: usize = 4 * 1024;

/// The budget where neither the configuration nor the system says how large it is.
const DEFAULT_BYTES: usize = 128 * 1024 * 1024;
/// The part of the memory that the process may use which its buffers may take: what is made of a message takes several times its bytes.
const PART_OF_MEMORY: usize = 4;
/// The smallest budget that is derived.
const LEAST_BYTES: usize = 16 * 1024 * 1024;
/// The part of the whole that one backend's answers may take, and the part of the catalogs' that one backend's may.
const BACKEND_PART: usize = 4;
/// The part of the whole that all catalogs together may take.
const CATALOGS_PART: usize = 2;
/// The part of the catalogs' share that the lists of single sessions may take, and the part of that which one backend's may, or what is
/// made of them.
const SESSION_CATALOGS_PART: usize = 2;
/// The part of the whole that sessions may take which are remembered.
const SESSIONS_PART: usize = 8;
/// The part of the whole that all requests together may take, where the configuration does not say.
const REQUESTS_PART: usize = 2;
/// The part of the requests' share that one authenticated principal may take.
const PRINCIPAL_PART: usize = 4;

/// The budget of the process. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct Budget {
    total: Account,
    requests: Account,
    catalogs: Account,
    session_catalogs: Account,
    sessions: Account,
    /// The largest request, which one principal's share must hold.
    request_bytes: Arc<AtomicUsize>,
}

impl Budget {
    /// A budget of `bytes`, all of which requests may take.
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

    /// Takes new limits. What is reserved stays reserved. `whole` is the configured size of the budget; without it, the size follows from
    /// the memory that the process may use. `requests` is the configured size of the requests' share.
    pub fn set(&self, whole: Option<usize>, requests: Option<usize>, largest_request: usize) {
        let derived = || derived_bytes().max(largest_request.saturating_mul(REQUESTS_PART));
        let whole = whole.unwrap_or_else(derived);
        self.total.set_limit(whole);
        self.requests
            .set_limit(requests.unwrap_or((whole / REQUESTS_PART).max(largest_request)));
        self.request_bytes.store(largest_request, Ordering::Relaxed);
    }

    /// The share of all requests.
    #[must_use]
    pub fn requests(&self) -> &Account {
        &self.requests
    }

    /// A share for the requests of one authenticated principal.
    #[must_use]
    pub fn principal(&self) -> Account {
        let largest = self.request_bytes.load(Ordering::Relaxed);
        self.requests
            .with_limit((self.requests.limit() / PRINCIPAL_PART).max(largest))
    }

    /// A share for the answers of one backend.
    #[must_use]
    pub fn backend(&self) -> Account {
        self.total.share(BACKEND_PART)
    }

    /// A share for the catalog of one backend.
    #[must_use]
    pub fn catalog(&self) -> Account {
        self.catalogs.share(CATALOGS_PART)
    }

    /// A share for what one backend lists to single sessions, or for what is made of that.
    #[must_use]
    pub fn session_catalog(&self) -> Account {
        self.session_catalogs.share(SESSION_CATALOGS_PART)
    }

    /// The share of the sessions that are remembered.
    #[must_use]
    pub fn sessions(&self) -> &Account {
        &self.sessions
    }

    /// The size of the budget.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.total.limit()
    }

    /// How many bytes are reserved.
    #[must_use]
    pub fn reserved(&self) -> usize {
        self.total.reserved()
    }

    /// How many reservations were refused.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.total.node.refusals.load(Ordering::Relaxed)
    }

    /// How many answers were given up because their clients did not read, and others needed the room.
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

/// The budget that follows from the memory that the process may use, which does not change while it runs.
fn derived_bytes() -> usize {
    static DERIVED: OnceLock<usize> = OnceLock::new();
    *DERIVED.get_or_init(|| {
        let part = |memory: usize| (memory / PART_OF_MEMORY).max(LEAST_BYTES);
        memory_limit::of_this_process().map_or(DEFAULT_BYTES, part)
    })
}

/// How many bytes of sessions the process may keep in its memory: as many again as it buffers, where its memory is limited.
#[must_use]
pub fn session_bytes() -> usize {
    memory_limit::of_this_process().map_or(usize::MAX, |memory| memory / PART_OF_MEMORY)
}

/// Something that has a limit of its own within the budget. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct Account {
    node: Arc<Node>,
}

#[derive(Debug)]
struct Node {
    parent: Option<Account>,
    limit: Limit,
    reserved: AtomicUsize,
    unread: UnreadResponses,
    /// Counted in the root, for all.
    refusals: AtomicU64,
    given_up: AtomicU64,
}

#[derive(Debug)]
enum Limit {
    Bytes(AtomicUsize),
    /// So-many-th part of the parent's.
    Part(usize),
}

impl Account {
    /// An account without a parent.
    #[must_use]
    pub fn root(bytes: usize) -> Self {
        Self::make(None, Limit::Bytes(AtomicUsize::new(bytes)))
    }

    /// An account below this one with a limit of its own.
    #[must_use]
    pub fn with_limit(&self, bytes: usize) -> Self {
        Self::make(Some(self.clone()), Limit::Bytes(AtomicUsize::new(bytes)))
    }

    /// An account below this one whose limit is the `part`-th part of this one's.
    #[must_use]
    pub fn share(&self, part: usize) -> Self {
        Self::make(Some(self.clone()), Limit::Part(part.max(1)))
    }

    fn make(parent: Option<Self>, limit: Limit) -> Self {
        Self {
            node: Arc::new(Node {
                parent,
                limit,
                reserved: AtomicUsize::new(0),
                unread: UnreadResponses::default(),
                refusals: AtomicU64::new(0),
                given_up: AtomicU64::new(0),
            }),
        }
    }

    fn set_limit(&self, bytes: usize) {
        if let Limit::Bytes(limit) = &self.node.limit {
            limit.store(bytes, Ordering::Relaxed);
        }
    }

    /// How many bytes may be reserved here at a time.
    #[must_use]
    pub fn limit(&self) -> usize {
        match &self.node.limit {
            Limit::Bytes(bytes) => bytes.load(Ordering::Relaxed),
            Limit::Part(part) => self
                .node
                .parent
                .as_ref()
                .map_or(usize::MAX, |parent| parent.limit() / part),
        }
    }

    /// How many bytes are reserved here and below.
    #[must_use]
    pub fn reserved(&self) -> usize {
        self.node.reserved.load(Ordering::Relaxed)
    }

    /// A reservation of nothing yet.
    #[must_use]
    pub fn begin(&self) -> Reservation {
        Reservation {
            account: self.clone(),
            bytes: 0,
        }
    }

    /// Reserves so many bytes, if there is room for them here and in every account above.
    #[must_use]
    pub fn reserve(&self, bytes: usize) -> Option<Reservation> {
        let mut reservation = self.begin();
        reservation.grow(bytes).then_some(reservation)
    }

    /// Reserves so many bytes whether or not there is room: they are there already. Others are refused until there is room again.
    #[must_use]
    pub fn overdraw(&self, bytes: usize) -> Reservation {
        let mut reservation = self.begin();
        reservation.overdraw(bytes);
        reservation
    }

    /// Whether more is reserved than there is room for.
    #[must_use]
    pub fn is_overdrawn(&self) -> bool {
        self.reserved() > self.limit()
    }

    /// `bytes`, which exist already, counted here as long as there is a copy of them. Few are not counted.
    #[must_use]
    pub fn count(&self, bytes: Bytes) -> Bytes {
        if bytes.len() <= UNCOUNTED_BYTES {
            return bytes;
        }
        self.overdraw(bytes.len()).hold(bytes)
    }

    /// Whether anybody beside the one who asks has it, or something is reserved in it.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.node) > 1 || self.reserved() > 0
    }

    /// Charges so many bytes here and in every account above, or nowhere: then the error is the account that has no room.
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
        for account in self.chain() {
            account.node.reserved.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Whether it is the same account.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.node, &other.node)
    }

    /// This account and every account above it.
    pub(crate) fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |account| account.node.parent.as_ref())
    }

    fn topmost(&self) -> &Self {
        self.chain().last().unwrap_or(self)
    }

    fn refused(&self) {
        self.topmost().node.refusals.fetch_add(1, Ordering::Relaxed);
    }
}

/// Bytes that are reserved until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    account: Account,
    bytes: usize,
}

impl Reservation {
    /// Reserves so many bytes more, if there is room. Otherwise nothing changes.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        if bytes == 0 {
            return true;
        }
        if self.account.charge(bytes).is_err() {
            self.account.refused();
            return false;
        }
        self.bytes += bytes;
        true
    }

    /// Reserves so many bytes in all, if there is room for those that are more. Otherwise nothing changes.
    #[must_use]
    pub fn resize(&mut self, bytes: usize) -> bool {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.grow(more),
            None => {
                self.account.discharge(self.bytes - bytes);
                self.bytes = bytes;
                true
            }
        }
    }

    /// Reserves so many bytes in all, whether or not there is room.
    pub fn overdraw(&mut self, bytes: usize) {
        let Some(more) = bytes.checked_sub(self.bytes) else {
            let _less = self.resize(bytes);
            return;
        };
        for account in self.account.chain() {
            account.node.reserved.fetch_add(more, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }

    /// How many bytes are reserved.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whose account it is.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// `bytes`, for which this stays reserved as long as there is a copy of them.
    #[must_use]
    pub fn hold(self, bytes: Bytes) -> Bytes {
        /// What a copy of the bytes keeps alive.
        struct Held {
            bytes: Bytes,
            _reservation: Reservation,
        }
        impl AsRef<[u8]> for Held {
            fn as_ref(&self) -> &[u8] {
                &self.bytes
            }
        }
        Bytes::from_owner(Held {
            bytes,
            _reservation: self,
        })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
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
        // The share of another is untouched, and what is given back is there again.
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
        // A budget that is made smaller holds for what comes.
        budget.set(Some(100), Some(900), 100);
        assert!(budget.requests().reserve(101).is_none());
    }

    #[test]
    fn principal_takes_a_part_of_the_requests_and_at_least_one_request() {
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
        // What is there already counts although there is no room for it.
        let over = account.overdraw(30_000);
        assert!(account.reserve(1).is_none());
        drop(over);
        assert!(account.reserve(1).is_some());
    }
}
