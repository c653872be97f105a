//! How a backend is talked to, from the raw file to the validated form.

use std::path::Path;
use std::time::Duration;

use vmcp_crds::config::{BackendConfig, Duration as RawDuration};

use super::{Invalid, invalid};
use crate::config::{Contact, Pattern, Timeouts};

/// The shortest deadline: nothing real answers sooner, and 0 does not mean "none".
const SHORTEST: Duration = Duration::from_millis(1);
/// The longest deadline of anything.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// How the backend `raw` is talked to; `path` gives the place of one of its fields in the file.
pub(super) fn contact(
    raw: &BackendConfig,
    path: &impl Fn(&str) -> String,
    file: &Path,
) -> Result<Contact, Invalid> {
    let span = |field: &str, span: RawDuration| {
        if (SHORTEST..=LONGEST).contains(&span.get()) {
            return Ok(span.get());
        }
        let message = format!("found {span}; allowed is 1ms to 24h");
        Err(invalid(file, &path(field), message))
    };
    let timeouts = &raw.timeouts;
    let first_byte = timeouts.first_byte;
    let mut tools = Vec::with_capacity(raw.tools.deadlines.len());
    for (tool, length) in &raw.tools.deadlines {
        tools.push((tool, span(&format!("tools.deadlines.{tool}"), *length)?));
    }
    // The exact name first, then longer patterns before shorter ones.
    tools.sort_by_key(|(tool, _)| (tool.contains(['*', '?']), std::cmp::Reverse(tool.len())));
    Ok(Contact {
        timeouts: Timeouts {
            connect: span("timeouts.connect", timeouts.connect)?,
            first_byte: first_byte
                .map(|first_byte| span("timeouts.firstByte", first_byte))
                .transpose()?,
            idle: span("timeouts.idle", timeouts.idle)?,
            call: span("timeouts.call", timeouts.call)?,
            tools: tools
                .into_iter()
                .map(|(tool, length)| (Pattern::new(tool), length))
                .collect(),
            extend_on_progress: timeouts.extend_on_progress,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Contact, String> {
        let raw: BackendConfig =
            serde_yaml::from_str(&format!("{{name: a, url: 'http://a/mcp', {text}}}")).unwrap();
        let path = |field: &str| format!("backends[0].{field}");
        contact(&raw, &path, Path::new("gateway.yaml")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_tools_own_name_counts_more_than_a_pattern_and_a_longer_pattern_more_than_a_shorter() {
        let timeouts =
            read("timeouts: {call: 10s}, tools: {deadlines: {'*': 1s, 'get_*': 2s, get_time: 3s}}")
                .unwrap()
                .timeouts;
        for (tool, secs) in [
            (Some("get_time"), 3),
            (Some("get_date"), 2),
            (Some("put"), 1),
            (None, 10),
        ] {
            assert_eq!(timeouts.of_call(tool), Duration::from_secs(secs), "{tool:?}");
        }
        assert_eq!(timeouts.longest_call(), Duration::from_secs(10));
    }

    #[test]
    fn spans_that_cannot_be_meant_are_refused_with_their_path() {
        for (text, path) in [
            ("timeouts: {connect: 0s}", "backends[0].timeouts.connect"),
            ("timeouts: {firstByte: 0s}", "backends[0].timeouts.firstByte"),
            ("timeouts: {idle: 25h}", "backends[0].timeouts.idle"),
            ("timeouts: {call: 25h}", "backends[0].timeouts.call"),
            ("tools: {deadlines: {x: 0s}}", "backends[0].tools.deadlines.x"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(path) && error.contains("1ms to 24h"), "{error}");
        }
    }
}
