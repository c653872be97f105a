//! The unread responses of an account, and how room is made when their clients do not read.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::{Account, Reservation};
use crate::budget::delivery::Delivery;

/// How long a client may read nothing before its response is cut off for others. The kernel reports a connection as writable again only when
/// a third of its send buffer is free, which takes nearly 4 s for a client that reads 50 KiB/s.
const MAX_STALL: Duration = Duration::from_secs(4);
/// How long a reservation waits for room.
const ROOM_TIMEOUT: Duration = Duration::from_secs(6);
/// Time between two attempts while a reservation waits for room.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);
/// How long a reservation waits for messages that are still being read. Within this time, one that arrives normally is complete or waits for
/// room itself.
const GROWTH_TIMEOUT: Duration = Duration::from_millis(500);
/// Divisor: the part of an account that is freed at a time, so that not every reservation has to wait.
const FREED_PART: usize = 8;

/// The responses with bytes in one account that their clients have not read.
#[derive(Debug)]
pub(crate) struct UnreadResponses {
    deliveries: Mutex<HashMap<usize, Delivery>>,
    bytes: AtomicUsize,
    /// Serves the waiting reservations in the order of arrival.
    turn: Semaphore,
    waiters: Mutex<Waiters>,
}

/// The waiting reservations of an account.
#[derive(Debug, Default)]
struct Waiters {
    /// The number of the next one.
    next: u64,
    /// Each by the bytes that it holds already and its number. Notifying one makes it fail.
    waiting: BTreeMap<(usize, u64), Arc<Notify>>,
}

impl Default for UnreadResponses {
    fn default() -> Self {
        Self {
            deliveries: Mutex::default(),
            bytes: AtomicUsize::new(0),
            turn: Semaphore::new(1),
            waiters: Mutex::default(),
        }
    }
}

impl UnreadResponses {
    pub(crate) fn insert(&self, delivery: &Delivery) {
        self.lock().insert(delivery.id(), delivery.clone());
    }

