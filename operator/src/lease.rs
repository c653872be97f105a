//! Leader election: of several operators, the one that holds the Lease works.
//!
//! A Lease is taken and renewed by writes that name the version they replace, so two of them cannot both succeed. Whether
//! another holder is gone is judged by how long we have seen its Lease unchanged on our own clock: clocks of two machines are
//! never compared. Writes of the operator are idempotent, so a short overlap of two leaders does no harm.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube::api::ObjectMeta;
use tokio::time::{Instant, sleep};

use crate::api_server::{ObjectName, Objects};
use crate::error::Error;

/// How the Lease is held.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long a Lease that nobody renews is respected.
    pub duration: Duration,
    /// How long a leader goes on when it cannot renew. Less than `duration`, so that it stops before another begins.
    pub deadline: Duration,
    /// The pause between two attempts to take or renew it.
    pub pause: Duration,
    /// How long giving it back may take: an operator that ends does not wait for an API server that is not there.
    pub release: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            pause: Duration::from_secs(2),
            release: Duration::from_secs(5),
        }
    }
}

/// One candidate.
#[derive(Clone, Debug)]
pub struct Candidate {
    leases: Objects<Lease>,
    namespace: String,
    name: ObjectName,
    identity: String,
    timing: Timing,
}

/// What one attempt found.
enum Attempt {
    Held,
    /// Another holds it; the version tells when that one renews.
    Other {
        version: String,
        holder: String,
    },
}

/// The Lease of another, and since when it is unchanged.
struct Seen {
    version: String,
    since: Instant,
}

impl Candidate {
    /// A candidate for the Lease `namespace`/`name`. `identity` tells candidates apart.
    ///
    /// # Errors
    /// When `namespace` or `name` is not the name of an object.
    pub fn new(
        client: &Client,
        namespace: &str,
        name: &str,
        identity: &str,
        timing: Timing,
    ) -> Result<Self, Error> {
        Ok(Self {
            leases: Objects::of(client, namespace)?,
            namespace: namespace.to_owned(),
            name: ObjectName::parse(name)?,
            identity: identity.to_owned(),
            timing,
        })
    }

    /// Waits until the Lease is ours. `reached` is called when the API server has answered for the first time.
    pub async fn acquire(&self, reached: impl FnOnce()) {
        let mut reached = Some(reached);
        let mut seen: Option<Seen> = None;
        loop {
            let expired = seen
                .as_ref()
                .filter(|seen| seen.since.elapsed() >= self.timing.duration);
            match self.attempt(expired.map(|seen| seen.version.as_str())).await {
                Ok(attempt) => {
                    if let Some(reached) = reached.take() {
                        reached();
                    }
                    match attempt {
                        Attempt::Held => {
                            tracing::info!(identity = self.identity, "this operator leads");
                            return;
                        }
                        Attempt::Other { version, holder } => {
                            if seen.as_ref().is_none_or(|seen| seen.version != version) {
                                tracing::debug!(holder, "another operator leads");
                                seen = Some(Seen {
                                    version,
                                    since: Instant::now(),
                                });
                            }
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "cannot ask for the lease"),
            }
            sleep(self.timing.pause).await;
        }
    }

    /// Renews the Lease until it is lost. Ends only then.
    pub async fn hold(&self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < self.timing.deadline {
            sleep(self.timing.pause).await;
            let left = self.timing.deadline.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.attempt(None)).await {
                Ok(Ok(Attempt::Held)) => renewed = Instant::now(),
                Ok(Ok(Attempt::Other { holder, .. })) => {
                    tracing::error!(holder, "another operator took the lease");
                    return;
                }
                Ok(Err(error)) => tracing::warn!(%error, "cannot renew the lease"),
                Err(_) => tracing::warn!("the API server does not answer"),
            }
        }
        tracing::error!("the lease ran out");
    }

    /// Gives the Lease back, so that the next operator need not wait for it to run out. Gives up after a while.
    pub async fn release(&self) {
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
        match tokio::time::timeout(self.timing.release, released).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "the lease will run out by itself");
            }
            Err(_) => {
                tracing::warn!("the API server does not answer, so the lease will run out by itself");
            }
        }
    }

    /// Takes or renews the Lease if it is free, ours, or still at the version `expired`.
    async fn attempt(&self, expired: Option<&str>) -> Result<Attempt, Error> {
        let Some(mut lease) = self.leases.get(&self.name).await? else {
            self.leases.create(&self.new_lease()).await?;
            return Ok(Attempt::Held);
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let spec = lease.spec.get_or_insert_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        let ours = holder == self.identity;
        if !ours && !holder.is_empty() && expired != Some(version.as_str()) {
            return Ok(Attempt::Other { version, holder });
        }
        let transitions = spec.lease_transitions.unwrap_or(0) + i32::from(!ours);
        let acquired = if ours { spec.acquire_time.clone() } else { None };
        *spec = self.spec(acquired, transitions);
        // A conflict means that another was faster: who, the next attempt tells.
        self.leases.replace(&lease).await?;
        Ok(Attempt::Held)
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
            lease_duration_seconds: i32::try_from(self.timing.duration.as_secs().max(1)).ok(),
            acquire_time: Some(acquired.unwrap_or_else(|| now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }
}
