//! What is counted of answers that their clients have not read, and how room is made where they do not read at all.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::{Account, Reservation};
use crate::budget::delivery::Delivery;

/// How long a client may take nothing before its answer is given up for others. The kernel reports a connection as writable again only when
/// a third of its send buffer is free, which takes nearly 4 s where a client reads 50 KiB/s.
const STALL: Duration = Duration::from_secs(4);
/// How long an answer waits until there is room for it.
const PATIENCE: Duration = Duration::from_secs(6);
/// How often it is looked for room meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// The part of an account that is made free at a time, so that not every answer has to wait for it.
const PART_MADE_FREE: usize = 8;

/// What is counted in one account of answers that are on their way to their clients.
#[derive(Debug)]
pub(crate) struct UnreadResponses {
    deliveries: Mutex<HashMap<usize, Delivery>>,
    bytes: AtomicUsize,
    /// Who waits for room gets it in the order of arrival.
    turn: Semaphore,
    /// How many of those who wait hold much of the account themselves.
    large_waiters: AtomicUsize,
}

impl Default for UnreadResponses {
    fn default() -> Self {
        Self {
            deliveries: Mutex::default(),
            bytes: AtomicUsize::new(0),
            turn: Semaphore::new(1),
            large_waiters: AtomicUsize::new(0),
        }
    }
}

impl UnreadResponses {
    pub(crate) fn insert(&self, delivery: &Delivery) {
        self.lock().insert(delivery.address(), delivery.clone());
    }

