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
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::time::{Instant, sleep};

use crate::error::{self, Error};

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
    api: Api<Lease>,
    namespace: String,
    name: String,
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
    #[must_use]
    pub fn new(client: &Client, namespace: &str, name: &str, identity: &str, timing: Timing) -> Self {
        Self {
            api: Api::namespaced(client.clone(), namespace),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            timing,
        }
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
            let mut lease = self.api.get(&self.name).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(self.identity.as_str()) {
                spec.holder_identity = None;
                self.api
                    .replace(&self.name, &PostParams::default(), &lease)
                    .await?;
            }
            Ok::<_, kube::Error>(())
        };
        match tokio::time::timeout(self.timing.release, released).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = %self.failed("release", error), "the lease will run out by itself");
            }
            Err(_) => {
                tracing::warn!("the API server does not answer, so the lease will run out by itself");
            }
        }
    }

    /// Takes or renews the Lease if it is free, ours, or still at the version `expired`.
    async fn attempt(&self, expired: Option<&str>) -> Result<Attempt, Error> {
        let found = self.api.get_opt(&self.name).await;
        let Some(mut lease) = found.map_err(|error| self.failed("read", error))? else {
            let created = self.api.create(&PostParams::default(), &self.new_lease()).await;
            return self.outcome(created.map(drop));
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
        let replaced = self.api.replace(&self.name, &PostParams::default(), &lease).await;
        self.outcome(replaced.map(drop))
    }

    /// A conflict means that another was faster: who, the next attempt tells.
    fn outcome(&self, written: Result<(), kube::Error>) -> Result<Attempt, Error> {
        match written {
            Ok(()) => Ok(Attempt::Held),
            Err(error) if error::code(&error) != Some(409) => Err(self.failed("write", error)),
            Err(conflict) => Err(self.failed("be the first to write", conflict)),
        }
    }

    fn new_lease(&self) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
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

    fn failed(&self, action: &'static str, error: kube::Error) -> Error {
        Error::api::<Lease>(action, &self.namespace, &self.name, error)
    }
}
