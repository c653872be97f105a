//! Fault rules, and the requests that they apply to.

use std::sync::{Mutex, MutexGuard, PoisonError};

use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::args::Refusal;
use crate::seen::Seen;

/// One fault, or several at once, and the requests that they apply to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Rule {
    /// Only requests of this JSON-RPC method; `GET` and `DELETE` mean those verbs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) only_method: Option<String>,
    /// Only calls of this tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) only_tool: Option<String>,
    /// Only so many requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) times: Option<u64>,

    /// Wait first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) slow_ms: Option<u64>,
    /// Wait first, for as long as this rule stands.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) hold: bool,
    /// Execute the request and throw its answer away, before any of the faults that give no answer.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) after_call: bool,

    /// Never answer.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) hang: bool,
    /// Break the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reset: Option<Reset>,
    /// Forget the session that the request bears.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) forget_sessions: Option<Refusal>,
    /// Refuse a GET while the session has one open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) second_get: Option<SecondGet>,
    /// Send the client elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) redirect: Option<String>,
    /// Answer with this status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<Status>,
    /// The `Retry-After` header that goes with `status`: seconds, a date, or something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retry_after: Option<serde_json::Value>,
    /// Answer with a stream of events whose only line has so many bytes and no end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) endless_line: Option<usize>,
    /// Answer with something that claims to be JSON.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) not_json: bool,

    /// Give the right answer as text/html.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) wrong_content_type: bool,
    /// Break off in the middle of the answer.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) truncate: bool,
    /// Answer to another request id.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) wrong_id: bool,
    /// Answer with this text, in which `$id` is the request's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) answer: Option<String>,
    /// Send this text on the stream before the answer, in which `$id` is the request's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sse_before_answer: Option<String>,
    /// Answer twice.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) two_answers: bool,
    /// Keep the response open after the answer.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) sse_without_end: bool,
    /// End the response where the answer would be.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) sse_without_answer: bool,
    /// Name no events, as servers do that cannot resume a stream.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) no_event_ids: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// When a connection breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reset {
    BeforeHeaders,
    AfterHeaders,
}

/// How a second GET is refused: as the TypeScript SDK does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SecondGet {
    #[serde(rename = "409")]
    Conflict,
}

/// A status that a response may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub(crate) struct Status(pub(crate) StatusCode);

impl TryFrom<u16> for Status {
    type Error = String;

    fn try_from(code: u16) -> Result<Self, String> {
        match StatusCode::from_u16(code) {
            Ok(status) if !status.is_informational() => Ok(Self(status)),
            _ => Err(format!("{code} is not the status of a response")),
        }
    }
}

impl From<Status> for u16 {
    fn from(status: Status) -> Self {
        status.0.as_u16()
    }
}

/// The rules in force, the first of which that fits a request applies to it.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<Vec<Rule>>);

impl Faults {
    pub(crate) fn set(&self, rules: Vec<Rule>) {
        *self.rules() = rules;
    }

    pub(crate) fn current(&self) -> Vec<Rule> {
        self.rules().clone()
    }

    /// The rule for a request. `second_get` says whether it is a GET on a session that has one open.
    pub(crate) fn take(&self, seen: &Seen, second_get: bool) -> Option<Rule> {
        let mut rules = self.rules();
        let position = rules.iter().position(|rule| rule.fits(seen, second_get))?;
        let rule = rules.get_mut(position)?;
        let taken = rule.clone();
        if let Some(times) = &mut rule.times {
            *times = times.saturating_sub(1);
            if *times == 0 {
                rules.remove(position);
            }
        }
        Some(taken)
    }

    /// Whether a rule stands that holds a request.
    pub(crate) fn hold(&self, seen: &Seen) -> bool {
        self.rules()
            .iter()
            .any(|rule| rule.hold && rule.fits(seen, false))
    }

    fn rules(&self) -> MutexGuard<'_, Vec<Rule>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rule {
    /// Whether the request suffers. One that a rule could not change does not use up its `times`.
    fn fits(&self, seen: &Seen, second_get: bool) -> bool {
        let method = self
            .only_method
            .as_ref()
            .is_none_or(|method| *method == seen.method);
        let tool = self.only_tool.is_none() || self.only_tool == seen.tool;
        let session = self.forget_sessions.is_none() || seen.session.is_some();
        let get = self.second_get.is_none() || second_get;
        method && tool && session && get
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(tool: &str) -> Seen {
        Seen {
            method: "tools/call".to_owned(),
            tool: Some(tool.to_owned()),
            client: None,
            session: None,
            resumes: None,
        }
    }

    fn rules(json: &str) -> Faults {
        let faults = Faults::default();
        faults.set(serde_json::from_str(json).unwrap());
        faults
    }

    #[test]
    fn rule_is_used_up_by_matching_requests_only() {
        let faults = rules(r#"[{"hang": true, "only_tool": "echo", "times": 2}]"#);
        assert!(faults.take(&call("big"), false).is_none());
        assert!(faults.take(&call("echo"), false).is_some());
        assert_eq!(faults.current()[0].times, Some(1));
        assert!(faults.take(&call("echo"), false).is_some());
        assert!(faults.take(&call("echo"), false).is_none());
        assert!(faults.current().is_empty());
    }

    #[test]
    fn first_matching_rule_applies() {
        let faults = rules(r#"[{"status": 503, "only_tool": "big"}, {"status": 500}]"#);
        let status = |tool| {
            faults
                .take(&call(tool), false)
                .and_then(|rule| rule.status)
                .map(u16::from)
        };
        assert_eq!(status("big"), Some(503));
        assert_eq!(status("echo"), Some(500));
    }

    #[test]
    fn request_without_session_cannot_lose_one() {
        let faults = rules(r#"[{"forget_sessions": "404", "times": 1}]"#);
        assert!(faults.take(&call("echo"), false).is_none());
        let bearing = Seen {
            session: Some("a".to_owned()),
            ..call("echo")
        };
        assert!(faults.take(&bearing, false).is_some());
    }

    #[test]
    fn misspelt_faults_and_impossible_statuses_are_refused() {
        assert!(serde_json::from_str::<Rule>(r#"{"hangs": true}"#).is_err());
        assert!(serde_json::from_str::<Rule>(r#"{"status": 100}"#).is_err());
        assert!(serde_json::from_str::<Rule>(r#"{"status": 5030}"#).is_err());
    }
}
