//! The user id of gateway pods: a fixed one, or one of the range that the namespace assigns.
//!
//! OpenShift gives each namespace a range, in an annotation, and its default policy refuses pods that name another id.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use k8s_openapi::api::apps::v1::Deployment;
use kube::Client;

use crate::api_server::namespace_metadata;
use crate::error::Error;

/// The annotation of a namespace with the range of its user ids.
const UID_RANGE: &str = "openshift.io/sa.scc.uid-range";
/// How long the absence of a range is remembered before the first pods exist. A new namespace gets its range shortly after its creation.
const ABSENCE_LIFETIME: Duration = Duration::from_secs(10);
/// How long the absence of a range is remembered while pods run without one.
const LASTING_ABSENCE_LIFETIME: Duration = Duration::from_secs(10 * 60);
/// How long it is remembered that the operator may not read a namespace.
const REFUSAL_LIFETIME: Duration = Duration::from_secs(60);

/// Which user id gateway pods have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PodUser {
    /// One of the range that the namespace assigns, if it has one; otherwise a fixed one
    #[default]
    Auto,
    /// A fixed one
    Fixed,
    /// The cluster's choice: the pods name none
    Namespace,
}

/// Decides for each namespace whether its pods name a user id.
#[derive(Debug, Default)]
pub struct PodUsers {
    setting: PodUser,
    known: Mutex<HashMap<String, KnownRange>>,
}

/// What is known about the range of a namespace.
#[derive(Clone, Copy, Debug)]
enum KnownRange {
    Assigned,
    AbsentSince(Instant),
    /// The right to read the namespace is missing.
    RefusedSince(Instant),
}

impl PodUsers {
    /// Decides by `setting`.
    #[must_use]
    pub fn new(setting: PodUser) -> Self {
        Self {
            setting,
            known: Mutex::default(),
        }
    }

    /// Whether pods in `namespace` name a fixed user id. If the namespace cannot be read, the answer is as in the `live` Deployment, so that its
    /// pods are not replaced.
    ///
    /// # Errors
    /// When the API server does not answer, and there is no Deployment yet.
    pub async fn has_fixed_id(
        &self,
        client: &Client,
        namespace: &str,
        live: Option<&Deployment>,
    ) -> Result<bool, Error> {
        match self.setting {
            PodUser::Fixed => return Ok(true),
            PodUser::Namespace => return Ok(false),
            PodUser::Auto => {}
        }
        let lifetime = match live {
            Some(live) if names_user(live) && has_running_pod(live) => LASTING_ABSENCE_LIFETIME,
            _ => ABSENCE_LIFETIME,
        };
        match self.known(namespace) {
            Some(KnownRange::Assigned) => return Ok(false),
            Some(KnownRange::AbsentSince(since)) if since.elapsed() < lifetime => return Ok(true),
            Some(KnownRange::RefusedSince(since)) if since.elapsed() < REFUSAL_LIFETIME => {
                return Ok(live.is_none_or(names_user));
            }
            _ => {}
        }
        let metadata = match namespace_metadata(client, namespace).await {
            Ok(metadata) => metadata.unwrap_or_default(),
            Err(error) if error.is_forbidden() => {
                tracing::debug!(namespace, %error, "cannot detect the range of user ids");
                self.remember(namespace, KnownRange::RefusedSince(Instant::now()));
                return Ok(live.is_none_or(names_user));
            }
            Err(error) => return live.map(names_user).ok_or(error),
        };
        let is_assigned = metadata.annotations.unwrap_or_default().contains_key(UID_RANGE);
        let range = if is_assigned {
            KnownRange::Assigned
        } else {
            KnownRange::AbsentSince(Instant::now())
        };
        self.remember(namespace, range);
        Ok(!is_assigned)
    }

    fn remember(&self, namespace: &str, range: KnownRange) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(namespace.to_owned(), range);
    }

    fn known(&self, namespace: &str) -> Option<KnownRange> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(namespace).copied()
    }
}

/// Whether a pod runs. With a fixed id, it proves that the namespace allows that id.
fn has_running_pod(deployment: &Deployment) -> bool {
    let status = deployment.status.as_ref();
    status.and_then(|status| status.available_replicas) > Some(0)
}

fn names_user(deployment: &Deployment) -> bool {
    let pod = deployment.spec.template.spec.as_ref();
    let context = pod.and_then(|pod| pod.security_context.as_ref());
    context.is_some_and(|context| context.run_as_user.is_some())
}
