//! How long somebody waits for something.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures::poll;
use tokio::time::{Instant, timeout, timeout_at};

/// What comes of `work` within `limit`; `None` when it takes longer. What is ready already costs neither a look at the clock nor a timer,
/// which counts where most of what is waited for is.
pub(crate) async fn within<F: Future>(limit: Duration, work: F) -> Option<F::Output> {
    let mut work = pin!(work);
    match poll!(work.as_mut()) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => timeout(limit, work).await.ok(),
    }
}

/// What comes of `work` until `deadline`, as [`within`].
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
    async fn what_takes_too_long_is_given_up_at_its_limit_and_not_before() {
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
