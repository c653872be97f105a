//! Validates the settings of connections and requests to a backend.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use http::HeaderName;
use vmcp_crds::config::{BackendConfig, BackendTransport, CatalogScope, Duration as RawDuration, rules};

use super::{ConfigFault, directory};
use crate::config::{
    CertificatePair, ConfiguredHeader, HeaderSource, Pattern, Timeouts, UpstreamSettings, UpstreamTls,
};

/// The shortest time limit. 0 is rejected because it does not mean "unlimited".
const MIN_TIMEOUT: Duration = Duration::from_millis(1);
/// The longest time limit.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// The lowest `maxAnswerBytes`: the `initialize` response of a small server.
const MIN_ANSWER_BYTES: u64 = 1024;

/// Validates the connection settings of the backend `raw`. `path` returns the path of one of its fields in the file.
pub(super) fn upstream(
    raw: &BackendConfig,
    path: &impl Fn(&str) -> String,
    file: &Path,
) -> Result<UpstreamSettings, ConfigFault> {
    let span = |field: &str, span: RawDuration| {
        if (MIN_TIMEOUT..=MAX_TIMEOUT).contains(&span.get()) {
            return Ok(span.get());
        }
        let message = format!("found {span}; allowed are 1ms to 24h");
        Err(ConfigFault::at(&path(field), message))
    };
    if raw.max_answer_bytes < MIN_ANSWER_BYTES {
        let message = format!(
            "found {}; the minimum is {MIN_ANSWER_BYTES}, because shorter responses could not be passed on",
            raw.max_answer_bytes
        );
        return Err(ConfigFault::at(&path("maxAnswerBytes"), message));
    }
    let timeouts = &raw.timeouts;
    let first_byte = timeouts.first_byte;
    let mut tools = Vec::with_capacity(raw.tools.deadlines.len());
    for (tool, length) in &raw.tools.deadlines {
        tools.push((tool, span(&format!("tools.deadlines.{tool}"), *length)?));
    }
    // The most specific first: exact names, then longer patterns before shorter ones.
    tools.sort_by_key(|(tool, _)| (tool.contains(['*', '?']), std::cmp::Reverse(tool.len())));
    Ok(UpstreamSettings {
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
        addresses: addresses(raw, path)?,
        tls: tls(raw, path, file)?,
        max_answer_bytes: raw.max_answer_bytes,
        headers: headers(raw, path, file)?,
        pass_headers: pass_headers(raw, path)?,
        catalog: raw.catalog,
        shares_session: shares_session(raw, path)?,
    })
}

fn shares_session(raw: &BackendConfig, path: &impl Fn(&str) -> String) -> Result<bool, ConfigFault> {
    let refuse = |message: &str| Err(ConfigFault::at(&path("sharedSession"), message));
    match raw {
        _ if !raw.shared_session => Ok(false),
        _ if raw.transport == BackendTransport::Sse => refuse(
            "has no effect with `transport: sse`, where a session is a connection of one replica; remove one of the two",
        ),
        _ if raw.catalog == CatalogScope::PerSession => refuse(
            "has no effect with `catalog: perSession`, because no client has its own session; remove one of the two",
        ),
        _ => Ok(true),
    }
}

fn addresses(raw: &BackendConfig, path: &impl Fn(&str) -> String) -> Result<Vec<IpAddr>, ConfigFault> {
    let host = raw.url.parse::<http::Uri>().ok();
    let host = host.as_ref().and_then(http::Uri::host).unwrap_or_default();
    let literal = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    if literal && !raw.addresses.is_empty() {
        let message = "has no effect, because the host in the URL is an IP address; remove it".to_owned();
        return Err(ConfigFault::at(&path("addresses"), message));
    }
    Ok(raw.addresses.clone())
}

fn tls(raw: &BackendConfig, path: &impl Fn(&str) -> String, file: &Path) -> Result<UpstreamTls, ConfigFault> {
    let Some(tls) = &raw.tls else {
        return Ok(UpstreamTls::default());
    };
    let refuse = |field: &str, message: &str| Err(ConfigFault::at(&path(field), message.to_owned()));
    let url = raw.url.parse::<http::Uri>().ok();
    if url.is_some_and(|url| url.scheme() == Some(&http::uri::Scheme::HTTP)) {
        return refuse(
            "tls",
            "has no effect with an http URL; use https in the URL, or remove it",
        );
    }
    let directory = directory(file);
    let identity = match (&tls.cert_file, &tls.key_file) {
        (Some(cert), Some(key)) => Some(CertificatePair {
            cert_file: directory.join(cert),
            key_file: directory.join(key),
        }),
        (Some(_), None) => return refuse("tls.certFile", "requires keyFile"),
        (None, Some(_)) => return refuse("tls.keyFile", "requires certFile"),
        (None, None) => None,
    };
    Ok(UpstreamTls {
        ca_file: tls.ca_file.as_ref().map(|ca_file| directory.join(ca_file)),
        identity,
    })
}

