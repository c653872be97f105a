//! What the API server notes of each request.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde_json::Value as Json;

/// A request that the API server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What was asked, for example `list`.
    pub verb: String,
    /// Path and query, as they were sent.
    pub uri: String,
    /// The HTTP status of the answer.
    pub code: u64,
}

pub(crate) fn requests_of(log: &Path, user: &str) -> anyhow::Result<Vec<Request>> {
    let text = fs::read_to_string(log).with_context(|| format!("cannot read {}", log.display()))?;
    // The last line may be half written.
    let events = text
        .lines()
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
