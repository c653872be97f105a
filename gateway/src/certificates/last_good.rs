//! What is made from files that may change while the process runs, such as mounted Secrets.
//!
//! While the files are unusable, for example half written, what was made from their last good content stays in use.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The maximum age of the content while it is used.
const MAX_AGE: Duration = Duration::from_secs(1);

/// The last good content `C` of some files, and the `T` that was made from it.
#[derive(Debug)]
pub(crate) struct LastGood<C, T> {
    /// Whose files they are, for the log.
    owner: &'static str,
    loaded: Mutex<Loaded<C, T>>,
    /// Counts the changes of the content.
    version: AtomicU64,
    /// When the files must be read again.
    due: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct Loaded<C, T> {
    good: Option<(C, Arc<T>)>,
    /// Why the newest content is not in use.
    problem: Option<String>,
}

impl<C: PartialEq + Send + 'static, T> LastGood<C, T> {
    /// Nothing is loaded yet. `owner` is whose files they are, for the log.
    pub(crate) fn new(owner: &'static str) -> Self {
        Self {
            owner,
            loaded: Mutex::new(Loaded {
                good: None,
                problem: None,
            }),
            version: AtomicU64::default(),
            due: Mutex::default(),
        }
    }

    /// The number of changes of the content so far.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Why the newest content is not in use; `None` if it is.
    pub(crate) fn problem(&self) -> Option<String> {
        self.loaded().problem.clone()
    }

    /// Whether the files must be read again. Only one of several concurrent callers gets `true`.
    pub(crate) fn is_due(&self) -> bool {
        let now = Instant::now();
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = due.is_none_or(|due| now >= due);
        if is_due {
            *due = Some(now + MAX_AGE);
        }
        is_due
    }

    /// What was made of the last good content, if there is one.
    pub(crate) fn made(&self) -> Option<Arc<T>> {
        let loaded = self.loaded();
        loaded.good.as_ref().map(|(_, made)| Arc::clone(made))
    }

    /// Reads the files with `read`, which may block, and returns what `make` makes of them, as [`Self::update`] does.
    ///
    /// # Errors
    /// As [`Self::update`].
    pub(crate) async fn load(
        &self,
        read: impl FnOnce() -> Result<C, String> + Send + 'static,
        make: impl FnOnce(&C) -> Result<T, String>,
    ) -> Result<Arc<T>, String> {
        let content = tokio::task::spawn_blocking(read).await;
        self.update(content.unwrap_or_else(|error| Err(error.to_string())), make)
    }

    /// Returns what `make` makes of `content`, or what was made of the last good content if this one is unusable. Unchanged content is not
    /// made again.
    ///
    /// # Errors
    /// Why the content is unusable, if it has been from the beginning.
    pub(crate) fn update(
        &self,
        content: Result<C, String>,
        make: impl FnOnce(&C) -> Result<T, String>,
    ) -> Result<Arc<T>, String> {
        let mut loaded = self.loaded();
        let is_same = |content: &C| loaded.good.as_ref().is_some_and(|(before, _)| before == content);
        let change = match content {
            Ok(content) if is_same(&content) => Ok(None),
            Ok(content) => make(&content).map(|made| Some((content, Arc::new(made)))),
            Err(reason) => Err(reason),
        };
        match change {
            Ok(change) => {
                loaded.problem = None;
                if change.is_some() {
                    if loaded.good.is_some() {
                        tracing::info!(
                            owner = self.owner,
                            "certificate file changed; using its new content"
                        );
                    }
                    loaded.good = change;
                    self.version.fetch_add(1, Ordering::Release);
                }
            }
            Err(reason) => {
                if loaded.good.is_some() && loaded.problem.as_ref() != Some(&reason) {
                    tracing::warn!(
                        owner = self.owner,
                        reason,
                        "certificate file unusable; using its last good content"
                    );
                }
                loaded.problem = Some(reason);
            }
        }
        match &loaded.good {
            Some((_, made)) => Ok(Arc::clone(made)),
            None => Err(loaded.problem.clone().unwrap_or_default()),
        }
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded<C, T>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Unusable content is reported and changes nothing, whether it cannot be read or nothing can be made of it.
    #[test]
    fn unusable_content_keeps_last_good() {
        let files = LastGood::new("a test");
        let made = || files.made().map(|made| *made);
        let update = |content: Result<&'static str, &str>| {
            let make = |content: &&'static str| match *content {
                "broken" => Err("it is broken".to_owned()),
                content => Ok(content.len()),
            };
            files
                .update(content.map_err(str::to_owned), make)
                .map(|made| *made)
        };
        assert_eq!(update(Err("no file")), Err("no file".to_owned()));
        assert_eq!(made(), None);
        assert_eq!(update(Ok("one")), Ok(3));
        assert_eq!((files.version(), files.problem()), (1, None));
        for (content, problem) in [(Ok("broken"), "it is broken"), (Err("no file"), "no file")] {
            assert_eq!(update(content), Ok(3));
            assert_eq!((files.version(), files.problem().as_deref()), (1, Some(problem)));
        }
        assert_eq!(update(Ok("one")), Ok(3));
        assert_eq!(
            (files.version(), files.problem()),
            (1, None),
            "it is the same again"
        );
        assert_eq!(update(Ok("three")), Ok(5));
        assert_eq!((files.version(), made()), (2, Some(5)));
    }
}