fn headers(
    raw: &BackendConfig,
    path: &impl Fn(&str) -> String,
    file: &Path,
) -> Result<Vec<ConfiguredHeader>, ConfigFault> {
    let mut headers: Vec<ConfiguredHeader> = Vec::with_capacity(raw.headers.len());
    for (name, source) in &raw.headers {
        let refuse = |message: String| Err(ConfigFault::at(&path(&format!("headers.{name}")), message));
        let parsed = match rules::header(name) {
            Ok(parsed) => parsed,
            Err(message) => return refuse(message),
        };
        if headers.iter().any(|other| other.name == parsed) {
            return refuse("duplicate header; names are not case-sensitive".to_owned());
        }
        if http::HeaderValue::from_str(&source.prefix).is_err() {
            return refuse("`prefix` has characters that are not allowed in a header".to_owned());
        }
        let source_of = match (&source.env, &source.file) {
            (Some(env), None) => HeaderSource::Env(env.clone()),
            (None, Some(value)) => HeaderSource::File(directory(file).join(value)),
            _ => return refuse("needs exactly one of `env` and `file`".to_owned()),
        };
        headers.push(ConfiguredHeader {
            name: parsed,
            prefix: source.prefix.clone(),
            source: source_of,
        });
    }
    Ok(headers)
}

fn pass_headers(raw: &BackendConfig, path: &impl Fn(&str) -> String) -> Result<Vec<HeaderName>, ConfigFault> {
    let mut names = Vec::with_capacity(raw.pass_headers.len());
    for (index, name) in raw.pass_headers.iter().enumerate() {
        let refuse = |message: String| Err(ConfigFault::at(&path(&format!("passHeaders[{index}]")), message));
        let parsed = match rules::passed_header(name) {
            Ok(parsed) => parsed,
            Err(message) => return refuse(message),
        };
        if raw.headers.keys().any(|own| own.eq_ignore_ascii_case(name)) {
            return refuse(format!(
                "{name:?} is also in `headers`; remove it from one of them"
            ));
        }
        names.push(parsed);
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<UpstreamSettings, String> {
        let raw: BackendConfig =
            serde_yaml::from_str(&format!("{{name: a, url: 'http://a/mcp', {text}}}")).unwrap();
        let path = |field: &str| format!("backends[0].{field}");
        upstream(&raw, &path, Path::new("gateway.yaml")).map_err(|error| error.to_string())
    }

    /// The exact name of a tool takes precedence over patterns, and a longer pattern over a shorter one.
    #[test]
    fn most_specific_tool_deadline_applies() {
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
            assert_eq!(timeouts.for_call(tool), Duration::from_secs(secs), "{tool:?}");
        }
        assert_eq!(timeouts.longest_call(), Duration::from_secs(10));
    }

    #[test]
    fn invalid_headers_are_rejected_with_their_path() {
        let settings = read(
            "headers: {Authorization: {env: TOKEN, prefix: 'Bearer '}, X-Key: {file: key}}, passHeaders: [X-Tenant]",
        )
        .unwrap();
        assert_eq!(settings.headers[0].source, HeaderSource::Env("TOKEN".to_owned()));
        assert_eq!(settings.headers[1].source, HeaderSource::File("key".into()));
        assert_eq!(settings.pass_headers, ["x-tenant"]);
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
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(path) && error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn shared_session_without_effect_is_rejected() {
        assert!(read("sharedSession: true").unwrap().shares_session);
        assert!(!read("catalog: perSession").unwrap().shares_session);
        for other in ["transport: sse", "catalog: perSession"] {
            let error = read(&format!("sharedSession: true, {other}")).unwrap_err();
            assert!(
                error.contains("backends[0].sharedSession") && error.contains(other),
                "{error}"
            );
        }
    }

    #[test]
    fn addresses_for_an_address_url_are_rejected() {
        let addresses = read("addresses: [127.0.0.1, '::1']").unwrap().addresses;
        assert_eq!(addresses.len(), 2);
        let raw = BackendConfig {
            url: "http://[::1]:8000/mcp".to_owned(),
            addresses,
            ..BackendConfig::default()
        };
        let path = |field: &str| field.to_owned();
        let error = upstream(&raw, &path, Path::new("gateway.yaml")).unwrap_err();
        assert!(error.to_string().contains("is an IP address"), "{error}");
    }

    #[test]
    fn timeouts_out_of_range_are_rejected_with_their_path() {
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
