//! Answers on their way to their clients.
//!
//! The connection on which an answer goes out has to know two things of it, which the answer says in its extensions: until when it must
//! have gone out, and which bytes of it are counted in the budget.
//!
//! What a client does not read stays in memory, and in the share of the backend that sent it, in the way of that backend's other answers.
//! So an account knows the deliveries of what is counted in it ([`crate::budget`]), and a delivery knows since when its client has taken
//! nothing. Where there is no room for more, the deliveries are given up that have stood still for the longest time: their connections are
//! closed. Thereby whoever reads is served, however many do not.
//!
//! The answer to a batch has parts, one for each request. The deadline of a part counts as long as any of that part has to go out, and no
//! deadline closes the whole while another part has more time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::Bytes;
use tokio::time::Instant;

use crate::budget::{Account, Reservation, UNCOUNTED_BYTES};

/// An answer on its way to its client, or a part of one. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delivery {
    shared: Arc<DeliveryState>,
    /// Which part of the answer it is, if it is one.
    part: Option<Arc<Part>>,
}

/// A part of an answer, which has gone out when this is dropped.
#[derive(Debug)]
struct Part {
    shared: Arc<DeliveryState>,
    number: u64,
}

impl Drop for Part {
    fn drop(&mut self) {
        self.shared.lock().ends.retain(|end| end.part != self.number);
    }
}

/// Until when a part may last.
#[derive(Clone, Copy, Debug)]
struct End {
    /// The number of the part; 0 for the whole.
    part: u64,
    at: Instant,
    /// Whether it must have gone out by then.
    is_deadline: bool,
}

#[derive(Debug, Default)]
struct DeliveryState {
    /// How many of its bytes are counted.
    unread: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How many parts there have been.
    parts: u64,
    /// Until when each part may last that says so.
    ends: Vec<End>,
    /// The same bytes by their accounts.
    counted: Vec<(Account, usize)>,
    /// Only while the client takes nothing.
    stalled: Option<Stalled>,
    is_given_up: bool,
}

impl State {
    /// How many bytes are counted in `account` and below it.
    fn counted_in(&self, account: &Account) -> usize {
        let within = |counted: &&(Account, usize)| counted.0.chain().any(|above| above.is(account));
        self.counted.iter().filter(within).map(|(_, bytes)| bytes).sum()
    }
}

#[derive(Debug)]
struct Stalled {
    since: Instant,
    connection: Waker,
}

impl DeliveryState {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Delivery {
    /// A part of it with an end of its own, which counts until the last handle of the part is dropped.
    pub(crate) fn part(&self) -> Self {
        let mut state = self.lock();
        state.parts = state.parts.saturating_add(1);
        let part = Part {
            shared: Arc::clone(&self.shared),
            number: state.parts,
        };
        Self {
            shared: Arc::clone(&self.shared),
            part: Some(Arc::new(part)),
        }
    }

    /// The whole of which it is a part.
    fn whole(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            part: None,
        }
    }

    /// Has it go out until `end`, unless it may last longer already.
    pub(crate) fn extend(&self, end: Instant) {
        self.set_end(end, true);
    }

    /// Lets it last until `end` where other parts have to go out earlier. It may last longer by itself.
    pub(crate) fn may_last(&self, end: Instant) {
        self.set_end(end, false);
    }

    fn set_end(&self, at: Instant, is_deadline: bool) {
        let part = self.part.as_ref().map_or(0, |part| part.number);
        let mut state = self.lock();
        match state.ends.iter_mut().find(|end| end.part == part) {
            Some(end) => {
                end.at = end.at.max(at);
                end.is_deadline |= is_deadline;
            }
            None => state.ends.push(End {
                part,
                at,
                is_deadline,
            }),
        }
    }

    /// Until when it must have gone out, if it has to.
    pub(crate) fn end(&self) -> Option<Instant> {
        let state = self.lock();
        let has_deadline = state.ends.iter().any(|end| end.is_deadline);
        let last = state.ends.iter().map(|end| end.at).max();
        last.filter(|_| has_deadline)
    }

    /// `bytes` of this answer, which are counted in `account` from now on. Few are not counted.
    pub(crate) fn count(&self, account: &Account, bytes: Bytes) -> Bytes {
        if bytes.len() <= UNCOUNTED_BYTES {
            return bytes;
        }
        let reservation = account.overdraw(bytes.len());
        self.hold(account, bytes, Some(reservation))
    }

    /// `bytes` of this answer, which are counted in `account` already.
    pub(crate) fn follow(&self, account: &Account, bytes: Bytes) -> Bytes {
        if bytes.len() <= UNCOUNTED_BYTES {
            return bytes;
        }
        self.hold(account, bytes, None)
    }

