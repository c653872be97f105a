//! Checks that the fields of a backend are valid and do not contradict each other.

use std::collections::HashSet;
use std::net::IpAddr;

use http::HeaderValue;
use http::uri::{Scheme, Uri};

use super::super::{
    AggregationConfig, AnnotationOverride, BackendConfig, BackendTransport, CatalogScope, ConflictStrategy,
    Duration, HeaderSource, Timeouts,
};
use super::aggregation_check::{MAX_NAME_BYTES, is_name_byte};
use super::range::{self, DurationRange};
use super::{DNS_LABEL, FieldError, at, below, header, is_dns_label, passed_header, words};

/// The lowest `maxAnswerBytes`: the `initialize` response of a small server.
const MIN_ANSWER_BYTES: u64 = 1024;
/// Maximum number of concurrent and of waiting calls.
const MAX_CALLS: u32 = 100_000;
/// The longest name that is advertised: each client receives it with each list.
pub const MAX_LENIENT_NAME_BYTES: usize = 1024;

/// Whether `character` is a control character, or reorders or breaks the text around a name, so that people read another one.
#[must_use]
pub fn is_unprintable(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Which names overrides may give.
struct Names {
    max_bytes: usize,
    may_contain: fn(&str) -> bool,
    characters: &'static str,
}

const TOOL_NAMES: Names = Names {
    max_bytes: MAX_NAME_BYTES,
    may_contain: |name| name.bytes().all(is_name_byte),
    characters: "of A-Z a-z 0-9 _ . / -",
};
const PROMPT_NAMES: Names = Names {
    max_bytes: MAX_LENIENT_NAME_BYTES,
    may_contain: |name| !name.chars().any(is_unprintable),
    characters: "bytes without control characters",
};

impl BackendConfig {
    /// Checks the rules that the types do not express. `aggregation` is that of the same gateway.
    ///
    /// # Errors
    /// The name of the first invalid field, and why it is invalid.
    pub fn check(&self, aggregation: &AggregationConfig) -> Result<(), FieldError> {
        if !is_dns_label(&self.name) {
            let message = format!("found {:?}; expected {DNS_LABEL}", self.name);
            return Err(("name".into(), message));
        }
        if self.command.is_empty() {
            self.check_url()?;
        } else {
            self.check_command()?;
        }
        self.check_names(aggregation)?;
        self.check_resilience()?;
        self.check_timeouts()?;
        self.check_session()?;
        self.check_host()?;
        self.check_headers()
    }

    fn check_names(&self, aggregation: &AggregationConfig) -> Result<(), FieldError> {
        if self.prefix.is_some() && aggregation.strategy != ConflictStrategy::Prefix {
            let message = format!(
                "has no effect with `aggregation.strategy: {}`; set `strategy: prefix` or remove it",
                aggregation.strategy.as_str()
            );
            return Err(("prefix".into(), message));
        }
        for (field, patterns) in [
            ("tools.allow", &self.tools.allow),
            ("tools.deny", &self.tools.deny),
            ("tools.hidden", &self.tools.hidden),
            ("prompts.allow", &self.prompts.allow),
            ("prompts.deny", &self.prompts.deny),
            ("resources.allow", &self.resources.allow),
            ("resources.deny", &self.resources.deny),
        ] {
            if let Some(index) = patterns.iter().position(String::is_empty) {
                return Err((
                    format!("{field}[{index}]").into(),
                    words::EMPTY_PATTERN.to_owned(),
                ));
            }
        }
        let prefix = self.name_prefix(aggregation);
        if prefix.len() >= MAX_NAME_BYTES || !prefix.bytes().all(is_name_byte) {
            let message = format!("results in the prefix {prefix:?}; {}", words::PREFIX_EXPECTED);
            return Err(("prefix".into(), message));
        }
        let tools = self.tools.overrides.iter().map(|(name, named)| {
            let has_text = named.title.is_some() || named.description.is_some();
            let changes = has_text || named.annotations != AnnotationOverride::default();
            (name.as_str(), named.name.as_deref(), changes)
        });
        check_overrides("tools", tools, &TOOL_NAMES, &prefix)?;
        let prompts = self.prompts.overrides.iter().map(|(name, named)| {
            let changes = named.title.is_some() || named.description.is_some();
            (name.as_str(), named.name.as_deref(), changes)
        });
        check_overrides("prompts", prompts, &PROMPT_NAMES, &prefix)
    }

    fn check_resilience(&self) -> Result<(), FieldError> {
        let (breaker, concurrency, health) = (&self.breaker, &self.concurrency, &self.health);
        in_range("health.interval", range::PROBE_INTERVAL, health.interval)?;
        in_range("health.timeout", range::PROBE_TIMEOUT, health.timeout)?;
        if health.unhealthy_after == 0 {
            return Err((
                "health.unhealthyAfter".into(),
                "found 0; the minimum is 1".to_owned(),
            ));
        }
        in_range("breaker.openFor", range::BREAKER_OPEN_TIME, breaker.open_for)?;
        if concurrency.limit == 0 || concurrency.limit > MAX_CALLS {
            let message = format!("found {}; allowed are 1 to {MAX_CALLS}", concurrency.limit);
            return Err(("concurrency.limit".into(), message));
        }
        if concurrency.queue > MAX_CALLS {
            let message = format!("found {}; allowed are 0 to {MAX_CALLS}", concurrency.queue);
            return Err(("concurrency.queue".into(), message));
        }
        in_range("concurrency.wait", range::PERMIT_WAIT, concurrency.wait)
    }

    fn check_timeouts(&self) -> Result<(), FieldError> {
        if self.max_answer_bytes < MIN_ANSWER_BYTES {
            let message = format!(
                "found {}; the minimum is {MIN_ANSWER_BYTES}",
                self.max_answer_bytes
            );
            return Err(("maxAnswerBytes".into(), message));
        }
        for (tool, limit) in &self.tools.deadlines {
            range::TIMEOUT
                .check(*limit)
                .map_err(at(format!("tools.deadlines.{tool}")))?;
        }
        self.timeouts.check().map_err(below("timeouts"))
    }

    fn check_session(&self) -> Result<(), FieldError> {
        let refuse = |message: &str| Err(("sharedSession".into(), message.to_owned()));
        match self {
            _ if !self.shared_session => Ok(()),
            _ if self.transport == BackendTransport::Sse => refuse(words::SHARED_SESSION_WITH_SSE),
            _ if self.catalog == CatalogScope::PerSession => refuse(words::SHARED_SESSION_WITH_CATALOG),
            _ => Ok(()),
        }
    }

    fn check_host(&self) -> Result<(), FieldError> {
        let url = self.url.parse::<Uri>().ok();
        let host = url.as_ref().and_then(Uri::host).unwrap_or_default();
        let is_address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        if is_address && !self.addresses.is_empty() {
            return Err(("addresses".into(), words::ADDRESSES_WITHOUT_EFFECT.to_owned()));
        }
        let Some(tls) = &self.tls else { return Ok(()) };
        if url.is_some_and(|url| url.scheme() == Some(&Scheme::HTTP)) {
            return Err(("tls".into(), words::TLS_WITHOUT_EFFECT.to_owned()));
        }
        match (&tls.cert_file, &tls.key_file) {
            (Some(_), None) => Err(("tls.certFile".into(), "requires keyFile".to_owned())),
            (None, Some(_)) => Err(("tls.keyFile".into(), "requires certFile".to_owned())),
            _ => Ok(()),
        }
    }

    fn check_headers(&self) -> Result<(), FieldError> {
        let mut names = HashSet::new();
        for (name, source) in &self.headers {
            let refuse = |message: String| Err((format!("headers.{name}").into(), message));
            let parsed = match header(name) {
                Ok(parsed) => parsed,
                Err(message) => return refuse(message),
            };
            if !names.insert(parsed) {
                return refuse(words::DUPLICATE_HEADER.to_owned());
            }
            if let Err(message) = source.check() {
                return refuse(message.to_owned());
            }
        }
        for (index, name) in self.pass_headers.iter().enumerate() {
            let refuse = |message: String| Err((format!("passHeaders[{index}]").into(), message));
            match passed_header(name) {
                Ok(parsed) if names.contains(&parsed) => {
                    return refuse(format!("{name:?} {}", words::HEADER_IN_BOTH));
                }
                Ok(_) => {}
                Err(message) => return refuse(message),
            }
        }
        Ok(())
    }
}

impl HeaderSource {
    /// Checks the rules that the types do not express.
    ///
    /// # Errors
    /// Why the source is invalid. The message does not contain the value.
    pub fn check(&self) -> Result<(), &'static str> {
        let sources = [self.env.is_some(), self.file.is_some(), self.value.is_some()];
        if sources.iter().filter(|is_set| **is_set).count() != 1 {
            return Err(words::HEADER_SOURCE_EXPECTED);
        }
        if HeaderValue::from_str(&self.prefix).is_err() {
            return Err(words::HEADER_PREFIX_EXPECTED);
        }
        let is_valid = |value: &String| !value.is_empty() && HeaderValue::from_str(value).is_ok();
        if !self.value.as_ref().is_none_or(is_valid) {
            return Err(words::HEADER_VALUE_EXPECTED);
        }
        Ok(())
    }
}

