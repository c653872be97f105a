//! Kubernetes Events: one for each significant change of a condition.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::{Event, EventType};
use vmcp_crds::condition::{find, is_true, truncate};
use vmcp_crds::v1alpha1::condition_type as types;

/// Maximum size of a note that the API server accepts.
const MAX_NOTE_BYTES: usize = 1024;
/// The end of a note that was cut. The condition has the whole text.
const CUT: &str = "...";

/// Reasons of [`types::READY`] being false that are part of normal operation and no warning.
const NORMAL_REASONS: [&str; 3] = ["DeploymentProgressing", "ConfigPending", "Terminating"];

/// The Events for the changes from the conditions `old` to `new`. Several conditions may say the same, which is one Event.
#[must_use]
pub fn transitions(old: &[Condition], new: &[Condition]) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    for event in new.iter().filter_map(|condition| transition(old, condition)) {
        let is_known = |known: &Event| known.reason == event.reason && known.note == event.note;
        if !events.iter().any(is_known) {
            events.push(event);
        }
    }
    events
}

/// The Event for a lost Secret with session keys that was created again.
#[must_use]
pub fn session_keys_lost(secret: &str) -> Event {
    let note = format!(
        "Secret {secret} was missing and has been created with new session keys: all sessions have ended"
    );
    event(EventType::Warning, "SessionKeysLost", &note)
}

/// The Event for session keys that were rotated.
#[must_use]
pub fn session_keys_rotated(secret: &str) -> Event {
    let note = format!("the session keys in Secret {secret} have been rotated; all sessions continue");
    event(EventType::Normal, "SessionKeysRotated", &note)
}

/// The Event for a rotation that was refused.
#[must_use]
pub fn session_key_rotation_refused(reason: &str) -> Event {
    event(EventType::Warning, "SessionKeyRotationRefused", reason)
}

/// The Event for a change of another client to `object` that was undone.
#[must_use]
pub fn change_undone(note: &str, object: ObjectReference) -> Event {
    Event {
        secondary: Some(object),
        ..event(EventType::Warning, "ChangeUndone", note)
    }
}

/// The Event for a status that cannot be written.
#[must_use]
pub fn status_write_failed(error: &str) -> Event {
    let note = format!("the conditions may be out of date: {error}");
    event(EventType::Warning, "StatusWriteFailed", &note)
}

fn transition(old: &[Condition], condition: &Condition) -> Option<Event> {
    let before = find(old, &condition.type_);
    let changed = before.is_none_or(|before| before.status != condition.status);
    let type_ = condition.type_.as_str();
    let is_problem = match type_ {
        types::READY => {
            let was_ready = is_true(old, types::READY);
            let now_ready = condition.status == "True";
            let is_normal = NORMAL_REASONS.contains(&condition.reason.as_str());
            let is_other_reason = before.is_some_and(|before| before.reason != condition.reason);
            // Scaling to zero and back keeps the condition true. One problem may follow another, or exist from the start.
            let is_news = was_ready != now_ready
                || now_ready && is_other_reason
                || !now_ready && !is_normal && (before.is_none() || is_other_reason);
            return is_news.then(|| {
                let severity = if now_ready || is_normal {
                    EventType::Normal
                } else {
                    EventType::Warning
                };
                event(severity, &condition.reason, &condition.message)
            });
        }
        types::RECONCILING => return None,
        types::STALLED
        | types::SESSION_STORAGE_WARNING
        | types::BACKEND_NEEDS_AFFINITY
        | types::REPLICAS_IGNORED => condition.status == "True",
        _ => condition.status == "False",
    };
    if !changed || (before.is_none() && !is_problem) {
        return None;
    }
    let severity = if is_problem {
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
        note: Some(fit(note)),
        action: "Reconcile".to_owned(),
        secondary: None,
    }
}

