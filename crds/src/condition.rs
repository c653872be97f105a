//! Merging of Kubernetes conditions. Pure functions: the time is an argument.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Maximum size of a condition's message that the API server accepts.
const MAX_MESSAGE_BYTES: usize = 32 * 1024;

/// The desired state of a condition, without its transition time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionUpdate {
    /// The type of the condition.
    pub type_: &'static str,
    /// Whether the condition is true; `None` if that is unknown.
    pub status: Option<bool>,
    /// The reason, in CamelCase. It is part of the API: users alert on it.
    pub reason: &'static str,
    /// The message for users.
    pub message: String,
}

impl ConditionUpdate {
    /// The status as the API spells it.
    #[must_use]
    pub fn status_text(&self) -> &'static str {
        match self.status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        }
    }
}

/// Applies `updates` to the `old` conditions, in the order of the updates. A condition whose status does not change keeps its
/// transition time; a condition without an update is removed.
#[must_use]
pub fn merge(
    old: &[Condition],
    updates: &[ConditionUpdate],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    updates
        .iter()
        .map(|update| {
            let status = update.status_text();
            let since = find(old, update.type_)
                .filter(|before| before.status == status)
                .map_or(Time(now), |before| before.last_transition_time.clone());
            Condition {
                type_: update.type_.to_owned(),
                status: status.to_owned(),
                reason: update.reason.to_owned(),
                message: truncate(&update.message, MAX_MESSAGE_BYTES).to_owned(),
                last_transition_time: since,
                observed_generation: generation,
            }
        })
        .collect()
}

/// Finds the condition of a type.
#[must_use]
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether a condition is present and true.
#[must_use]
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|condition| condition.status == "True")
}

/// The beginning of `text`, up to `max` bytes, without a part of a character.
#[must_use]
pub fn truncate(text: &str, max: usize) -> &str {
    let end = (0..=text.len().min(max))
        .rev()
        .find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn ready(status: Option<bool>, reason: &'static str) -> ConditionUpdate {
        ConditionUpdate {
            type_: "Ready",
            status,
            reason,
            message: reason.to_lowercase(),
        }
    }

    #[test]
    fn new_condition_gets_current_time() {
        let conditions = merge(&[], &[ready(Some(true), "Serving")], Some(3), at(10));
        assert_eq!(conditions[0].last_transition_time.0, at(10));
        assert_eq!(conditions[0].observed_generation, Some(3));
        assert!(is_true(&conditions, "Ready"));
    }

    #[test]
    fn transition_time_changes_only_with_status() {
        let first = merge(&[], &[ready(Some(false), "Waiting")], Some(1), at(10));
        let reworded = merge(&first, &[ready(Some(false), "Rolling")], Some(2), at(20));
        assert_eq!(reworded[0].last_transition_time.0, at(10));
        assert_eq!(
            (reworded[0].reason.as_str(), reworded[0].observed_generation),
            ("Rolling", Some(2))
        );
        let turned = merge(&reworded, &[ready(Some(true), "Serving")], Some(2), at(30));
        assert_eq!(turned[0].last_transition_time.0, at(30));
    }

    #[test]
    fn repeated_update_changes_nothing() {
        let first = merge(&[], &[ready(None, "Asking")], Some(1), at(10));
        assert_eq!(merge(&first, &[ready(None, "Asking")], Some(1), at(20)), first);
    }

    #[test]
    fn condition_without_update_is_removed() {
        let first = merge(&[], &[ready(Some(true), "Serving")], None, at(10));
        assert!(merge(&first, &[], None, at(20)).is_empty());
    }

    #[test]
    fn long_message_is_cut_between_characters() {
        let long = ConditionUpdate {
            message: "ä".repeat(MAX_MESSAGE_BYTES),
            ..ready(Some(true), "Serving")
        };
        let message = &merge(&[], &[long], None, at(0))[0].message;
        assert!(message.len() <= MAX_MESSAGE_BYTES && message.ends_with('ä'));
    }
}