    pub(crate) fn remove(&self, delivery: &Delivery) {
        self.lock().remove(&delivery.id());
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<usize, Delivery>> {
        self.deliveries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    /// As [`Self::reserve`]. If unread responses take the room, responses of clients that do not read are cut off, and this waits for the
    /// room.
    pub async fn reserve_or_wait(&self, bytes: usize) -> Option<Reservation> {
        let mut reservation = self.begin();
        reservation.grow_or_wait(bytes).await.then_some(reservation)
    }

    /// The unread responses with bytes in this account.
    pub(crate) fn unread(&self) -> &UnreadResponses {
        &self.node.unread
    }

    /// Whether there are unread responses, which could be cut off.
    fn has_unread(&self) -> bool {
        self.node.unread.bytes.load(Ordering::Relaxed) > 0
    }

    /// Whether messages are still being read that hold bytes here besides those of `reservation`.
    fn has_other_growing(&self, reservation: &Reservation) -> bool {
        self.node.growing.load(Ordering::Relaxed) > reservation.growing
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        let waiters = self.node.unread.waiters.lock();
        waiters.unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts off the responses whose clients have read nothing for the longest time, until at least `bytes` will be free.
    fn give_up_unread(&self, bytes: usize) {
        let deliveries: Vec<_> = self.node.unread.lock().values().cloned().collect();
        // Connections that are being closed free their bytes soon.
        let closing: usize = deliveries
            .iter()
            .map(|delivery| delivery.closing_bytes(self))
            .sum();
        let mut wanted = bytes.max(self.limit() / FREED_PART).saturating_sub(closing);
        let now = Instant::now();
        let mut stalled: Vec<_> = deliveries
            .iter()
            .filter_map(|delivery| delivery.stalled(self).map(|found| (found, delivery)))
            .filter(|((since, _), _)| now.duration_since(*since) >= MAX_STALL)
            .collect();
        stalled.sort_unstable_by_key(|((since, _), _)| *since);
        for ((_, counted), delivery) in stalled {
            if wanted == 0 {
                return;
            }
            wanted = wanted.saturating_sub(counted);
            delivery.give_up();
            self.root_account().node.given_up.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Reservation {
    /// As [`Self::grow`]. If unread responses take the room, responses of clients that do not read are cut off, and this waits for the room.
    pub async fn grow_or_wait(&mut self, bytes: usize) -> bool {
        let account = self.account.clone();
        let has_room = match account.charge(bytes) {
            Ok(()) => true,
            Err(full) if full.has_unread() || full.has_other_growing(self) => {
                Box::pin(self.wait(bytes, full)).await
            }
            Err(_) => false,
        };
        if has_room {
            self.bytes += bytes;
            self.growing += bytes;
            account
                .self_and_parents()
                .for_each(|account| _ = account.node.growing.fetch_add(bytes, Ordering::Relaxed));
        } else {
            account.record_refusal();
        }
        has_room
    }

    /// Counts at most `bytes` as those of a message that is still being read.
    pub(super) fn end_growth_above(&mut self, bytes: usize) {
        let ended = self.growing.saturating_sub(bytes);
        if ended > 0 {
            self.growing = bytes;
            let accounts = self.account.self_and_parents();
            accounts.for_each(|account| _ = account.node.growing.fetch_sub(ended, Ordering::Relaxed));
        }
    }

    /// Waits until `bytes` more are charged. `full` is the account without room for them.
    ///
    /// Unread responses free room, and so do messages that are still being read: they are complete soon, or wait for room themselves. Waiting
    /// messages would deadlock, each waiting for the others. The one that holds the most therefore fails, and a message that holds
    /// nothing never fails instead of it.
    async fn wait(&self, bytes: usize, full: &Account) -> bool {
        let waiting = RoomWaiter::begin(full, self.bytes);
        let has_room = tokio::time::timeout(ROOM_TIMEOUT, async {
            let Some(_turn) = waiting.turn().await else {
                return false;
            };
            let began = Instant::now();
            loop {
                let Err(full) = self.account.charge(bytes) else {
                    return true;
                };
                if !full.has_unread() {
                    let grows = || full.has_other_growing(self) && began.elapsed() < GROWTH_TIMEOUT;
                    if waiting.holds_most() || !(waiting.fail_largest() || grows()) {
                        return false;
                    }
                }
                full.give_up_unread(bytes);
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        });
        has_room.await.unwrap_or(false)
    }
}

/// A reservation that waits for room in an account.
struct RoomWaiter<'a> {
    account: &'a Account,
    /// The bytes that it holds already, and its number.
    key: (usize, u64),
    must_fail: Arc<Notify>,
}

impl<'a> RoomWaiter<'a> {
    fn begin(account: &'a Account, held: usize) -> Self {
        let must_fail = Arc::new(Notify::new());
        let mut waiters = account.waiters();
        let key = (held, waiters.next);
        waiters.next = waiters.next.wrapping_add(1);
        waiters.waiting.insert(key, Arc::clone(&must_fail));
        Self {
            account,
            key,
            must_fail,
        }
    }

    /// Waits for its turn to get room. `None` if it must fail so that the one with the turn can proceed.
    async fn turn(&self) -> Option<SemaphorePermit<'a>> {
        tokio::select! {
            biased;
            turn = self.account.node.unread.turn.acquire() => turn.ok(),
            () = self.must_fail.notified() => None,
        }
    }

    /// Whether others wait, and none of them holds more. Of two that hold the same, the later one counts.
    fn holds_most(&self) -> bool {
        let waiters = self.account.waiters();
        let most = waiters.waiting.last_key_value().map(|(key, _)| *key);
        self.key.0 > 0 && waiters.waiting.len() > 1 && most == Some(self.key)
    }

    /// Makes the one that holds the most fail, unless that is this one. Returns whether another one holds bytes.
    fn fail_largest(&self) -> bool {
        let waiters = self.account.waiters();
        let mut others = waiters.waiting.iter().rev().filter(|(key, _)| **key != self.key);
        let largest = others.next().filter(|((held, _), _)| *held > 0);
        if let Some((_, must_fail)) = largest {
            must_fail.notify_one();
        }
        largest.is_some()
    }
}

impl Drop for RoomWaiter<'_> {
    fn drop(&mut self) {
        self.account.waiters().waiting.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use bytes::Bytes;

    use super::*;

    const ANSWER: usize = 30_000;

    fn unread(account: &Account) -> (Delivery, Option<Bytes>) {
        let delivery = Delivery::default();
        let bytes = delivery.count(account, Bytes::from(vec![0; ANSWER]));
        (delivery, Some(bytes))
    }

    /// Drops a response that is cut off, as its connection does.
    async fn close((delivery, bytes): &mut (Delivery, Option<Bytes>)) {
        let began = Instant::now();
        while !delivery.is_given_up() {
            assert!(began.elapsed() < 2 * ROOM_TIMEOUT, "it is not cut off");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(bytes.take());
    }

    #[tokio::test(start_paused = true)]
    async fn longest_stalled_response_is_cut_off_first() {
        let account = super::super::Budget::new(4 * 100_000).backend();
        let [mut first, second, mut third] = [(); 3].map(|()| unread(&account));
        for (delivery, _) in [&first, &second, &third] {
            delivery.mark_stalled(Instant::now(), Waker::noop());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        // This client reads again.
        second.0.mark_moving();
        let began = Instant::now();
        let (next, ()) = tokio::join!(account.reserve_or_wait(ANSWER), close(&mut first));
        assert!(
            next.is_some() && began.elapsed() < ROOM_TIMEOUT,
            "{:?}",
            began.elapsed()
        );
        assert!(
            began.elapsed() + Duration::from_millis(3) >= MAX_STALL,
            "{:?}",
            began.elapsed()
        );
        assert!(!third.0.is_given_up());
        let (other, ()) = tokio::join!(account.reserve_or_wait(ANSWER), close(&mut third));
        assert!(other.is_some());
        let began = Instant::now();
        assert!(account.reserve_or_wait(ANSWER).await.is_none());
        assert_eq!(began.elapsed(), ROOM_TIMEOUT);
        assert!(!second.0.is_given_up());
        assert_eq!(account.root_account().node.given_up.load(Ordering::Relaxed), 2);
        drop((next, other, second));
        assert_eq!((account.reserved(), account.unread().lock().len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn reservation_does_not_wait_without_unread_responses() {
        let account = Account::root(100_000);
        let held = account.reserve(90_000).unwrap();
        let began = Instant::now();
        assert!(account.reserve_or_wait(20_000).await.is_none());
        assert_eq!(began.elapsed(), Duration::ZERO);
        drop(held);
    }

    /// Two partly read responses take all of the account, and nothing is unread: the second one fails so that the first can proceed, and a
    /// small one gets the remaining room.
    #[tokio::test(start_paused = true)]
    async fn partly_read_responses_do_not_deadlock() {
        let account = super::super::Budget::new(4 * 100_000).backend();
        let [mut first, mut second] = [30_000; 2].map(|bytes| account.reserve(bytes).unwrap());
        let mut unread = unread(&account);
        unread.0.mark_stalled(Instant::now(), Waker::noop());
        let began = Instant::now();
        let (first_has_room, second_has_room, small, ()) = tokio::join!(
            async {
                let has_room = first.grow_or_wait(50_000).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
                drop(first);
                has_room
            },
            async {
                let has_room = second.grow_or_wait(50_000).await;
                drop(second);
                has_room
            },
            account.reserve_or_wait(20_000),
            close(&mut unread),
        );
        assert!(first_has_room && !second_has_room && small.is_some());
        assert!(
            began.elapsed() < MAX_STALL + Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
        drop(small);
        assert_eq!(account.reserved(), 0);
        assert_eq!(account.node.growing.load(Ordering::Relaxed), 0);
        assert!(account.waiters().waiting.is_empty());
    }

    /// Messages that are being read fill the account, and nothing is unread: a message that holds nothing gets room as soon as one of them
    /// is complete, or fails because it holds the most.
    #[tokio::test(start_paused = true)]
    async fn small_message_waits_for_growing_ones() {
        let account = super::super::Budget::new(4 * 100_000).backend();
        for is_complete in [true, false] {
            let mut growing = Vec::new();
            for bytes in [30_000, 60_000] {
                growing.push(account.reserve_or_wait(bytes).await.unwrap());
            }
            let mut largest = growing.pop().unwrap();
            let (small, ()) = tokio::join!(account.reserve_or_wait(20_000), async {
                tokio::time::sleep(GROWTH_TIMEOUT / 2).await;
                assert!(is_complete || !largest.grow_or_wait(20_000).await);
                drop(largest);
            });
            assert!(small.is_some());
        }
        // Of a message that hangs nothing is known.
        let growing = account.reserve_or_wait(90_000).await.unwrap();
        let began = Instant::now();
        assert!(account.reserve_or_wait(20_000).await.is_none());
        assert!(began.elapsed() < GROWTH_TIMEOUT + 2 * RETRY_INTERVAL);
        // A complete one grows no more.
        let complete = growing.hold(Bytes::from(vec![0; 90_000]));
        let began = Instant::now();
        assert!(account.reserve_or_wait(20_000).await.is_none());
        assert_eq!(began.elapsed(), Duration::ZERO);
        drop(complete);
        assert_eq!(account.reserved(), 0);
    }

    /// Unread responses of several backends fill the whole budget: another backend and a request get room nevertheless.
    #[tokio::test(start_paused = true)]
    async fn unread_responses_of_all_backends_make_room() {
        let budget = super::super::Budget::new(4 * ANSWER);
        let mut answers: Vec<_> = (0..4).map(|_| unread(&budget.backend())).collect();
        for (delivery, _) in &answers {
            delivery.mark_stalled(Instant::now(), Waker::noop());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        let account = budget.backend();
        let mut oldest = answers.remove(0);
        let (answer, ()) = tokio::join!(account.reserve_or_wait(ANSWER), close(&mut oldest));
        assert!(answer.is_some());
        let mut oldest = answers.remove(0);
        let (request, ()) = tokio::join!(budget.requests().reserve_or_wait(ANSWER), close(&mut oldest));
        assert!(request.is_some());
        drop((answer, request, answers));
        assert_eq!((budget.reserved(), budget.total.unread().lock().len()), (0, 0));
    }
}
