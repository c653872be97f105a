//! Status: what can be observed of a virtual server, as conditions and counts. Pure.

mod backends;
mod outlook;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use vmcp_crds::condition::{Verdict, merge};
use vmcp_crds::v1alpha1::{
    MAX_CONFLICTS, SessionStorageProvider, VirtualMCPServer, VirtualMCPServerStatus, condition_type,
};

use crate::desired::{Backend, ConfigFiles, labels, names};
use crate::gateways::Gateway;
use outlook::{Outlook, Phase};

/// Everything that the status says something about.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The virtual server.
    pub server: &'a VirtualMCPServer,
    /// Why nothing was done for its spec: a reason and what is wrong. Nothing below was looked at then.
    pub refused_spec: Option<(&'static str, &'a str)>,
    /// The members of its group; `None` when the group does not exist.
    pub backends: Option<&'a [Backend]>,
    /// The rendered configuration, or why there is none. Not looked at without a group.
    pub config: Result<&'a ConfigFiles, &'a str>,
    /// The Secrets.
    pub secrets: Secrets<'a>,
    /// Why an object could not be applied.
    pub refused: Option<Refused<'a>>,
    /// The Deployment as it is.
    pub deployment: Option<&'a Deployment>,
    /// The gateway pods that run.
    pub gateways: &'a [Gateway],
    /// How many replicas there are or may soon be, whoever decides that.
    pub expected_replicas: i32,
}

/// The Secrets that the virtual server needs.
#[derive(Clone, Copy, Debug)]
pub enum Secrets<'a> {
    /// They were not looked at, because something before them is missing.
    Unknown,
    /// They are there.
    Resolved,
    /// One is not.
    Unresolved {
        /// Why, in one word.
        reason: &'static str,
        /// Why, for people.
        message: &'a str,
        /// Whether only a person can help.
        stalled: bool,
    },
}

/// Why an object could not be applied.
#[derive(Clone, Copy, Debug)]
pub enum Refused<'a> {
    /// The API server refuses, in these words.
    ApiServer(&'a str),
    /// An object of that name is there, and is somebody else's.
    NotOwned {
        /// Which and whose, for people.
        message: &'a str,
        /// Whether only a person can help.
        stalled: bool,
    },
}

/// The status that `observed` means, after `old`.
#[must_use]
pub fn status(
    observed: &Observed<'_>,
    old: &VirtualMCPServerStatus,
    now: Timestamp,
) -> VirtualMCPServerStatus {
    let generation = observed.server.metadata.generation;
    let outlook = outlook::outlook(observed);
    let verdicts: Vec<Verdict> = [
        Some(ready(&outlook)),
        progress(&outlook),
        group_ref(observed),
        config(observed),
        secrets(observed),
        Some(session_storage(observed)),
    ]
    .into_iter()
    .flatten()
    .collect();
    let counts = observed
        .deployment
        .and_then(|deployment| deployment.status.as_ref());
    let mut status = VirtualMCPServerStatus {
        observed_generation: generation,
        conditions: merge(&old.conditions, &verdicts, generation, now),
        url: Some(names::url(observed.server)),
        replicas: Some(counts.and_then(|counts| counts.replicas).unwrap_or(0)),
        selector: Some(labels::selector_text(observed.server)),
        // When something is missing, pods go on with what they have, and are not asked.
        backend_count: old.backend_count,
        tool_count: old.tool_count,
        backends: old.backends.clone(),
        conflicts: old.conflicts.clone(),
        faults: old.faults.clone(),
    };
    let asked = observed.refused.is_none() && matches!(observed.secrets, Secrets::Resolved);
    if let Some(backends) = observed.backends.filter(|_| asked) {
        let all = backends::backends(backends, observed.gateways);
        status.backend_count = Some(backends::count(&all));
        status.backends = backends::listed(all);
        status.tool_count = Some(backends::tools(observed.gateways));
        status.conflicts =
            backends::sentences(observed.gateways, MAX_CONFLICTS, |gateway| &gateway.conflicts);
        status.faults = backends::sentences(observed.gateways, MAX_CONFLICTS, |gateway| &gateway.faults);
    }
    status
}

fn ready(outlook: &Outlook) -> Verdict {
    Verdict {
        type_: condition_type::READY,
        status: Some(outlook.phase == Phase::Serving),
        reason: outlook.reason,
        message: outlook.message.clone(),
    }
}

/// At most one of the two conditions that kstatus calls abnormal: they are there only while they hold.
fn progress(outlook: &Outlook) -> Option<Verdict> {
    let type_ = match outlook.phase {
        Phase::Serving | Phase::Idle => return None,
        Phase::Waiting => condition_type::RECONCILING,
        Phase::Stalled => condition_type::STALLED,
    };
    Some(Verdict {
        type_,
        status: Some(true),
        reason: outlook.reason,
        message: outlook.message.clone(),
    })
}

fn group_ref(observed: &Observed<'_>) -> Option<Verdict> {
    if observed.refused_spec.is_some() {
        return None;
    }
    let group = &observed.server.spec.group_ref.name;
    let (status, reason, message) = match observed.backends {
        Some(_) => (true, "GroupRefValid", format!("MCPGroup {group} exists")),
        None => (false, "GroupRefNotFound", outlook::no_group(group)),
    };
    Some(Verdict {
        type_: condition_type::GROUP_REF_VALIDATED,
        status: Some(status),
        reason,
        message,
    })
}

fn config(observed: &Observed<'_>) -> Option<Verdict> {
    if let Some((reason, message)) = observed.refused_spec {
        return Some(Verdict {
            type_: condition_type::CONFIG_VALID,
            status: Some(false),
            reason,
            message: message.to_owned(),
        });
    }
    observed.backends?;
    let (status, reason, message) = match observed.config {
        Err(problem) => (false, "ConfigInvalid", problem.to_owned()),
        Ok(files) => match outlook::refusal(observed.gateways, files) {
            Some(refusal) => (false, "ConfigRefused", refusal),
            None => (true, "ConfigValid", "the configuration is rendered".to_owned()),
        },
    };
    Some(Verdict {
        type_: condition_type::CONFIG_VALID,
        status: Some(status),
        reason,
        message,
    })
}

fn secrets(observed: &Observed<'_>) -> Option<Verdict> {
    let (status, reason, message) = match observed.secrets {
        Secrets::Unknown => return None,
        Secrets::Resolved => (true, "SecretsResolved", "every Secret that is needed is there"),
        Secrets::Unresolved { reason, message, .. } => (false, reason, message),
    };
    Some(Verdict {
        type_: condition_type::SECRETS_RESOLVED,
        status: Some(status),
        reason,
        message: message.to_owned(),
    })
}

fn session_storage(observed: &Observed<'_>) -> Verdict {
    let storage = observed.server.spec.session_storage.as_ref();
    let redis = storage.is_some_and(|storage| storage.provider == SessionStorageProvider::Redis);
    let (status, reason, message) = if redis {
        (
            false,
            "SessionStorageConfigured",
            "sessions are in Redis: any replica serves any of them",
        )
    } else if observed.expected_replicas > 1 {
        (
            true,
            "SessionStorageMissingForReplicas",
            "there is or may soon be more than one replica, but spec.sessionStorage.provider is not redis: a session is \
             known to one pod only, and other pods answer 404 for it",
        )
    } else {
        (
            false,
            "SessionStorageWarningNotApplicable",
            "there is one replica, and sessions are in its memory: they end with the pod",
        )
    };
    Verdict {
        type_: condition_type::SESSION_STORAGE_WARNING,
        status: Some(status),
        reason,
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests;
