//! Metrics of the operator, in the OpenMetrics format.

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
struct ReconcileErrorLabels {
    error: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AppliedKindLabels {
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WatchLabels {
    namespace: String,
    kind: String,
}

/// A handle to the metrics. Clones share the same counters.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    reconciles: Family<ReconcileErrorLabels, Counter>,
    duration: Histogram,
    applies: Family<AppliedKindLabels, Counter>,
    watch_failures: Family<WatchLabels, Counter>,
    leader: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let reconciles = Family::default();
        let duration = Histogram::new(exponential_buckets(0.001, 2.0, 14));
        let applies = Family::default();
        let watch_failures = Family::default();
        let leader = Gauge::default();
        let mut registry = Registry::with_prefix("vmcp_operator");
        registry.register(
            "reconciles",
            "Reconciles of virtual servers, by error (none if it succeeded)",
            reconciles.clone(),
        );
        registry.register(
            "reconcile_duration_seconds",
            "Duration of a reconcile",
            duration.clone(),
        );
        registry.register(
            "applies",
            "Writes to the API server, by kind. Constant while nothing changes in the cluster",
            applies.clone(),
        );
        registry.register(
            "watch_failures",
            "Failures of the watch of a kind, for example because a right is missing. The namespace is empty for the whole cluster",
            watch_failures.clone(),
        );
        registry.register(
            "leader",
            "1 while this process is the leader, otherwise 0",
            leader.clone(),
        );
        registry.register(
            "build",
            "Version of the operator",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        Self {
            registry: Arc::new(registry),
            reconciles,
            duration,
            applies,
            watch_failures,
            leader,
        }
    }
}

impl Metrics {
    /// Records a reconcile with its duration and its error, which is `none` on success.
    pub fn record_reconcile(&self, duration: Duration, error: &'static str) {
        self.reconciles
            .get_or_create(&ReconcileErrorLabels { error })
            .inc();
        self.duration.observe(duration.as_secs_f64());
    }

    /// Records a write of an object of this kind.
    pub fn record_apply(&self, kind: &str) {
        self.applies
            .get_or_create(&AppliedKindLabels {
                kind: kind.to_owned(),
            })
            .inc();
    }

    /// Records a failure of the watch of `kind` in `namespace`.
    pub fn record_watch_failure(&self, namespace: &str, kind: &str) {
        let labels = WatchLabels {
            namespace: namespace.to_owned(),
            kind: kind.to_owned(),
        };
        self.watch_failures.get_or_create(&labels).inc();
    }

    /// Sets whether this process is the leader.
    pub fn set_leader(&self, leader: bool) {
        self.leader.set(leader.into());
    }

    /// Encodes all metrics as text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        encode(&mut text, &self.registry).map_or_else(|_| String::new(), |()| text)
    }
}
