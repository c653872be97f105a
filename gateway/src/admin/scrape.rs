//! `/metrics`: what is counted, and what is looked up for the scrape.

use super::Admin;
use crate::telemetry::metrics::Scene;

impl Admin {
    pub(super) fn scrape(&self) -> String {
        let catalog = self.core.catalog();
        let backends = catalog.backends().into_iter().map(|backend| {
            (
                backend.name().to_string(),
                catalog.health(backend.name()).as_str(),
                backend.breaker().as_str(),
                backend.in_flight(),
            )
        });
        let (sessions_calling, sessions_listening) = self.sessions.in_use();
        self.metrics.encode(&Scene {
            ready: self.is_ready(),
            tasks: self.tasks.running(),
            sessions_calling,
            sessions_listening,
            backends: backends.collect(),
        })
    }
}
