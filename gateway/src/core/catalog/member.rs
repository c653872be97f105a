//! One backend's part of the catalogue.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::backend::{Backend, BackendError, Listed};

/// What is known of a backend.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The tools it offers, or offered when it last answered; `None` before its first answer.
    pub tools: Option<Arc<Vec<Listed>>>,
    /// What went wrong the last time, if anything.
    pub error: Option<BackendError>,
}

/// A backend and what is known of it.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) backend: Backend,
    state: ArcSwap<State>,
}

impl Member {
    pub(super) fn new(backend: Backend) -> Self {
        Self {
            backend,
            state: ArcSwap::from_pointee(State::default()),
        }
    }

    pub(super) fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Takes the outcome of a look at the backend, and says whether anything changed. What a backend offered stays listed
    /// while it fails.
    pub(super) fn observe(&self, outcome: Result<Vec<Listed>, BackendError>) -> bool {
        let before = self.state();
        let after = match outcome {
            Ok(tools) => State {
                tools: Some(Arc::new(tools)),
                error: None,
            },
            Err(error) => State {
                tools: before.tools.clone(),
                error: Some(error),
            },
        };
        let changed = before.tools != after.tools || before.error != after.error;
        self.state.store(Arc::new(after));
        changed
    }
}
