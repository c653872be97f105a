//! Tracks responses until their clients have read them.
//!
//! The connection needs two properties of a response, which are in the response's extensions: its deadline, and which of its bytes are
//! counted in the budget.
//!
//! Unread bytes stay in memory and in the share of the backend that sent them, where they block the backend's other responses. An account
//! therefore lists the deliveries of the bytes that it counts ([`crate::budget`]), and a delivery records since when its client has read
//! nothing. If an account has no room, the connections of the deliveries that have stalled for the longest time are closed. Clients that read
//! are so served, regardless of how many do not.
//!
//! The response to a batch has parts, one for each request. The deadline of a part applies while any of that part is unsent, and no
//! deadline closes the connection while another part has more time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::Bytes;
use tokio::time::Instant;

use crate::budget::{Account, Reservation, UNCOUNTED_BYTES};

/// A response that is being sent to its client, or a part of one. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delivery {
    shared: Arc<DeliveryState>,
    /// The part of the response. `None` for the whole response.
    part: Option<Arc<Part>>,
}

/// A part of a response. The part has been sent when this value is dropped.
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

/// The time until which a part may take to be sent.
#[derive(Clone, Copy, Debug)]
struct End {
    /// Number of the part; 0 for the whole response.
    part: u64,
    at: Instant,
    /// Whether the part must have been sent by then.
    is_deadline: bool,
}

#[derive(Debug, Default)]
struct DeliveryState {
    /// Number of its bytes that are counted in accounts.
    unread: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Number of parts that were created.
    parts: u64,
    /// The ends of the parts that have one.
    ends: Vec<End>,
    /// The counted bytes by account.
    counted: Vec<(Account, usize)>,
    /// Set while the client reads nothing.
    stalled: Option<Stalled>,
    is_given_up: bool,
}

impl State {
    /// Number of bytes that are counted in `account` and the accounts below it.
    fn counted_in(&self, account: &Account) -> usize {
        let within =
            |counted: &&(Account, usize)| counted.0.self_and_parents().any(|above| above.is_same(account));
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
    /// Creates a part with its own end, which applies until the last handle of the part is dropped.
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

    /// The whole response that this is a part of.
    fn whole(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            part: None,
        }
    }

    /// Sets `end` as the deadline, unless there is a later one.
    pub(crate) fn extend(&self, end: Instant) {
        self.set_end(end, true);
    }

