//! Third-party clients, as programs that run a script of requests.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use vmcp_external::process::Process;

use super::Conversation;
use crate::wait;

/// How long a program may take for all that it asks.
const LIMIT: Duration = Duration::from_secs(120);

/// Lets the program have these conversations, and returns its report of each response, as [`play`] does.
///
/// # Errors
/// When the program fails or takes too long; the message has its last words.
pub fn converse(program: Command, conversations: &[Conversation]) -> anyhow::Result<Vec<Value>> {
    let conversations = conversations.iter().map(|conversation| {
        let requests = conversation.requests.iter();
        let requests: Vec<_> = requests
            .map(|(method, params)| json!({"method": method, "params": params}))
            .collect();
        json!({"url": conversation.url, "requests": requests})
    });
    play(program, &Value::from_iter(conversations))
}

/// Lets the program play this script, and returns its report of each response. The scripts in `e2e/external` define both formats.
///
/// # Errors
/// When the program fails or takes too long; the message has its last words.
pub fn play(mut program: Command, conversations: &Value) -> anyhow::Result<Vec<Value>> {
    let directory = TempDir::new()?;
    let (script, answers) = (directory.path().join("script"), directory.path().join("answers"));
    fs::write(&script, conversations.to_string())?;
    program.args([&script, &answers]);
    let mut process = Process::start("client", &program)?;
    let ended = wait::until("the client ends", LIMIT, || process.ended()?.context("it runs"))
        .with_context(|| process.last_words())?;
    ensure!(ended.success(), "{ended}: {}", process.last_words());
    let answers = fs::read_to_string(&answers)?;
    let lines = answers.lines();
    lines
        .map(|line| serde_json::from_str(&masked(line)).with_context(|| line.to_owned()))
        .collect()
}

/// The text with each UUID in it replaced: servers name their session in what they say.
#[must_use]
pub fn masked(text: &str) -> String {
    const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];
    const LENGTH: usize = 36;
    let is_uuid = |candidate: &str| {
        let groups: Vec<_> = candidate.split('-').collect();
        groups.len() == GROUPS.len()
            && groups.iter().zip(GROUPS).all(|(group, length)| {
                group.len() == length && group.bytes().all(|byte| byte.is_ascii_hexdigit())
            })
    };
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        if rest.get(..LENGTH).is_some_and(is_uuid) {
            masked.push_str("(uuid)");
            rest = &rest[LENGTH..];
        } else {
            masked.push(next);
            rest = &rest[next.len_utf8()..];
        }
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::masked;

    #[test]
    fn uuids_are_masked_and_nothing_else() {
        assert_eq!(
            masked("für session 5947c005-ccb3-498c-9460-77734d4bd843 at 5947c005-ccb3"),
            "für session (uuid) at 5947c005-ccb3"
        );
    }
}
