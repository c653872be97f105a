//! `/metrics`: the metrics, and the state that is read at each scrape.

use super::Admin;
use crate::telemetry::metrics::{BackendScrapeState, ScrapeState};

impl Admin {
    pub(super) fn scrape(&self) -> String {
        let catalog = self.core.catalog();
        let backends = catalog.backends().into_iter().map(|backend| BackendScrapeState {
            name: backend.name().to_string(),
            health: catalog.health(backend.name()).as_str(),
            breaker: backend.breaker().as_str(),
            in_flight: backend.in_flight(),
            connections: backend.connections(),
        });
        let counts = self.sessions.counts();
        self.metrics.encode(&ScrapeState {
            ready: self.is_ready(),
            tasks: self.tasks.running(),
            buffered: self.core.budget().reserved(),
            buffer_refusals: self.core.budget().refusals(),
            unread_closed: self.core.budget().given_up(),
            sessions: [
                ("calling", counts.calling),
                ("listening", counts.listening),
                ("idle", counts.idle),
                ("provisional", counts.provisional),
            ],
            backends: backends.collect(),
        })
    }
}