    fn hold(&self, account: &Account, bytes: Bytes, reservation: Option<Reservation>) -> Bytes {
        /// What a copy of the bytes keeps alive.
        struct Held {
            bytes: Bytes,
            delivery: Delivery,
            account: Account,
            _reservation: Option<Reservation>,
        }
        impl AsRef<[u8]> for Held {
            fn as_ref(&self) -> &[u8] {
                &self.bytes
            }
        }
        impl Drop for Held {
            fn drop(&mut self) {
                self.delivery.release(&self.account, self.bytes.len());
            }
        }
        self.add(account, bytes.len());
        Bytes::from_owner(Held {
            bytes,
            delivery: self.clone(),
            account: account.clone(),
            _reservation: reservation,
        })
    }

    fn add(&self, account: &Account, bytes: usize) {
        let mut state = self.lock();
        self.shared.unread.fetch_add(bytes, Ordering::Relaxed);
        match state.counted.iter_mut().find(|(other, _)| other.is(account)) {
            Some((_, counted)) => *counted += bytes,
            None => {
                state.counted.push((account.clone(), bytes));
                let whole = self.whole();
                account
                    .chain()
                    .for_each(|account| account.unread().insert(&whole));
            }
        }
        account.chain().for_each(|account| account.unread().add(bytes));
    }

    fn release(&self, account: &Account, bytes: usize) {
        let mut state = self.lock();
        self.shared.unread.fetch_sub(bytes, Ordering::Relaxed);
        account.chain().for_each(|account| account.unread().sub(bytes));
        let Some(index) = state.counted.iter().position(|(other, _)| other.is(account)) else {
            return;
        };
        if let Some((_, counted)) = state.counted.get_mut(index)
            && *counted > bytes
        {
            *counted -= bytes;
            return;
        }
        state.counted.swap_remove(index);
        for account in account.chain() {
            if state.counted_in(account) == 0 {
                account.unread().remove(self);
            }
        }
    }

    /// Whether any of it is counted.
    pub(crate) fn is_counted(&self) -> bool {
        self.shared.unread.load(Ordering::Relaxed) > 0
    }

    /// How many of its bytes are counted in `account` or below it, and since when its client has taken nothing; `None` while it takes something.
    pub(crate) fn stalled(&self, account: &Account) -> Option<(Instant, usize)> {
        let state = self.lock();
        let stalled = state.stalled.as_ref().filter(|_| !state.is_given_up)?;
        let counted = state.counted_in(account);
        (counted > 0).then_some((stalled.since, counted))
    }

    /// How many of its bytes are counted in `account` or below it, if it has been given up.
    pub(crate) fn closing(&self, account: &Account) -> usize {
        let state = self.lock();
        if state.is_given_up {
            state.counted_in(account)
        } else {
            0
        }
    }

    /// Says that its client has taken nothing since `since`. `connection` is woken when it is given up.
    pub(crate) fn stalls(&self, since: Instant, connection: &Waker) {
        let mut state = self.lock();
        match &mut state.stalled {
            Some(stalled) => {
                stalled.since = since;
                stalled.connection.clone_from(connection);
            }
            none => {
                *none = Some(Stalled {
                    since,
                    connection: connection.clone(),
                });
            }
        }
    }

    /// Says that its client takes something, which may be in the moment in which it is given up.
    pub(crate) fn moves(&self) {
        let mut state = self.lock();
        (state.stalled, state.is_given_up) = (None, false);
    }

    /// Has its connection closed, because others need the room.
    pub(crate) fn give_up(&self) {
        let mut state = self.lock();
        state.is_given_up = true;
        if let Some(stalled) = state.stalled.take() {
            stalled.connection.wake();
        }
    }

    /// Whether its connection is to be closed.
    pub(crate) fn is_given_up(&self) -> bool {
        self.lock().is_given_up
    }

    /// What tells it from others as long as it lives.
    pub(crate) fn address(&self) -> usize {
        Arc::as_ptr(&self.shared).addr()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn end_of_a_part_counts_until_the_part_has_gone_out() {
        let (whole, now) = (Delivery::default(), Instant::now());
        assert_eq!(whole.end(), None);
        let [early, late, patient] = [(); 3].map(|()| whole.part());
        patient.may_last(now + 9 * SECOND);
        assert_eq!(whole.end(), None, "nothing has to be over");
        early.extend(now + SECOND);
        assert_eq!(whole.end(), Some(now + 9 * SECOND));
        drop(patient);
        late.extend(now + 5 * SECOND);
        assert_eq!(whole.end(), Some(now + 5 * SECOND));
        late.extend(now + 3 * SECOND);
        assert_eq!(late.end(), Some(now + 5 * SECOND));
        drop(late);
        assert_eq!(whole.end(), Some(now + SECOND));
        // What is counted of it has to go out first.
        let account = Account::root(100_000);
        let bytes = early.count(&account, Bytes::from(vec![0; 9000]));
        drop(early);
        assert_eq!(whole.end(), Some(now + SECOND));
        drop(bytes);
        assert_eq!((whole.end(), whole.is_counted()), (None, false));
    }
}
