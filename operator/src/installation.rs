//! Notices another installation of the operator that writes the same objects.
//!
//! Each installation marks the objects that it applies with an annotation. If the mark on an object that this process has applied is another
//! one, a second installation is at work. The first time, the object is applied again. The second time, this installation stops writing for
//! a while: otherwise the two would replace each other's pods for ever.

use std::time::Duration;

use tokio::time::Instant;

/// Time for which a second installation is remembered.
const MEMORY: Duration = Duration::from_secs(600);

/// What one virtual server remembers of a second installation.
#[derive(Debug, Default)]
pub struct InstallationConflict(Option<Seen>);

#[derive(Debug)]
struct Seen {
    other: String,
    since: Instant,
    times: u32,
    /// Whether the current reconcile is part of `times`.
    is_counted: bool,
}

impl InstallationConflict {
    /// Begins a reconcile. Several objects with a foreign mark count once in it.
    pub fn begin_reconcile(&mut self) {
        if self.0.as_ref().is_some_and(|seen| seen.since.elapsed() >= MEMORY) {
            self.0 = None;
        }
        if let Some(seen) = &mut self.0 {
            seen.is_counted = false;
        }
    }

    /// Records the mark of another installation on an object that this process has applied.
    pub fn record(&mut self, other: &str) {
        let seen = self.0.get_or_insert_with(|| Seen {
            other: String::new(),
            since: Instant::now(),
            times: 0,
            is_counted: false,
        });
        other.clone_into(&mut seen.other);
        if !seen.is_counted {
            seen.times = seen.times.saturating_add(1);
            seen.is_counted = true;
        }
    }

    /// Whether this installation leaves the objects to the other one.
    #[must_use]
    pub fn yields(&self) -> bool {
        self.0.as_ref().is_some_and(|seen| seen.times > 1)
    }

    /// The message about both installations, if there is another one. `kind` is that of the resource with the objects. It is the same in both, because both write it into the same status.
    #[must_use]
    pub fn message(&self, own: &str, kind: &str) -> Option<String> {
        let other = self.0.as_ref()?.other.as_str();
        let (first, second) = if own < other { (own, other) } else { (other, own) };
        Some(format!(
            "two installations of the operator write the objects of this {kind}: {first} and {second} (namespace/lease). \
             Uninstall one of them and restart the other, or set watchNamespaces so that they watch different namespaces"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The first foreign mark is put right, and the second is not. After a while it is tried again.
    #[tokio::test(start_paused = true)]
    async fn installation_yields_at_second_mark_for_a_while() {
        let mut conflict = InstallationConflict::default();
        conflict.begin_reconcile();
        assert!(conflict.message("a/x", "VirtualMCPServer").is_none());
        conflict.record("b/x");
        conflict.record("b/x");
        assert!(!conflict.yields() && conflict.message("a/x", "VirtualMCPServer").is_some());
        conflict.begin_reconcile();
        assert!(!conflict.yields());
        conflict.record("b/x");
        assert!(conflict.yields());
        tokio::time::advance(MEMORY).await;
        conflict.begin_reconcile();
        assert!(!conflict.yields() && conflict.message("a/x", "VirtualMCPServer").is_none());
    }

    #[tokio::test]
    async fn both_installations_have_the_same_message() {
        let [mut one, mut other] = [InstallationConflict::default(), InstallationConflict::default()];
        one.record("b/x");
        other.record("a/x");
        assert_eq!(
            one.message("a/x", "VirtualMCPServer"),
            other.message("b/x", "VirtualMCPServer")
        );
        assert!(
            one.message("a/x", "VirtualMCPServer")
                .is_some_and(|text| text.contains("a/x and b/x"))
        );
    }
}
