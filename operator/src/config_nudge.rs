//! Decides when to nudge a pod whose mounted configuration is outdated.
//!
//! A kubelet syncs a mounted ConfigMap about once a minute, but at once when the pod changes. So the operator changes an annotation
//! of the pod: at most three times per pod and configuration. If that does not help, the status reports the pod.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Maximum number of nudges per pod and configuration.
const MAX_NUDGES: u32 = 3;
/// Minimum time between two nudges of a pod.
const NUDGE_INTERVAL: Duration = Duration::from_secs(3);

/// The next action for a pod that reports an outdated configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NudgeStep {
    /// Set the annotation to this value.
    Annotate(String),
    /// Wait: the last nudge is recent.
    Wait,
    /// Do nothing more: the maximum number of nudges has had no effect.
    GiveUp,
}

/// The nudges of each pod, by pod uid.
#[derive(Debug, Default)]
pub struct ConfigNudges(HashMap<String, NudgedPod>);

#[derive(Debug)]
struct NudgedPod {
    hash: String,
    count: u32,
    last: Instant,
}

impl ConfigNudges {
    /// The next action for the pod `uid`, which does not report `hash` yet. [`NudgeStep::Annotate`] counts as a nudge.
    pub fn next_step(&mut self, uid: &str, hash: &str, now: Instant) -> NudgeStep {
        let nudged = self.0.get(uid).filter(|nudged| nudged.hash == hash);
        let count = match nudged {
            None => 0,
            Some(nudged) if now.duration_since(nudged.last) < NUDGE_INTERVAL => return NudgeStep::Wait,
            Some(nudged) if nudged.count >= MAX_NUDGES => return NudgeStep::GiveUp,
            Some(nudged) => nudged.count,
        };
        let nudged = NudgedPod {
            hash: hash.to_owned(),
            count: count + 1,
            last: now,
        };
        self.0.insert(uid.to_owned(), nudged);
        // Each nudge needs another value: only a change of the annotation makes the kubelet sync.
        NudgeStep::Annotate(if count == 0 {
            hash.to_owned()
        } else {
            format!("{hash} again-{count}")
        })
    }

    /// Removes the pods for which `keep` returns false.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|uid, _| keep(uid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A pod is nudged three times, with a pause in between, each time with another annotation.
    #[test]
    fn pod_is_nudged_three_times_with_pauses() {
        let (mut nudges, mut now) = (ConfigNudges::default(), Instant::now());
        let mut values = Vec::new();
        for _ in 0..3 {
            let NudgeStep::Annotate(value) = nudges.next_step("pod", "abc", now) else {
                panic!("expected to annotate");
            };
            values.push(value);
            assert_eq!(nudges.next_step("pod", "abc", now), NudgeStep::Wait);
            now += NUDGE_INTERVAL;
        }
        assert_eq!(values, ["abc", "abc again-1", "abc again-2"]);
        assert_eq!(nudges.next_step("pod", "abc", now), NudgeStep::GiveUp);
    }

    #[test]
    fn new_configuration_is_nudged_at_once() {
        let (mut nudges, now) = (ConfigNudges::default(), Instant::now());
        nudges.next_step("pod", "abc", now);
        assert_eq!(
            nudges.next_step("pod", "def", now),
            NudgeStep::Annotate("def".to_owned())
        );
    }

    #[test]
    fn removed_pod_is_forgotten() {
        let (mut nudges, now) = (ConfigNudges::default(), Instant::now());
        nudges.next_step("pod", "abc", now);
        nudges.retain(|_| false);
        assert_eq!(
            nudges.next_step("pod", "abc", now),
            NudgeStep::Annotate("abc".to_owned())
        );
    }
}