    pub(crate) fn remove(&self, delivery: &Delivery) {
        self.lock().remove(&delivery.address());
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
    /// As [`Self::reserve`]; where clients that do not read are in the way, they are given up, and this waits for the room.
    pub async fn reserve_or_wait(&self, bytes: usize) -> Option<Reservation> {
        let mut reservation = self.begin();
        reservation.grow_or_wait(bytes).await.then_some(reservation)
    }

    /// What is counted here of answers that are on their way.
    pub(crate) fn unread(&self) -> &UnreadResponses {
        &self.node.unread
    }

    /// Whether anything is unread that could be given up.
    fn has_unread(&self) -> bool {
        self.node.unread.bytes.load(Ordering::Relaxed) > 0
    }

    /// Whether somebody waits for room here.
    fn has_waiters(&self) -> bool {
        self.node.unread.turn.available_permits() == 0
    }

    /// Gives up those deliveries whose clients have taken nothing for the longest time, until so many bytes and some more will be free.
    fn give_up_unread(&self, bytes: usize) {
        let deliveries: Vec<_> = self.node.unread.lock().values().cloned().collect();
        // A connection takes a moment to close.
        let closing: usize = deliveries.iter().map(|delivery| delivery.closing(self)).sum();
        let mut wanted = bytes.max(self.limit() / PART_MADE_FREE).saturating_sub(closing);
        let now = Instant::now();
        let mut stalled: Vec<_> = deliveries
            .iter()
            .filter_map(|delivery| delivery.stalled(self).map(|found| (found, delivery)))
            .filter(|((since, _), _)| now.duration_since(*since) >= STALL)
            .collect();
        stalled.sort_unstable_by_key(|((since, _), _)| *since);
        for ((_, counted), delivery) in stalled {
            if wanted == 0 {
                return;
            }
            wanted = wanted.saturating_sub(counted);
            delivery.give_up();
            self.topmost().node.given_up.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Reservation {
    /// As [`Self::grow`]; where clients that do not read are in the way, they are given up, and this waits for the room.
    pub async fn grow_or_wait(&mut self, bytes: usize) -> bool {
        let account = self.account.clone();
        let has_room = match account.charge(bytes) {
            Ok(()) => true,
            Err(full) if full.has_unread() || full.has_waiters() => Box::pin(self.wait(bytes, full)).await,
            Err(_) => false,
        };
        if has_room {
            self.bytes += bytes;
        } else {
            account.refused();
        }
        has_room
    }

    /// Waits until so many bytes more are charged. `full` is the account that has no room for them.
    ///
    /// Room comes from answers that are unread, and from others that wait: of those which hold much of the account already, and which
    /// would wait for each other, all but the first give way.
    async fn wait(&self, bytes: usize, full: &Account) -> bool {
        let waiting = RoomWaiter::begin(full, self.bytes);
        let has_room = tokio::time::timeout(PATIENCE, async {
            let Some(_turn) = waiting.turn().await else {
                return false;
            };
            loop {
                let Err(full) = self.account.charge(bytes) else {
                    return true;
                };
                if !full.has_unread() && !waiting.has_other_large() {
                    return false;
                }
                full.give_up_unread(bytes);
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        has_room.await.unwrap_or(false)
    }
}

/// One that waits for room in an account.
struct RoomWaiter<'a> {
    account: &'a Account,
    is_large: bool,
}

impl<'a> RoomWaiter<'a> {
    /// `held` is what it holds already.
    fn begin(account: &'a Account, held: usize) -> Self {
        let is_large = held >= account.limit() / PART_MADE_FREE;
        let large = usize::from(is_large);
        account
            .node
            .unread
            .large_waiters
            .fetch_add(large, Ordering::Relaxed);
        Self { account, is_large }
    }

    /// Its turn to get room; `None` if it has to give way to the one whose turn it is.
    async fn turn(&self) -> Option<SemaphorePermit<'a>> {
        let mut turn = pin!(self.account.node.unread.turn.acquire());
        loop {
            tokio::select! {
                biased;
                turn = &mut turn => return turn.ok(),
                () = tokio::time::sleep(LOOK_EVERY), if self.is_large => {}
            }
            if self.is_large && !self.account.has_unread() {
                return None;
            }
        }
    }

    /// Whether others wait that hold much.
    fn has_other_large(&self) -> bool {
        let large = self.account.node.unread.large_waiters.load(Ordering::Relaxed);
        large > usize::from(self.is_large)
    }
}

impl Drop for RoomWaiter<'_> {
    fn drop(&mut self) {
        let large = usize::from(self.is_large);
        self.account
            .node
            .unread
            .large_waiters
            .fetch_sub(large, Ordering::Relaxed);
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

    /// What a connection does: it drops what is given up.
    async fn close((delivery, bytes): &mut (Delivery, Option<Bytes>)) {
        let began = Instant::now();
        while !delivery.is_given_up() {
            assert!(began.elapsed() < 2 * PATIENCE, "it is not given up");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(bytes.take());
    }

    #[tokio::test(start_paused = true)]
    async fn longest_unread_answer_is_given_up_for_the_next() {
        let account = super::super::Budget::new(4 * 100_000).backend();
        let [mut first, second, mut third] = [(); 3].map(|()| unread(&account));
        for (delivery, _) in [&first, &second, &third] {
            delivery.stalls(Instant::now(), Waker::noop());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        // This one reads again.
        second.0.moves();
        let began = Instant::now();
        let (next, ()) = tokio::join!(account.reserve_or_wait(ANSWER), close(&mut first));
        assert!(
            next.is_some() && began.elapsed() < PATIENCE,
            "{:?}",
            began.elapsed()
        );
        assert!(
            began.elapsed() + Duration::from_millis(3) >= STALL,
            "{:?}",
            began.elapsed()
        );
        assert!(!third.0.is_given_up());
        let (other, ()) = tokio::join!(account.reserve_or_wait(ANSWER), close(&mut third));
        assert!(other.is_some());
        let began = Instant::now();
        assert!(account.reserve_or_wait(ANSWER).await.is_none());
        assert_eq!(began.elapsed(), PATIENCE);
        assert!(!second.0.is_given_up());
        assert_eq!(account.topmost().node.given_up.load(Ordering::Relaxed), 2);
        drop((next, other, second));
        assert_eq!((account.reserved(), account.unread().lock().len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_where_nothing_is_unread() {
        let account = Account::root(100_000);
        let held = account.reserve(90_000).unwrap();
        let began = Instant::now();
        assert!(account.reserve_or_wait(20_000).await.is_none());
        assert_eq!(began.elapsed(), Duration::ZERO);
        drop(held);
    }

    /// Two answers that are read in part take all of the account, and nothing is unread: the second gives way to the first, and a small
    /// one gets the room that is left.
    #[tokio::test(start_paused = true)]
    async fn partly_read_answers_do_not_wait_for_each_other() {
        let account = super::super::Budget::new(4 * 100_000).backend();
        let [mut first, mut second] = [30_000; 2].map(|bytes| account.reserve(bytes).unwrap());
        let mut unread = unread(&account);
        unread.0.stalls(Instant::now(), Waker::noop());
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
            began.elapsed() < STALL + Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
        drop(small);
        assert_eq!(account.reserved(), 0);
        assert_eq!(account.node.unread.large_waiters.load(Ordering::Relaxed), 0);
    }

    /// Unread answers of several backends fill the whole budget: another backend and a request get their room all the same.
    #[tokio::test(start_paused = true)]
    async fn unread_answers_of_all_backends_give_way_to_another() {
        let budget = super::super::Budget::new(4 * ANSWER);
        let mut answers: Vec<_> = (0..4).map(|_| unread(&budget.backend())).collect();
        for (delivery, _) in &answers {
            delivery.stalls(Instant::now(), Waker::noop());
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
