//! The protocol era of a backend, as its answers to `initialize` show it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use arc_swap::ArcSwapOption;
use serde::Deserialize;
use vmcp_crds::status::ProtocolEra;

use crate::mcp::revision::Revision;

const LEGACY: u8 = 1;
const MODERN: u8 = 2;

/// The era that the last answer to `initialize` showed, and the revision that it negotiated.
#[derive(Debug, Default)]
pub(super) struct ObservedEra {
    era: AtomicU8,
    revision: ArcSwapOption<Revision>,
}

impl ObservedEra {
    pub(super) fn get(&self) -> Option<ProtocolEra> {
        match self.era.load(Ordering::Relaxed) {
            LEGACY => Some(ProtocolEra::Legacy),
            MODERN => Some(ProtocolEra::Modern),
            _ => None,
        }
    }

    pub(super) fn revision(&self) -> Option<Revision> {
        self.revision.load().as_deref().copied()
    }

    /// The backend accepted `initialize` with `revision`.
    pub(super) fn note_accepted(&self, revision: Revision) {
        self.era.store(LEGACY, Ordering::Relaxed);
        self.revision.store(Some(Arc::new(revision)));
    }

    /// The backend refused `initialize` with the error message `body`. Only a list of revisions that are all later than the legacy era shows
    /// its era: servers refuse `initialize` for many other reasons.
    pub(super) fn note_refusal(&self, body: &[u8]) {
        let named = named_revisions(body);
        let is_modern = |name: &String| name.as_str() > Revision::LATEST.as_str();
        if !named.is_empty() && named.iter().all(is_modern) {
            self.era.store(MODERN, Ordering::Relaxed);
        }
    }
}

/// Returns the names in `error.data.supported` of a message (specification, basic/lifecycle).
pub(super) fn named_revisions(message: &[u8]) -> Vec<String> {
    #[derive(Deserialize)]
    struct Message {
        error: ErrorObject,
    }
    #[derive(Deserialize)]
    struct ErrorObject {
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        supported: Vec<String>,
    }
    let message = serde_json::from_slice::<Message>(message);
    message
        .map(|message| message.error.data.supported)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn era_follows_the_last_answer_that_shows_it() {
        let era = ObservedEra::default();
        let refusal = |supported: &str| {
            format!(
                r#"{{"jsonrpc":"2.0","id":1,"error":{{"code":-32022,"message":"","data":{{"supported":{supported}}}}}}}"#
            )
        };
        let legacy_ones = [r#"["2025-06-18","2026-07-28"]"#, r#"["2025-11-25"]"#, "[]", "1"];
        for unclear in legacy_ones
            .map(refusal)
            .iter()
            .map(String::as_str)
            .chain(["", "{}"])
        {
            era.note_refusal(unclear.as_bytes());
            assert_eq!(era.get(), None, "{unclear}");
        }
        era.note_refusal(refusal(r#"["2026-07-28"]"#).as_bytes());
        assert_eq!(era.get(), Some(ProtocolEra::Modern));
        era.note_accepted(Revision::LATEST);
        assert_eq!(era.get(), Some(ProtocolEra::Legacy));
    }
}
