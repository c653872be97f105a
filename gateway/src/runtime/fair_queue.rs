//! Round-robin scheduling of the tasks with long polls.
//!
//! The runtime polls its tasks first in, first out. A call passes that queue about five times, and each time waits for one poll of every
//! ready task. Beside fifty clients that transfer large bodies, that is fifty long polls. Here, a connection that moved many bytes in its last
//! poll ([`poll_budget`]) waits for its turn before the next one. One task has the turn in each round of the runtime, so a call waits for
//! one long poll per pass, regardless of their number. If nothing else is ready, a round is as short as that one poll, and no throughput is
//! lost.
//!
//! States of a task: short (polled at once), waiting (it has a [`QueueTicket`] in the queue), on turn (its ticket was granted, or the queue
//! was empty). Invariant: while the queue is not empty, one [`grant_turns`] task runs and grants one ticket per round.
//!
//! A round is one of a runtime with a single thread, as in a pod with one core. With more threads, turns are granted faster, and other
//! threads run the ready tasks in the meantime.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use pin_project_lite::pin_project;

use crate::runtime::poll_budget;

/// Number of bytes from which a poll counts as long. More than a connection to a backend reads at once, and less than
/// [`poll_budget::TURN_BYTES`].
const LONG_POLL_BYTES: usize = 96 * 1024;

/// A cheap-clone handle to one queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct FairQueue {
    state: Arc<Mutex<QueueState>>,
}

#[derive(Debug, Default)]
struct QueueState {
    /// Whether a task has the turn in this round.
    is_taken: bool,
    /// The waiting tasks; at most one per connection.
    waiting: VecDeque<Arc<QueueTicket>>,
}

#[derive(Debug)]
struct QueueTicket {
    is_granted: AtomicBool,
    waker: Mutex<Waker>,
}

pin_project! {
    /// A task that waits for its turn before a long poll.
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
    /// Wraps `task`. The result must be spawned on the runtime directly, not as part of another future.
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

    /// Whether the task with `ticket` has the turn. If not, its `waker` is woken when it gets the turn.
    fn has_turn(&self, ticket: &mut Option<Arc<QueueTicket>>, waker: &Waker) -> bool {
        match ticket {
            Some(granted) if granted.is_granted.load(Ordering::Acquire) => {
                *ticket = None;
                true
            }
            Some(waiting) => {
                waiting.lock().clone_from(waker);
                // The ticket may have been granted while the previous waker was registered.
                waiting.is_granted.load(Ordering::Acquire)
            }
            None => {
                let mut state = self.lock();
                if !state.is_taken {
                    state.is_taken = true;
                    #[expect(clippy::disallowed_methods, reason = "it ends when no task waits")]
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

/// Grants one ticket per round until the queue is empty.
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

    /// A short task waits for one long poll per round, regardless of the number of tasks with long polls, and all of those get turns.
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
        // The first poll of each task is not known to be long.
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

    /// A task that is aborted while it waits does not block the queue.
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
