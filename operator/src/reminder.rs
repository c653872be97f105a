//! How often a pod is told that its mounted configuration is old.
//!
//! A kubelet looks at a mounted ConfigMap about once a minute; any change of the pod makes it look at once. So the operator
//! changes an annotation. That is asked for at most three times per pod and configuration: what did not help thrice is
//! something that a person has to see.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How often a pod is told of one configuration.
const TIMES: u32 = 3;
/// How long a pod has to take it before it is told again.
const PATIENCE: Duration = Duration::from_secs(3);

/// What to do about a pod that reports an old configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Set the annotation to this value.
    Annotate(String),
    /// It was told a moment ago.
    Wait,
    /// It was told often enough.
    GiveUp,
}

/// Which pods were told of which configuration, by the uid of the pod.
#[derive(Debug, Default)]
pub struct Reminders(HashMap<String, Told>);

#[derive(Debug)]
struct Told {
    hash: String,
    times: u32,
    last: Instant,
}

impl Reminders {
    /// What to do about the pod `uid`, which does not report `hash`. [`Step::Annotate`] counts as done.
    pub fn step(&mut self, uid: &str, hash: &str, now: Instant) -> Step {
        let told = self.0.get(uid).filter(|told| told.hash == hash);
        let times = match told {
            None => 0,
            Some(told) if now.duration_since(told.last) < PATIENCE => return Step::Wait,
            Some(told) if told.times >= TIMES => return Step::GiveUp,
            Some(told) => told.times,
        };
        let told = Told {
            hash: hash.to_owned(),
            times: times + 1,
            last: now,
        };
        self.0.insert(uid.to_owned(), told);
        // The kubelet looks when the annotation changes, so each time it is another one.
        Step::Annotate(if times == 0 {
            hash.to_owned()
        } else {
            format!("{hash} again-{times}")
        })
    }

    /// Forgets the pods for which `keep` is false.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|uid, _| keep(uid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_told_three_times_with_a_pause_each_time_differently() {
        let (mut reminders, mut now) = (Reminders::default(), Instant::now());
        let mut values = Vec::new();
        for _ in 0..3 {
            let Step::Annotate(value) = reminders.step("pod", "abc", now) else {
                panic!("expected to annotate");
            };
            values.push(value);
            assert_eq!(reminders.step("pod", "abc", now), Step::Wait);
            now += PATIENCE;
        }
        assert_eq!(values, ["abc", "abc again-1", "abc again-2"]);
        assert_eq!(reminders.step("pod", "abc", now), Step::GiveUp);
    }

    #[test]
    fn a_new_configuration_is_told_at_once() {
        let (mut reminders, now) = (Reminders::default(), Instant::now());
        reminders.step("pod", "abc", now);
        assert_eq!(
            reminders.step("pod", "def", now),
            Step::Annotate("def".to_owned())
        );
    }

    #[test]
    fn a_pod_that_is_gone_is_forgotten() {
        let (mut reminders, now) = (Reminders::default(), Instant::now());
        reminders.step("pod", "abc", now);
        reminders.retain(|_| false);
        assert_eq!(
            reminders.step("pod", "abc", now),
            Step::Annotate("abc".to_owned())
        );
    }
}
