//! A limit of the bytes that a task moves in one poll.
//!
//! tokio's cooperative budget allows 128 operations per poll, and one operation may move one byte or a megabyte. A client that reads or sends
//! as fast as it can would occupy the thread for many milliseconds. Connections therefore count the bytes that they move in each poll.
//!
//! The count belongs to the poll that runs on this thread. Bytes are counted instead of time, because reading the clock twice per poll costs
//! 3 % of the CPU time of a small call.

use std::cell::Cell;
use std::task::{Context, Poll};

use tokio::task::coop;

/// Approximate limit of the bytes that one poll of a connection moves.
pub(crate) const TURN_BYTES: usize = 128 * 1024;

thread_local! {
    static MOVED_BYTES: Cell<usize> = const { Cell::new(0) };
}

/// Resets the count. Called when a poll begins.
pub(crate) fn begin() {
    MOVED_BYTES.set(0);
}

/// Adds `bytes` that this poll has moved.
pub(crate) fn count(bytes: usize) {
    MOVED_BYTES.set(moved().saturating_add(bytes));
}

/// The number of bytes that this poll has moved.
pub(crate) fn moved() -> usize {
    MOVED_BYTES.get()
}

/// Ready if the task may move more bytes in this poll and has operations left. Otherwise the task is woken to be polled again after the
/// others. The operations are checked because a connection that tokio's budget keeps from writing would look like one whose client does not
/// read.
pub(crate) fn poll_turn(context: &Context<'_>) -> Poll<()> {
    if moved() < TURN_BYTES && coop::has_budget_remaining() {
        return Poll::Ready(());
    }
    context.waker().wake_by_ref();
    Poll::Pending
}