/// Cuts a note that the API server would reject.
fn fit(note: &str) -> String {
    if note.len() <= MAX_NOTE_BYTES {
        return note.to_owned();
    }
    format!("{}{CUT}", truncate(note, MAX_NOTE_BYTES - CUT.len()))
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

    /// The Events for a change: whether each is a warning, and its reason.
    fn events_of(old: &[Condition], new: &[Condition]) -> Vec<(bool, String)> {
        transitions(old, new)
            .into_iter()
            .map(|event| (event.type_ == EventType::Warning, event.reason))
            .collect()
    }

    #[test]
    fn becoming_ready_is_one_event() {
        let waiting = [
            condition("Ready", "False", "DeploymentProgressing"),
            condition("Reconciling", "True", "x"),
        ];
        let ready = [condition("Ready", "True", "Serving")];
        assert!(events_of(&[], &waiting).is_empty());
        assert_eq!(events_of(&waiting, &ready), [(false, "Serving".to_owned())]);
        assert!(events_of(&ready, &ready).is_empty());
    }

    #[test]
    fn rollout_is_normal_and_lost_group_is_warning() {
        let ready = [
            condition("Ready", "True", "Serving"),
            condition("GroupRefValidated", "True", "GroupRefValid"),
        ];
        let rolling = [condition("Ready", "False", "DeploymentProgressing")];
        assert_eq!(
            events_of(&ready, &rolling),
            [(false, "DeploymentProgressing".to_owned())]
        );
        let lost = [condition("GroupRefValidated", "False", "GroupRefNotFound")];
        assert_eq!(events_of(&ready, &lost), [(true, "GroupRefNotFound".to_owned())]);
        let healed = [condition("GroupRefValidated", "True", "GroupRefValid")];
        assert_eq!(events_of(&lost, &healed), [(false, "GroupRefValid".to_owned())]);
    }

    #[test]
    fn scaling_to_zero_and_back_is_one_event_each() {
        let serving = [condition("Ready", "True", "Serving")];
        let zero = [condition("Ready", "True", "ScaledToZero")];
        assert_eq!(events_of(&serving, &zero), [(false, "ScaledToZero".to_owned())]);
        assert_eq!(events_of(&zero, &serving), [(false, "Serving".to_owned())]);
        assert!(events_of(&zero, &zero).is_empty());
    }

    // One problem that follows another is reported, and so is one that exists from the start. What several conditions say is one Event.
    #[test]
    fn each_new_reason_for_not_ready_is_one_event() {
        let refused = [
            condition("Ready", "False", "ApplyRefused"),
            condition("Reconciling", "True", "ApplyRefused"),
        ];
        let stalled = [
            condition("Ready", "False", "ChildNotOwned"),
            condition("Stalled", "True", "ChildNotOwned"),
        ];
        assert_eq!(events_of(&[], &refused), [(true, "ApplyRefused".to_owned())]);
        assert!(events_of(&refused, &refused).is_empty());
        assert_eq!(
            events_of(&refused, &stalled),
            [(true, "ChildNotOwned".to_owned())]
        );
        let rolling = [condition("Ready", "False", "DeploymentProgressing")];
        assert!(events_of(&refused, &rolling).is_empty());
    }

    #[test]
    fn long_note_is_cut_to_what_api_server_accepts() {
        assert_eq!(fit(&"x".repeat(MAX_NOTE_BYTES)).len(), MAX_NOTE_BYTES);
        let cut = fit(&"ä".repeat(MAX_NOTE_BYTES));
        assert!(cut.len() <= MAX_NOTE_BYTES && cut.ends_with("ä..."), "{cut}");
    }

    // A problem that exists from the start is reported although no condition has changed.
    #[test]
    fn initial_problem_is_reported() {
        let warned = [condition(
            "SessionStorageWarning",
            "True",
            "SessionStorageMissingForReplicas",
        )];
        assert_eq!(
            events_of(&[], &warned),
            [(true, "SessionStorageMissingForReplicas".to_owned())]
        );
        assert!(
            events_of(
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
