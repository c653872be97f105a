//! Timeouts that cost nothing if the work is ready at once.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures::poll;
use tokio::time::{Instant, timeout, timeout_at};

/// Runs `work` for at most `limit`. Returns `None` if it takes longer. Work that is ready at the first poll costs neither a read of the clock
/// nor a timer, unlike with `tokio::time::timeout`.
pub(crate) async fn within<F: Future>(limit: Duration, work: F) -> Option<F::Output> {
    let mut work = pin!(work);
    match poll!(work.as_mut()) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => timeout(limit, work).await.ok(),
    }
}

/// As [`within`], with a deadline.
pub(crate) async fn until<F: Future>(deadline: Instant, work: F) -> Option<F::Output> {
    let mut work = pin!(work);
    match poll!(work.as_mut()) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => timeout_at(deadline, work).await.ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::sleep;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn work_is_cancelled_at_its_limit_and_not_before() {
        let began = Instant::now();
        assert_eq!(within(LIMIT, ready(1)).await, Some(1));
        assert_eq!(until(began, ready(1)).await, Some(1));
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert_eq!(within(LIMIT, sleep(LIMIT / 2)).await, Some(()));
        assert_eq!(within(LIMIT, pending::<()>()).await, None);
        assert_eq!(began.elapsed(), LIMIT + LIMIT / 2);
        assert_eq!(until(began + LIMIT * 2, pending::<()>()).await, None);
        assert_eq!(began.elapsed(), LIMIT * 2);
    }
}
