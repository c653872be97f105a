//! How much a task moves before it is the turn of others.
//!
//! The runtime gives each poll of a task a budget of operations (`tokio::task::coop`), and an operation may move one byte or a megabyte. A
//! client that reads as fast as it can, or sends so, would have the thread for as long as the budget lasts. Here bytes are operations,
//! too, so that a poll moves about [`TURN_BYTES`], whatever they belong to.

use std::task::{Context, Poll, ready};

use tokio::task::coop;

/// How many bytes a poll of a task moves at most, roughly: the runtime's 128 operations of [`OPERATION_BYTES`].
#[cfg(test)]
const TURN_BYTES: usize = 128 * OPERATION_BYTES;
/// How many bytes count as one operation.
const OPERATION_BYTES: usize = 1024;

/// Whether the task may go on in this poll. If not, it is polled again when others have had their turn.
pub(crate) fn poll_turn(context: &mut Context<'_>) -> Poll<()> {
    // Dropped without progress: what follows counts for itself.
    drop(ready!(coop::poll_proceed(context)));
    Poll::Ready(())
}

/// Counts `bytes` that the task has moved in this poll.
pub(crate) fn spend(bytes: usize, context: &mut Context<'_>) {
    for _ in 0..bytes / OPERATION_BYTES {
        if !coop::has_budget_remaining() {
            return;
        }
        let Poll::Ready(operation) = coop::poll_proceed(context) else {
            return;
        };
        operation.made_progress();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// Many small pieces and few large ones end a turn alike, and the next turn begins anew.
    #[tokio::test]
    async fn poll_moves_a_turn_of_bytes() {
        for piece in [4 * 1024, 64 * 1024, 10 * TURN_BYTES] {
            let moved = || {
                poll_fn(|context| {
                    let mut moved = 0;
                    while poll_turn(context).is_ready() {
                        spend(piece, context);
                        moved += piece;
                    }
                    Poll::Ready(moved)
                })
            };
            tokio::task::yield_now().await;
            let first = moved().await;
            assert_eq!(first, piece.max(TURN_BYTES), "pieces of {piece}");
            assert_eq!(moved().await, 0);
            tokio::task::yield_now().await;
            assert_eq!(moved().await, first);
        }
    }
}
