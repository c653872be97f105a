//! Conditions in Kubernetes' usual form. Pure: the time comes in as an argument.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The longest message that the API server accepts.
const MAX_MESSAGE: usize = 32 * 1024;

/// What a condition says, without when it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionUpdate {
    /// The type of the condition.
    pub type_: &'static str,
    /// Whether it holds; `None` when that is not known.
    pub status: Option<bool>,
    /// Why, in one CamelCase word. It is API: people alert on it.
    pub reason: &'static str,
    /// Why, for people.
    pub message: String,
}

impl ConditionUpdate {
    /// The status in the API's spelling.
    #[must_use]
    pub fn status_text(&self) -> &'static str {
        match self.status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        }
    }
}

/// The conditions that `updates` make of `old`. A condition whose status did not change keeps the time of its last
/// transition; a condition that has no update is gone. The order is that of the updates.
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
                message: shortened(&update.message),
                last_transition_time: since,
                observed_generation: generation,
            }
        })
        .collect()
}

/// The condition of a type.
#[must_use]
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether a condition is there and holds.
#[must_use]
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|condition| condition.status == "True")
}

fn shortened(message: &str) -> String {
    let end = (0..=message.len().min(MAX_MESSAGE))
        .rev()
        .find(|&end| message.is_char_boundary(end));
    message[..end.unwrap_or(0)].to_owned()
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
    fn a_new_condition_begins_now() {
        let conditions = merge(&[], &[ready(Some(true), "Serving")], Some(3), at(10));
        assert_eq!(conditions[0].last_transition_time.0, at(10));
        assert_eq!(conditions[0].observed_generation, Some(3));
        assert!(is_true(&conditions, "Ready"));
    }

    #[test]
    fn the_time_moves_only_when_the_status_does() {
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
    fn the_same_verdict_again_changes_nothing() {
        let first = merge(&[], &[ready(None, "Asking")], Some(1), at(10));
        assert_eq!(merge(&first, &[ready(None, "Asking")], Some(1), at(20)), first);
    }

    #[test]
    fn a_condition_without_a_verdict_is_gone() {
        let first = merge(&[], &[ready(Some(true), "Serving")], None, at(10));
        assert!(merge(&first, &[], None, at(20)).is_empty());
    }

    #[test]
    fn a_message_that_is_too_long_is_cut_between_characters() {
        let long = ConditionUpdate {
            message: "ä".repeat(MAX_MESSAGE),
            ..ready(Some(true), "Serving")
        };
        let message = &merge(&[], &[long], None, at(0))[0].message;
        assert!(message.len() <= MAX_MESSAGE && message.ends_with('ä'));
    }
}
