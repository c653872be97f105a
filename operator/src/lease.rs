//! Leader election: the operator that holds the Lease is active.
//!
//! A write that acquires or renews the Lease names the resource version that it replaces, so concurrent writes cannot both succeed.
//! Another holder counts as gone when its Lease has not changed for the lease duration, measured on our own clock: clocks of two
//! machines are never compared. A leader sends no write after the lease duration since its last renewal ([`WriteFence`]). Only a write that is
//! already on its way may arrive later; writes of the operator are idempotent, so that does no harm.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube::api::ObjectMeta;
use tokio::time::{Instant, sleep};

use crate::api_server::{ObjectApi, ObjectName, WriteFence};
use crate::error::Error;

/// Timing of leader election. The names are those of Kubernetes' own leader election.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTiming {
    /// Time after which another operator may take a Lease that is not renewed.
    pub lease_duration: Duration,
    /// Time after which a leader stops if it cannot renew. Shorter than `lease_duration`, so that it stops before another starts.
    pub renew_deadline: Duration,
    /// Time between two attempts to renew.
    pub retry_period: Duration,
    /// Time between two attempts to acquire. It bounds how long nothing is reconciled after a release.
    pub acquire_period: Duration,
    /// Time limit of the release at shutdown, so that an unreachable API server does not block it.
    pub release_timeout: Duration,
}

impl Default for LeaseTiming {
    fn default() -> Self {
        Self {
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
            acquire_period: Duration::from_secs(1),
            release_timeout: Duration::from_secs(5),
        }
    }
}

/// A candidate for leadership.
#[derive(Clone, Debug)]
pub struct Candidate {
    leases: ObjectApi<Lease>,
    namespace: String,
    name: ObjectName,
    identity: String,
    timing: LeaseTiming,
    fence: WriteFence,
}

/// Outcome of one attempt to acquire or renew the Lease.
enum LeaseAttempt {
    Held,
    /// Another operator holds the Lease. The resource version changes when that operator renews.
    HeldByOther {
        version: String,
        holder: String,
    },
}

/// Another holder's Lease, and since when it has not changed.
struct ObservedLease {
    version: String,
    since: Instant,
}

impl Candidate {
    /// A candidate for the Lease `namespace`/`name`. `identity` must be unique among the candidates.
    ///
    /// # Errors
    /// When `namespace` or `name` is not a valid name.
    pub fn new(
        client: &Client,
        namespace: &str,
        name: &str,
        identity: &str,
        timing: LeaseTiming,
    ) -> Result<Self, Error> {
        Ok(Self {
            leases: ObjectApi::in_namespace(client, namespace)?,
            namespace: namespace.to_owned(),
            name: ObjectName::parse(name)?,
            identity: identity.to_owned(),
            timing,
            fence: WriteFence::default(),
        })
    }

    /// Sets the fence that this candidate keeps open while it holds the Lease.
    #[must_use]
    pub fn with_fence(mut self, fence: WriteFence) -> Self {
        self.fence = fence;
        self
    }

    /// Waits until this candidate holds the Lease. Calls `on_reachable` once, after the API server's first response.
    pub async fn acquire(&self, on_reachable: impl FnOnce()) {
        let mut on_reachable = Some(on_reachable);
        let mut observed: Option<ObservedLease> = None;
        loop {
            let expired = observed
                .as_ref()
                .filter(|observed| observed.since.elapsed() >= self.timing.lease_duration);
            match self
                .attempt(expired.map(|observed| observed.version.as_str()))
                .await
            {
                Ok(attempt) => {
                    if let Some(on_reachable) = on_reachable.take() {
                        on_reachable();
                    }
                    match attempt {
                        LeaseAttempt::Held => {
                            tracing::info!(identity = self.identity, "acquired leader lease");
                            return;
                        }
                        LeaseAttempt::HeldByOther { version, holder } => {
                            if observed
                                .as_ref()
                                .is_none_or(|observed| observed.version != version)
                            {
                                tracing::debug!(holder, "leader lease held by another operator");
                                observed = Some(ObservedLease {
                                    version,
                                    since: Instant::now(),
                                });
                            }
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "failed to acquire leader lease"),
            }
            sleep(self.timing.acquire_period).await;
        }
    }

    /// Renews the Lease, and returns only when it is lost.
    pub async fn hold(&self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < self.timing.renew_deadline {
            sleep(self.timing.retry_period).await;
            let left = self.timing.renew_deadline.saturating_sub(renewed.elapsed());
            let begun = Instant::now();
            match tokio::time::timeout(left, self.attempt(None)).await {
                Ok(Ok(LeaseAttempt::Held)) => renewed = begun,
                Ok(Ok(LeaseAttempt::HeldByOther { holder, .. })) => {
                    tracing::error!(holder, "leader lease taken by another operator");
                    return;
                }
                Ok(Err(error)) => tracing::warn!(%error, "failed to renew leader lease"),
                Err(_) => tracing::warn!("timed out renewing leader lease"),
            }
        }
        tracing::error!("leader lease expired");
    }

    /// Releases the Lease, so that the next operator need not wait until it expires. Gives up after the release timeout.
    pub async fn release(&self) {
        self.fence.allow_until(Instant::now());
        let released = async {
            let Some(mut lease) = self.leases.get(&self.name).await? else {
                return Ok(());
            };
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(self.identity.as_str()) {
                spec.holder_identity = None;
                self.leases.replace(&lease).await?;
            }
            Ok::<_, Error>(())
        };
        match tokio::time::timeout(self.timing.release_timeout, released).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "failed to release leader lease");
            }
            Err(_) => {
                tracing::warn!("timed out releasing leader lease");
            }
        }
    }

    /// Acquires or renews the Lease if it is free, ours, or still at the resource version `expired`.
    async fn attempt(&self, expired: Option<&str>) -> Result<LeaseAttempt, Error> {
        // Others count from a later moment: when they see the Lease that is written now.
        let expiry = Instant::now() + self.timing.lease_duration;
        let attempt = self.write_lease(expired).await?;
        if matches!(attempt, LeaseAttempt::Held) {
            self.fence.allow_until(expiry);
        }
        Ok(attempt)
    }

    async fn write_lease(&self, expired: Option<&str>) -> Result<LeaseAttempt, Error> {
        let Some(mut lease) = self.leases.get(&self.name).await? else {
            self.leases.create(&self.new_lease()).await?;
            return Ok(LeaseAttempt::Held);
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let spec = lease.spec.get_or_insert_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        let ours = holder == self.identity;
        if !ours && !holder.is_empty() && expired != Some(version.as_str()) {
            return Ok(LeaseAttempt::HeldByOther { version, holder });
        }
        let transitions = spec.lease_transitions.unwrap_or(0) + i32::from(!ours);
        let acquired = if ours { spec.acquire_time.clone() } else { None };
        *spec = self.spec(acquired, transitions);
        // A conflict means that another candidate was faster; the next attempt shows which.
        self.leases.replace(&lease).await?;
        Ok(LeaseAttempt::Held)
    }

    fn new_lease(&self) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.to_string()),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(self.spec(None, 0)),
        }
    }

    fn spec(&self, acquired: Option<MicroTime>, transitions: i32) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.timing.lease_duration.as_secs().max(1)).ok(),
            acquire_time: Some(acquired.unwrap_or_else(|| now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }
}
