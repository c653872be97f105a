//! How long a terminating pod may take: it drains, and lets its last calls finish.

use vmcp_crds::config::Duration;
use vmcp_crds::v1alpha1::VirtualMCPServer;

use super::ConfigFiles;

/// Time that a terminating pod keeps accepting connections, until every node has removed its endpoint, if the spec does not say.
const DEFAULT_DRAIN_DELAY: Duration = Duration::from_secs(5);
/// Time for a pod to exit after its last call.
const EXIT_SECONDS: u64 = 5;

/// Time that a terminating pod keeps accepting connections.
pub(super) fn drain_delay(server: &VirtualMCPServer) -> Duration {
    server.spec.operational.drain_delay.unwrap_or(DEFAULT_DRAIN_DELAY)
}

/// The pod's `terminationGracePeriodSeconds`: the drain delay, the longest time limit of a call that may be running when the listener closes,
/// and time to exit. A limit of a backend counts in whole minutes, because another grace period replaces the pods.
pub(super) fn grace_seconds(server: &VirtualMCPServer, files: &ConfigFiles) -> i64 {
    let of_server = server.spec.operational.timeouts.call.get();
    let minutes = files.longest_call.get().as_millis().div_ceil(60_000);
    let of_backends = u64::try_from(minutes).unwrap_or(u64::MAX).saturating_mul(60);
    let call = if files.longest_call.get() > of_server {
        std::time::Duration::from_secs(of_backends)
    } else {
        of_server
    };
    let whole = drain_delay(server).get().saturating_add(call);
    let seconds = whole.as_secs() + u64::from(whole.subsec_nanos() > 0);
    i64::try_from(seconds.saturating_add(EXIT_SECONDS)).unwrap_or(i64::MAX)
}
