//! Reads the audit log of the API server.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde_json::Value as Json;

/// A request in the audit log of the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The Kubernetes verb, for example `list`.
    pub verb: String,
    /// Path and query of the request.
    pub uri: String,
    /// HTTP status of the response.
    pub code: u64,
}

pub(crate) fn requests_of(log: &Path, user: &str) -> anyhow::Result<Vec<Request>> {
    let text = fs::read_to_string(log).with_context(|| format!("cannot read {}", log.display()))?;
    // The last line may be incomplete.
    let events = text
        .lines()
        .filter(|line| line.contains(user))
        .filter_map(|line| serde_json::from_str::<Json>(line).ok());
    let word = |event: &Json, pointer: &str| {
        event
            .pointer(pointer)
            .and_then(Json::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    Ok(events
        .filter(|event| {
            let impersonated = word(event, "/impersonatedUser/username");
            let own = word(event, "/user/username");
            user == if impersonated.is_empty() {
                own
            } else {
                impersonated
            }
        })
        .map(|event| Request {
            verb: word(&event, "/verb"),
            uri: word(&event, "/requestURI"),
            code: event
                .pointer("/responseStatus/code")
                .and_then(Json::as_u64)
                .unwrap_or(0),
        })
        .collect())
}
