//! Round-robin among the tasks whose polls take long.
//!
//! The runtime polls its tasks first in, first out. A call passes that queue about five times, and each time waits for one poll of every task
//! that is ready: beside fifty clients that move large bodies, for fifty long polls. Here a connection that has moved much in its last poll
//! ([`turn`]) waits for the turn before the next one. One has the turn in each round of the runtime, so that a call waits for one long poll
//! per pass, however many there are. When nothing else is ready a round is as short as that one poll, and nobody loses anything.
//!
//! States of a task: short (polled at once), waiting (it has a [`QueueTicket`] in the queue), on turn (its ticket was granted, or there was no
//! queue). Invariant: while the queue is not empty, one [`grant_turns`] runs, and grants one ticket per round.
//!
//! A round is one of a runtime with one thread, which a pod with one core has. With more threads turns are granted faster, and other threads
//! take over what is ready meanwhile.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use pin_project_lite::pin_project;

use crate::runtime::poll_budget;

/// From how many bytes on a poll is long: more than a connection to a backend reads at a time, and less than a turn has.
const LONG_POLL_BYTES: usize = 96 * 1024;

/// A cheap-clone handle to one queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct FairQueue {
    state: Arc<Mutex<QueueState>>,
}

#[derive(Debug, Default)]
struct QueueState {
    /// Whether a task has had the turn in this round.
    is_taken: bool,
    /// One for each task that waits, of which there are not more than connections.
    waiting: VecDeque<Arc<QueueTicket>>,
}

#[derive(Debug)]
struct QueueTicket {
    is_granted: AtomicBool,
    waker: Mutex<Waker>,
}

pin_project! {
    /// A task whose long polls wait for their turn.
    #[derive(Debug)]
    pub(crate) struct Fair<F> {
        queue: FairQueue,
        ticket: Option<Arc<QueueTicket>>,
        was_long: bool,
        #[pin]
        task: F,
    }
}

impl FairQueue {
    /// `task`, which has to be spawned on the runtime as it is.
    pub(crate) fn fair<F: Future>(&self, task: F) -> Fair<F> {
        Fair {
            queue: self.clone(),
            ticket: None,
            was_long: false,
            task,
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the task that holds `ticket` has the turn. If not, it is woken when it has.
    fn has_turn(&self, ticket: &mut Option<Arc<QueueTicket>>, waker: &Waker) -> bool {
        match ticket {
            Some(granted) if granted.is_granted.load(Ordering::Acquire) => {
                *ticket = None;
                true
            }
            Some(waiting) => {
                waiting.lock().clone_from(waker);
                // It may have been granted to the waker before.
                waiting.is_granted.load(Ordering::Acquire)
            }
            None => {
                let mut state = self.lock();
                if !state.is_taken {
                    state.is_taken = true;
                    #[expect(clippy::disallowed_methods, reason = "it ends by itself when nothing waits")]
                    tokio::spawn(grant_turns(self.clone()));
                    return true;
                }
                let waiting = Arc::new(QueueTicket {
                    is_granted: AtomicBool::new(false),
                    waker: Mutex::new(waker.clone()),
                });
                state.waiting.push_back(Arc::clone(&waiting));
                *ticket = Some(waiting);
                false
            }
        }
    }
}

impl QueueTicket {
    fn lock(&self) -> MutexGuard<'_, Waker> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Grants one ticket in each round, until none is left.
async fn grant_turns(queue: FairQueue) {
    loop {
        tokio::task::yield_now().await;
        let next = {
            let mut state = queue.lock();
            let next = state.waiting.pop_front();
            state.is_taken = next.is_some();
            next
        };
        let Some(ticket) = next else { return };
        ticket.is_granted.store(true, Ordering::Release);
        ticket.lock().wake_by_ref();
    }
}

impl<F: Future> Future for Fair<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if *this.was_long && !this.queue.has_turn(this.ticket, context.waker()) {
            return Poll::Pending;
        }
        *this.ticket = None;
        poll_budget::begin();
        let outcome = this.task.poll(context);
        *this.was_long = poll_budget::moved() >= LONG_POLL_BYTES;
        outcome
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tasks end with the test")]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const LONG_TASKS: usize = 20;

    /// A short task waits for one long poll per round, however many tasks have long polls, and each of those has its turn.
    #[tokio::test]
    async fn short_task_meets_one_long_poll_per_round() {
        let queue = FairQueue::default();
        let polls: Arc<[AtomicUsize; LONG_TASKS]> = Arc::new([const { AtomicUsize::new(0) }; LONG_TASKS]);
        for number in 0..LONG_TASKS {
            let polls = Arc::clone(&polls);
            tokio::spawn(queue.fair(async move {
                loop {
                    poll_budget::count(LONG_POLL_BYTES);
                    polls[number].fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
            }));
        }
        let all = || {
            polls
                .iter()
                .map(|count| count.load(Ordering::Relaxed))
                .sum::<usize>()
        };
        // The first poll of each is not known to be long.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        let before = all();
        let rounds = LONG_TASKS * 4;
        for _ in 0..rounds {
            tokio::task::yield_now().await;
        }
        let met = all() - before;
        assert!(
            (rounds - 2..=rounds + 2).contains(&met),
            "{met} long polls in {rounds} rounds"
        );
        let fewest = polls.iter().map(|count| count.load(Ordering::Relaxed)).min();
        assert!(fewest >= Some(rounds / LONG_TASKS), "{polls:?}");
    }

    /// A task that ends while it waits does not keep the turn from the next one.
    #[tokio::test]
    async fn turn_of_an_aborted_task_goes_to_the_next() {
        let queue = FairQueue::default();
        let long = || {
            queue.fair(async {
                for _ in 0..3 {
                    poll_budget::count(LONG_POLL_BYTES);
                    tokio::task::yield_now().await;
                }
            })
        };
        let (first, aborted, last) = (tokio::spawn(long()), tokio::spawn(long()), tokio::spawn(long()));
        tokio::task::yield_now().await;
        aborted.abort();
        first.await.unwrap();
        last.await.unwrap();
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        assert!(!queue.lock().is_taken);
    }
}