    /// Allows this part to take until `end`, even if the deadlines of other parts are earlier. It is not a deadline for this part itself.
    pub(crate) fn allow_until(&self, end: Instant) {
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

    /// The time by which the response must have been sent, if it has a deadline.
    pub(crate) fn end(&self) -> Option<Instant> {
        let state = self.lock();
        let has_deadline = state.ends.iter().any(|end| end.is_deadline);
        let last = state.ends.iter().map(|end| end.at).max();
        last.filter(|_| has_deadline)
    }

    /// Counts `bytes` of this response in `account` until they have been sent. Small pieces are not counted.
    pub(crate) fn count(&self, account: &Account, bytes: Bytes) -> Bytes {
        if bytes.len() <= UNCOUNTED_BYTES {
            return bytes;
        }
        let reservation = account.overdraw(bytes.len());
        self.hold(account, bytes, Some(reservation))
    }

    /// Tracks `bytes` of this response that `account` counts already.
    pub(crate) fn track(&self, account: &Account, bytes: Bytes) -> Bytes {
        if bytes.len() <= UNCOUNTED_BYTES {
            return bytes;
        }
        self.hold(account, bytes, None)
    }

    fn hold(&self, account: &Account, bytes: Bytes, reservation: Option<Reservation>) -> Bytes {
        /// The owner of the bytes, which lives as long as a copy of them.
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
        match state.counted.iter_mut().find(|(other, _)| other.is_same(account)) {
            Some((_, counted)) => *counted += bytes,
            None => {
                state.counted.push((account.clone(), bytes));
                let whole = self.whole();
                account
                    .self_and_parents()
                    .for_each(|account| account.unread().insert(&whole));
            }
        }
        account
            .self_and_parents()
            .for_each(|account| account.unread().add(bytes));
    }

    fn release(&self, account: &Account, bytes: usize) {
        let mut state = self.lock();
        self.shared.unread.fetch_sub(bytes, Ordering::Relaxed);
        account
            .self_and_parents()
            .for_each(|account| account.unread().sub(bytes));
        let Some(index) = state.counted.iter().position(|(other, _)| other.is_same(account)) else {
            return;
        };
        if let Some((_, counted)) = state.counted.get_mut(index)
            && *counted > bytes
        {
            *counted -= bytes;
            return;
        }
        state.counted.swap_remove(index);
        for account in account.self_and_parents() {
            if state.counted_in(account) == 0 {
                account.unread().remove(self);
            }
        }
    }

    /// Whether any of its bytes are counted.
    pub(crate) fn is_counted(&self) -> bool {
        self.shared.unread.load(Ordering::Relaxed) > 0
    }

    /// Since when its client has read nothing, and the number of its bytes that are counted in `account` or below it. `None` if the client
    /// reads or no bytes are counted there.
    pub(crate) fn stalled(&self, account: &Account) -> Option<(Instant, usize)> {
        let state = self.lock();
        let stalled = state.stalled.as_ref().filter(|_| !state.is_given_up)?;
        let counted = state.counted_in(account);
        (counted > 0).then_some((stalled.since, counted))
    }

    /// Number of its bytes that are counted in `account` or below it, if its connection is being closed.
    pub(crate) fn closing_bytes(&self, account: &Account) -> usize {
        let state = self.lock();
        if state.is_given_up {
            state.counted_in(account)
        } else {
            0
        }
    }

    /// Records that its client has read nothing since `since`. [`Self::give_up`] wakes `connection`.
    pub(crate) fn mark_stalled(&self, since: Instant, connection: &Waker) {
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

    /// Records that its client reads. If the client resumes just when it is given up, the delivery continues.
    pub(crate) fn mark_moving(&self) {
        let mut state = self.lock();
        (state.stalled, state.is_given_up) = (None, false);
    }

    /// Makes its connection close, because other responses need the room.
    pub(crate) fn give_up(&self) {
        let mut state = self.lock();
        state.is_given_up = true;
        if let Some(stalled) = state.stalled.take() {
            stalled.connection.wake();
        }
    }

    /// Whether its connection must close.
    pub(crate) fn is_given_up(&self) -> bool {
        self.lock().is_given_up
    }

    /// Identifies the response among all live ones.
    pub(crate) fn id(&self) -> usize {
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
    async fn end_of_a_part_applies_until_the_part_is_sent() {
        let (whole, now) = (Delivery::default(), Instant::now());
        assert_eq!(whole.end(), None);
        let [early, late, patient] = [(); 3].map(|()| whole.part());
        patient.allow_until(now + 9 * SECOND);
        assert_eq!(whole.end(), None, "no part has a deadline");
        early.extend(now + SECOND);
        assert_eq!(whole.end(), Some(now + 9 * SECOND));
        drop(patient);
        late.extend(now + 5 * SECOND);
        assert_eq!(whole.end(), Some(now + 5 * SECOND));
        late.extend(now + 3 * SECOND);
        assert_eq!(late.end(), Some(now + 5 * SECOND));
        drop(late);
        assert_eq!(whole.end(), Some(now + SECOND));
        // Counted bytes must be sent before the part has ended.
        let account = Account::root(100_000);
        let bytes = early.count(&account, Bytes::from(vec![0; 9000]));
        drop(early);
        assert_eq!(whole.end(), Some(now + SECOND));
        drop(bytes);
        assert_eq!((whole.end(), whole.is_counted()), (None, false));
    }
}
