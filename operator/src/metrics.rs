//! What the operator counts, in the OpenMetrics format.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    error: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: String,
}

/// A cheap-clone handle to the counts.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    looks: Family<Failure, Counter>,
    duration: Histogram,
    applies: Family<Kind, Counter>,
    leader: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let looks = Family::default();
        let duration = Histogram::new(exponential_buckets(0.001, 2.0, 14));
        let applies = Family::default();
        let leader = Gauge::default();
        let mut registry = Registry::with_prefix("vmcp_operator");
        registry.register(
            "reconciles",
            "Looks at virtual servers, by why they failed (none: they did not)",
            looks.clone(),
        );
        registry.register(
            "reconcile_duration_seconds",
            "How long a look takes",
            duration.clone(),
        );
        registry.register(
            "applies",
            "Writes to the API server, by kind. In a cluster where nothing changes it does not grow",
            applies.clone(),
        );
        registry.register(
            "leader",
            "1 while this process is the one that works",
            leader.clone(),
        );
        registry.register(
            "build",
            "The version",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        Self {
            registry: Arc::new(registry),
            looks,
            duration,
            applies,
            leader,
        }
    }
}

impl Metrics {
    /// A look that took `time` and failed for this reason, or `none`.
    pub fn looked(&self, time: Duration, error: &'static str) {
        self.looks.get_or_create(&Failure { error }).inc();
        self.duration.observe(time.as_secs_f64());
    }

    /// A write of an object of this kind.
    pub fn applied(&self, kind: &str) {
        self.applies
            .get_or_create(&Kind {
                kind: kind.to_owned(),
            })
            .inc();
    }

    /// Whether this process is the one that works.
    pub fn set_leader(&self, leader: bool) {
        self.leader.set(leader.into());
    }

    /// All counts as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        encode(&mut text, &self.registry).map_or_else(|_| String::new(), |()| text)
    }
}