impl Timeouts {
    /// Checks the rules that the types do not express.
    ///
    /// # Errors
    /// The name of the first invalid field, and why it is invalid.
    pub fn check(&self) -> Result<(), FieldError> {
        in_range("connect", range::TIMEOUT, self.connect)?;
        if let Some(first_byte) = self.first_byte {
            in_range("firstByte", range::TIMEOUT, first_byte)?;
        }
        in_range("idle", range::TIMEOUT, self.idle)?;
        in_range("call", range::TIMEOUT, self.call)
    }
}

pub(super) fn in_range(field: &'static str, range: DurationRange, value: Duration) -> Result<(), FieldError> {
    range.check(value).map_err(at(field))
}

/// Checks the overrides of one kind: the name of the item, its new name, and whether something else of it changes.
fn check_overrides<'a>(
    kind: &str,
    overrides: impl Iterator<Item = (&'a str, Option<&'a str>, bool)>,
    names: &Names,
    prefix: &str,
) -> Result<(), FieldError> {
    let mut given = HashSet::new();
    let max_bytes = names.max_bytes.saturating_sub(prefix.len());
    for (name, renamed, changes) in overrides {
        let Some(renamed) = renamed else {
            if changes {
                continue;
            }
            let path = format!("{kind}.overrides.{name}").into();
            return Err((path, words::EMPTY_OVERRIDE.to_owned()));
        };
        let refuse = |message| Err((format!("{kind}.overrides.{name}.name").into(), message));
        if renamed.is_empty() || renamed.len() > max_bytes || !(names.may_contain)(renamed) {
            return refuse(format!(
                "found {renamed:?}; allowed are 1 to {max_bytes} {} after the prefix {prefix:?}",
                names.characters
            ));
        }
        if !given.insert(renamed) {
            return refuse(format!("duplicate name {renamed:?}; {}", words::NAME_TWICE));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, aggregation: &str) -> Result<(), String> {
        let backend: BackendConfig =
            serde_yaml::from_str(&format!("{{name: a, url: 'http://a/mcp', {text}}}")).unwrap();
        let aggregation: AggregationConfig = serde_yaml::from_str(aggregation).unwrap();
        backend
            .check(&aggregation)
            .map_err(|(field, message)| format!("{field}: {message}"))
    }

    #[test]
    fn valid_backend_is_accepted() {
        for text in [
            "",
            "headers: {Authorization: {env: TOKEN, prefix: 'Bearer '}, X-Key: {file: key}}, passHeaders: [X-Tenant]",
            "sharedSession: true",
            "catalog: perSession",
            "addresses: [127.0.0.1, '::1']",
            "prompts: {overrides: {x: {name: 'Überprüfen: Code'}}}",
            "concurrency: {limit: 1, queue: 0, wait: 0s}, breaker: {failures: 0}",
        ] {
            check(text, "{}").unwrap();
        }
    }

    #[test]
    fn invalid_field_is_rejected_with_path_and_reason() {
        for (text, path, reason) in [
            ("headers: {Host: {env: X}}", "headers.Host", "themselves"),
            ("headers: {X-A: {}}", "headers.X-A", "exactly one"),
            ("headers: {X-A: {env: X, file: x}}", "headers.X-A", "exactly one"),
            (
                "headers: {X-A: {env: X}, x-a: {env: X}}",
                "headers.x-a",
                "duplicate",
            ),
            (
                "headers: {X-A: {env: X, prefix: \"a\\nb\"}}",
                "headers.X-A",
                "prefix",
            ),
            (
                "passHeaders: [Authorization]",
                "passHeaders[0]",
                "never forwarded",
            ),
            ("passHeaders: [Cookie]", "passHeaders[0]", "never forwarded"),
            ("passHeaders: [Mcp-Session-Id]", "passHeaders[0]", "themselves"),
            (
                "headers: {X-A: {env: X}}, passHeaders: [x-a]",
                "passHeaders[0]",
                "also in",
            ),
            (
                "sharedSession: true, transport: sse",
                "sharedSession",
                "transport: sse",
            ),
            (
                "sharedSession: true, catalog: perSession",
                "sharedSession",
                "catalog: perSession",
            ),
            ("tls: {caFile: ca.crt}", "tls", "https"),
            ("timeouts: {connect: 0s}", "timeouts.connect", "1ms to 24h"),
            ("timeouts: {firstByte: 0s}", "timeouts.firstByte", "1ms to 24h"),
            ("timeouts: {idle: 25h}", "timeouts.idle", "1ms to 24h"),
            ("timeouts: {call: 25h}", "timeouts.call", "1ms to 24h"),
            ("tools: {deadlines: {x: 0s}}", "tools.deadlines.x", "1ms to 24h"),
            ("maxAnswerBytes: 0", "maxAnswerBytes", "the minimum is 1024"),
            (
                "breaker: {openFor: 10ms}",
                "breaker.openFor",
                "found 10ms; allowed are 100ms to 1h",
            ),
            ("breaker: {openFor: 2h}", "breaker.openFor", "found 2h"),
            ("concurrency: {limit: 0}", "concurrency.limit", "found 0"),
            ("concurrency: {queue: 100001}", "concurrency.queue", "100001"),
            (
                "concurrency: {wait: 61s}",
                "concurrency.wait",
                "found 1m1s; the maximum is 1m",
            ),
            ("health: {interval: 10ms}", "health.interval", "10ms"),
            ("health: {timeout: 2m}", "health.timeout", "2m"),
            ("health: {unhealthyAfter: 0}", "health.unhealthyAfter", "found 0"),
            ("tools: {allow: [x, '']}", "tools.allow[1]", "matches nothing"),
            ("resources: {deny: ['']}", "resources.deny[0]", "matches nothing"),
            ("prefix: 'a b'", "prefix", "\"a b\""),
            (
                "tools: {overrides: {x: {name: 'a b'}}}",
                "tools.overrides.x.name",
                "\"a b\"",
            ),
            (
                "tools: {overrides: {x: {name: ''}}}",
                "tools.overrides.x.name",
                "found \"\"",
            ),
            (
                "tools: {overrides: {x: {}}}",
                "tools.overrides.x",
                "overrides nothing",
            ),
            (
                "prompts: {overrides: {x: {}}}",
                "prompts.overrides.x",
                "overrides nothing",
            ),
            (
                "tools: {overrides: {x: {name: z}, y: {name: z}}}",
                "tools.overrides.y.name",
                "duplicate name",
            ),
            (
                r#"prompts: {overrides: {x: {name: "a\tb"}}}"#,
                "prompts.overrides.x.name",
                "without control characters",
            ),
        ] {
            let error = check(text, "{}").unwrap_err();
            assert!(
                error.starts_with(&format!("{path}: ")) && error.contains(reason),
                "{text}: {error}"
            );
        }
        let error = check("prefix: x_", "{strategy: none}").unwrap_err();
        assert!(
            error.starts_with("prefix: has no effect with `aggregation.strategy: none`"),
            "{error}"
        );
    }

    // A name is as long as the protocol recommends, together with its prefix.
    #[test]
    fn name_too_long_with_prefix_is_rejected() {
        let long = "x".repeat(127);
        let error = check(&format!("prefix: '{long}x'"), "{}").unwrap_err();
        assert!(error.starts_with("prefix: "), "{error}");
        let name = format!("tools: {{overrides: {{x: {{name: '{long}'}}}}}}");
        let error = check(&name, "{}").unwrap_err();
        assert!(error.contains("1 to 126"), "{error}");
        check(&name, "{strategy: none}").unwrap();
    }

    #[test]
    fn half_client_certificate_is_rejected() {
        for (tls, expected) in [
            ("{certFile: c}", "tls.certFile: requires keyFile"),
            ("{keyFile: k}", "tls.keyFile: requires certFile"),
        ] {
            let backend = BackendConfig {
                name: "a".to_owned(),
                url: "https://a/mcp".to_owned(),
                tls: Some(serde_yaml::from_str(tls).unwrap()),
                ..BackendConfig::default()
            };
            let (field, message) = backend.check(&AggregationConfig::default()).unwrap_err();
            assert_eq!(format!("{field}: {message}"), expected);
        }
    }

    #[test]
    fn addresses_for_address_url_are_rejected() {
        let backend = BackendConfig {
            name: "a".to_owned(),
            url: "http://[::1]:8000/mcp".to_owned(),
            addresses: vec![[127, 0, 0, 1].into()],
            ..BackendConfig::default()
        };
        let (field, message) = backend.check(&AggregationConfig::default()).unwrap_err();
        assert!(
            field == "addresses" && message.contains("is an IP address"),
            "{message}"
        );
    }
}
