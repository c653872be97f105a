//! Converts the settings of connections and requests to a backend.

use std::path::Path;

use vmcp_crds::config::{BackendConfig, BackendTls, Duration as RawDuration, ProcessMode};

use super::directory;
use crate::config::{
    CertificatePair, ConfiguredHeader, Pattern, Timeouts, UpstreamSettings, UpstreamTls, ValueSource,
};

/// The connection settings of the backend `raw`, which [`BackendConfig::check`] has validated. Relative paths start at the directory of
/// `file`.
pub(super) fn upstream(raw: &BackendConfig, file: &Path) -> UpstreamSettings {
    let directory = directory(file);
    let timeouts = &raw.timeouts;
    let mut tools: Vec<_> = raw.tools.deadlines.iter().collect();
    // The most specific first: exact names, then longer patterns before shorter ones.
    tools.sort_by_key(|(tool, _)| (tool.contains(['*', '?']), std::cmp::Reverse(tool.len())));
    UpstreamSettings {
        timeouts: Timeouts {
            connect: timeouts.connect.get(),
            first_byte: timeouts.first_byte.map(RawDuration::get),
            idle: timeouts.idle.get(),
            call: timeouts.call.get(),
            tools: tools
                .into_iter()
                .map(|(tool, length)| (Pattern::new(tool), length.get()))
                .collect(),
            extend_on_progress: timeouts.extend_on_progress,
        },
        addresses: raw.addresses.clone(),
        tls: raw
            .tls
            .as_ref()
            .map_or_else(UpstreamTls::default, |raw| tls(raw, directory)),
        max_answer_bytes: raw.max_answer_bytes,
        headers: headers(raw, directory),
        pass_headers: raw
            .pass_headers
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect(),
        catalog: raw.catalog,
        shares_session: raw.shared_session || raw.processes == ProcessMode::Shared,
    }
}

fn tls(raw: &BackendTls, directory: &Path) -> UpstreamTls {
    let identity = raw.cert_file.as_ref().zip(raw.key_file.as_ref());
    UpstreamTls {
        ca_file: raw.ca_file.as_ref().map(|file| directory.join(file)),
        identity: identity.map(|(cert, key)| CertificatePair {
            cert_file: directory.join(cert),
            key_file: directory.join(key),
        }),
    }
}

fn headers(raw: &BackendConfig, directory: &Path) -> Vec<ConfiguredHeader> {
    let header = |(name, source): (&String, &vmcp_crds::config::HeaderSource)| {
        let from_env = source.env.clone().map(ValueSource::Env);
        let from_file = || Some(ValueSource::File(directory.join(source.file.as_ref()?)));
        let from_value = || source.value.clone().map(ValueSource::Value);
        let source_of = from_env.or_else(from_file).or_else(from_value)?;
        Some(ConfiguredHeader {
            name: name.parse().ok()?,
            prefix: source.prefix.clone(),
            source: source_of,
        })
    };
    raw.headers.iter().filter_map(header).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn read(text: &str) -> UpstreamSettings {
        let raw: BackendConfig =
            serde_yaml::from_str(&format!("{{name: a, url: 'http://a/mcp', {text}}}")).unwrap();
        upstream(&raw, Path::new("/etc/vmcp/gateway.yaml"))
    }

    /// The exact name of a tool takes precedence over patterns, and a longer pattern over a shorter one.
    #[test]
    fn most_specific_tool_deadline_applies() {
        let timeouts =
            read("timeouts: {call: 10s}, tools: {deadlines: {'*': 1s, 'get_*': 2s, get_time: 3s}}").timeouts;
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
    fn header_files_are_relative_to_the_configuration() {
        let settings = read(
            "headers: {Authorization: {env: TOKEN, prefix: 'Bearer '}, X-Key: {file: key}, X-Region: {value: eu}}, \
             passHeaders: [X-Tenant]",
        );
        assert_eq!(settings.headers[0].source, ValueSource::Env("TOKEN".to_owned()));
        assert_eq!(
            settings.headers[1].source,
            ValueSource::File("/etc/vmcp/key".into())
        );
        assert_eq!(settings.headers[2].source, ValueSource::Value("eu".to_owned()));
        assert_eq!(settings.pass_headers, ["x-tenant"]);
    }
}
