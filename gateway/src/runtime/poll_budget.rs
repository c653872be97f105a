//! How many bytes a task moves before it is the turn of others.
//!
//! The runtime lets a poll of a task make 128 operations, and an operation may move one byte or a megabyte: a client that reads, or sends, as
//! fast as it can would keep the thread for many milliseconds. So connections count what they move in each poll, whatever it belongs to.
//!
//! The count belongs to the poll that runs on this thread. It is no clock, because reading one twice for each poll costs 3 % of a small call.

use std::cell::Cell;
use std::task::{Context, Poll};

use tokio::task::coop;

/// How many bytes a poll of a connection moves, roughly.
pub(crate) const TURN_BYTES: usize = 128 * 1024;

thread_local! {
    static MOVED_BYTES: Cell<usize> = const { Cell::new(0) };
}

/// A poll begins.
pub(crate) fn begin() {
    MOVED_BYTES.set(0);
}

/// Counts `bytes` that were moved in this poll.
pub(crate) fn count(bytes: usize) {
    MOVED_BYTES.set(moved().saturating_add(bytes));
}

/// How many bytes this poll has moved.
pub(crate) fn moved() -> usize {
    MOVED_BYTES.get()
}

/// Whether the task may move more in this poll, and has operations left: a connection that the runtime keeps from writing would look like one
/// whose client does not read. If not, it is polled again when others have had their turn.
pub(crate) fn poll_turn(context: &Context<'_>) -> Poll<()> {
    if moved() < TURN_BYTES && coop::has_budget_remaining() {
        return Poll::Ready(());
    }
    context.waker().wake_by_ref();
    Poll::Pending
}
