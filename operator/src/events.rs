//! Events: one for every transition that a person would ask about.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::{Event, EventType};
use vmcp_crds::condition::{find, is_true};
use vmcp_crds::v1alpha1::condition_type as types;

/// The longest note that the API server takes is 1 kB.
const MAX_NOTE: usize = 1000;

/// The reasons for which [`types::READY`] turns false in the ordinary course of things.
const ORDINARY: [&str; 3] = ["DeploymentProgressing", "ConfigPending", "ScaledToZero"];

/// The events that tell of the way from `old` to `new`.
#[must_use]
pub fn transitions(old: &[Condition], new: &[Condition]) -> Vec<Event> {
    new.iter()
        .filter_map(|condition| transition(old, condition))
        .collect()
}

/// The event for a Secret with session keys that had to be made anew.
#[must_use]
pub fn session_keys_lost(secret: &str) -> Event {
    let note =
        format!("Secret {secret} was gone and has been made anew: all sessions that there were have ended");
    event(EventType::Warning, "SessionKeysLost", &note)
}

fn transition(old: &[Condition], condition: &Condition) -> Option<Event> {
    let before = find(old, &condition.type_);
    let turned = before.is_none_or(|before| before.status != condition.status);
    let type_ = condition.type_.as_str();
    let bad = match type_ {
        types::READY => {
            let was_ready = is_true(old, types::READY);
            let now_ready = condition.status == "True";
            let ordinary = ORDINARY.contains(&condition.reason.as_str());
            return (was_ready != now_ready).then(|| {
                let severity = if now_ready || ordinary {
                    EventType::Normal
                } else {
                    EventType::Warning
                };
                event(severity, &condition.reason, &condition.message)
            });
        }
        types::RECONCILING => return None,
        types::STALLED | types::SESSION_STORAGE_WARNING => condition.status == "True",
        _ => condition.status != "True",
    };
    if !turned || (before.is_none() && !bad) {
        return None;
    }
    let severity = if bad {
        EventType::Warning
    } else {
        EventType::Normal
    };
    Some(event(severity, &condition.reason, &condition.message))
}

fn event(type_: EventType, reason: &str, note: &str) -> Event {
    Event {
        type_,
        reason: reason.to_owned(),
        note: Some(note.chars().take(MAX_NOTE / 4).collect()),
        action: "Reconcile".to_owned(),
        secondary: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn condition(type_: &str, status: &str, reason: &str) -> Condition {
        serde_json::from_value(json!({
            "type": type_, "status": status, "reason": reason, "message": "m",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }))
        .unwrap()
    }

    fn told(old: &[Condition], new: &[Condition]) -> Vec<(bool, String)> {
        let events = transitions(old, new);
        events
            .into_iter()
            .map(|event| (event.type_ == EventType::Warning, event.reason))
            .collect()
    }

    #[test]
    fn the_way_to_ready_is_one_event() {
        let waiting = [
            condition("Ready", "False", "DeploymentProgressing"),
            condition("Reconciling", "True", "x"),
        ];
        let ready = [condition("Ready", "True", "Serving")];
        assert!(told(&[], &waiting).is_empty());
        assert_eq!(told(&waiting, &ready), [(false, "Serving".to_owned())]);
        assert!(told(&ready, &ready).is_empty());
    }

    #[test]
    fn a_rollout_is_no_warning_and_a_lost_group_is() {
        let ready = [
            condition("Ready", "True", "Serving"),
            condition("GroupRefValidated", "True", "GroupRefValid"),
        ];
        let rolling = [condition("Ready", "False", "DeploymentProgressing")];
        assert_eq!(
            told(&ready, &rolling),
            [(false, "DeploymentProgressing".to_owned())]
        );
        let lost = [condition("GroupRefValidated", "False", "GroupRefNotFound")];
        assert_eq!(told(&ready, &lost), [(true, "GroupRefNotFound".to_owned())]);
        let healed = [condition("GroupRefValidated", "True", "GroupRefValid")];
        assert_eq!(told(&lost, &healed), [(false, "GroupRefValid".to_owned())]);
    }

    #[test]
    fn a_fault_from_the_beginning_is_told() {
        let warned = [condition(
            "SessionStorageWarning",
            "True",
            "SessionStorageMissingForReplicas",
        )];
        assert_eq!(
            told(&[], &warned),
            [(true, "SessionStorageMissingForReplicas".to_owned())]
        );
        assert!(
            told(
                &[],
                &[condition(
                    "SessionStorageWarning",
                    "False",
                    "SessionStorageConfigured"
                )]
            )
            .is_empty()
        );
    }
}
