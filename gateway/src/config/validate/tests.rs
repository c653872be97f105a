//! Tests of the errors for invalid configurations.

use secrecy::SecretString;

use super::*;
use crate::config::{ConflictResolution, FailureMode};

fn load(text: &str, password: Option<&str>) -> Result<Config, String> {
    let file = Path::new("gateway.yaml");
    config(text, file, password.map(SecretString::from)).map_err(|error| error.to_string())
}

#[test]
fn redis_needs_an_address_and_keys() {
    let error = load("version: v1\nsessionStorage: {provider: redis}", None).unwrap_err();
    assert!(error.contains("sessionStorage.address"), "{error}");
    let error = load(
        "version: v1\nsessionStorage: {provider: redis, address: 'r:1'}",
        None,
    )
    .unwrap_err();
    assert!(error.contains("keygen"), "{error}");
    let text =
        "version: v1\nsessionStorage: {provider: redis, address: 'r:1'}\nsessionKeys: {directory: keys}";
    assert!(matches!(
        load(text, None).unwrap().session_storage,
        SessionStorage::Redis(_)
    ));
}

#[test]
fn field_without_effect_is_rejected() {
    for field in [
        "address: 'r:1'",
        "sentinel: {masterName: m, addresses: ['r:1']}",
        "cluster: {addresses: ['r:1']}",
        "db: 1",
        "keyPrefix: x",
        "username: u",
        "passwordFile: f",
        "tls: {}",
        "connectTimeout: 2s",
        "commandTimeout: 2s",
    ] {
        let error = load(&format!("version: v1\nsessionStorage: {{{field}}}"), None).unwrap_err();
        assert!(error.contains("no effect with `provider: memory`"), "{error}");
    }
}

#[test]
fn error_names_the_invalid_value() {
    for (storage, found) in [
        ("address: redis", "redis"),
        ("address: 'redis:port'", "redis:port"),
        ("address: ':6379'", ":6379"),
        ("address: 'r:1', keyPrefix: 'a{b}'", "a{b}"),
        (
            "address: 'r:1', username: u",
            vmcp_crds::config::REDIS_PASSWORD_ENV,
        ),
        ("sentinel: {masterName: m, addresses: []}", "sentinel.addresses"),
        (
            "sentinel: {masterName: '', addresses: ['r:1']}",
            "sentinel.masterName",
        ),
        ("sentinel: {masterName: m, addresses: [r]}", "\"r\""),
        ("cluster: {addresses: ['r:1', s]}", "\"s\""),
        ("cluster: {addresses: ['r:1']}, db: 1", "sessionStorage.db"),
        (
            "address: 'r:1', cluster: {addresses: ['r:1']}",
            "combined with `cluster`",
        ),
        (
            "address: 'r:1', sentinel: {masterName: m, addresses: ['r:1']}",
            "combined with `sentinel`",
        ),
        ("address: 'r:1', tls: {certFile: c}", "keyFile"),
        ("address: 'r:1', tls: {keyFile: k}", "certFile"),
        (
            "address: 'r:1', tls: {insecureSkipVerify: true, caFile: c}",
            "no effect",
        ),
        ("address: 'r:1', tls: {serverName: 'a b'}", "a b"),
        ("address: 'r:1', ttl: 0s", "sessionStorage.ttl"),
        ("address: 'r:1', ttl: 25h", "`maxLifetime`, which is 24h"),
        ("address: 'r:1', maxLifetime: 9000h", "366 days"),
        ("address: 'r:1', commandTimeout: 0s", "commandTimeout"),
        ("address: 'r:1', connectTimeout: 0s", "connectTimeout"),
    ] {
        let text = format!(
            "version: v1\nsessionKeys: {{directory: k}}\nsessionStorage: {{provider: redis, {storage}}}"
        );
        let error = load(&text, None).unwrap_err();
        assert!(error.contains(found), "{error}");
    }
    for (backend, found) in [
        ("{name: Time, url: 'http://a/mcp'}", "Time"),
        ("{name: -a, url: 'http://a/mcp'}", "-a"),
        ("{name: a, url: 'ftp://a/mcp'}", "ftp://a/mcp"),
        ("{name: a, url: '/mcp'}", "/mcp"),
        (
            "{name: a, url: 'http://a'}, {name: a, url: 'http://b'}",
            "duplicate",
        ),
    ] {
        let error = load(&format!("version: v1\nhot: {{backends: [{backend}]}}"), None).unwrap_err();
        assert!(error.contains(found) && error.contains("backends["), "{error}");
    }
}

#[test]
fn two_passwords_are_rejected() {
    let text = "version: v1\nsessionKeys: {directory: k}\nsessionStorage: {provider: redis, address: 'r:1', \
                username: u, passwordFile: secrets/password}";
    let SessionStorage::Redis(redis) = load(text, None).unwrap().session_storage else {
        panic!("not redis")
    };
    assert!(
        matches!(redis.password, Some(crate::config::RedisPassword::File(file)) if file == Path::new("secrets/password"))
    );
    let error = load(text, Some("hunter2")).unwrap_err();
    assert!(
        error.contains("keep one") && !error.contains("hunter2"),
        "{error}"
    );
}

#[test]
fn password_in_an_invalid_url_is_not_repeated() {
    let error = load(
        "version: v1\nhot: {backends: [{name: a, url: 'http://me:hunter2@a/mcp'}]}",
        None,
    )
    .unwrap_err();
    assert!(!error.contains("hunter2"), "{error}");
}

fn hot(text: &str) -> Result<HotSettings, String> {
    load(
        &format!("version: v1\nhot:\n  {}", text.replace('\n', "\n  ")),
        None,
    )
    .map(|config| config.hot)
}

fn one_backend(text: &str) -> Result<Arc<crate::config::ExposurePolicy>, String> {
    let hot = hot(&format!("backends: [{{name: a, url: 'http://a/mcp', {text}}}]"))?;
    Ok(Arc::clone(&hot.backends[0].exposure))
}

/// All conflict strategies are read, and only `prefix` prefixes names.
#[test]
fn only_the_prefix_strategy_prefixes_names() {
    for (text, strategy, prefix) in [
        ("{}", ConflictResolution::Prefix, "a_"),
        ("{prefixFormat: '{workload}.'}", ConflictResolution::Prefix, "a."),
        ("{strategy: none}", ConflictResolution::None, ""),
        ("{strategy: transparent}", ConflictResolution::None, ""),
        ("{strategy: manual}", ConflictResolution::Manual, ""),
    ] {
        let hot = hot(&format!(
            "backends: [{{name: a, url: 'http://a/mcp'}}]\naggregation: {text}"
        ))
        .unwrap();
        assert_eq!(
            (
                &hot.aggregation.strategy,
                hot.backends[0].exposure.prefix.as_str()
            ),
            (&strategy, prefix)
        );
    }
    let hot = hot("aggregation: {strategy: priority, priority: [b, a], failureMode: hide}").unwrap();
    let ConflictResolution::Priority(names) = &hot.aggregation.strategy else {
        panic!()
    };
    assert_eq!(names[0].as_str(), "b");
    assert_eq!(hot.aggregation.failure_mode, FailureMode::Hide);
    assert_eq!(one_backend("prefix: ''").unwrap().prefix, "");
}

#[test]
fn invalid_hot_settings_are_rejected_with_path_and_reason() {
    for (text, expected) in [
        ("aggregation: {strategy: priority}", "needs the backends' names"),
        (
            "aggregation: {priority: [a]}",
            "set `strategy: priority` or remove it",
        ),
        ("aggregation: {strategy: priority, priority: [a, a]}", "duplicate"),
        ("aggregation: {strategy: priority, priority: ['A B']}", "A B"),
        (
            "aggregation: {strategy: none, prefixFormat: 'x_'}",
            "aggregation.prefixFormat",
        ),
        ("aggregation: {refresh: 10ms}", "the minimum is 1s"),
        ("aggregation: {pageSize: 0}", "1 to 100000"),
        ("aggregation: {capabilities: [magic]}", "magic"),
        ("serverInfo: {name: ''}", "serverInfo.name"),
        ("allowedHosts: [a, 'http://b']", "allowedHosts[1]"),
        ("allowedOrigins: ['https://a', a]", "allowedOrigins[1]"),
        ("allowedOrigins: ['*']", "there is no wildcard"),
        (
            "limits: {requestBytes: 5}",
            "found 5; expected a whole number from 1024 to 268435456",
        ),
        ("limits: {requestsInFlight: 0}", "limits.requestsInFlight"),
        (
            "limits: {requestBytes: 2048, requestBytesInFlight: 2047}",
            "found 2047; must be at least `requestBytes`",
        ),
        (
            "limits: {requestBytes: 1024, bufferedBytes: 1048575}",
            "found 1048575; must be at least 1048576",
        ),
        (
            "limits: {initializesPerSecondPerPrincipal: 0}",
            "limits.initializesPerSecondPerPrincipal",
        ),
        (
            "limits: {requestsInFlightPerSession: 0}",
            "limits.requestsInFlightPerSession",
        ),
        ("limits: {initializesPerSecond: 0}", "limits.initializesPerSecond"),
        ("limits: {sessions: 0}", "limits.sessions"),
        ("limits: {sessionsPerPrincipal: 0}", "limits.sessionsPerPrincipal"),
        (
            "aggregation: {strategy: none}\nbackends: [{name: a, url: 'http://a', prefix: x_}]",
            "backends[0].prefix",
        ),
        (
            "aggregation: {prefixFormat: '{backend}:'}\nbackends: [{name: a, url: 'http://a'}]",
            "aggregation.prefixFormat",
        ),
        (
            "aggregation: {strategy: manual}\nbackends:\n\
             - {name: a, url: 'http://a', tools: {overrides: {x: {name: z}}}}\n\
             - {name: b, url: 'http://b', tools: {overrides: {y: {name: z}}}}",
            "backend a, too",
        ),
    ] {
        let error = hot(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

/// The configuration must not give names that the gateway does not advertise.
#[test]
fn names_that_cannot_be_advertised_are_rejected() {
    let long = "x".repeat(127);
    for (text, expected) in [
        ("prefix: 'a b'".to_owned(), "a b"),
        (format!("prefix: '{long}x'"), "backends[0].prefix"),
        (
            "tools: {overrides: {x: {name: 'a b'}}}".to_owned(),
            "backends[0].tools.overrides.x.name",
        ),
        (
            format!("tools: {{overrides: {{x: {{name: '{long}'}}}}}}"),
            "1 to 126",
        ),
        ("tools: {overrides: {x: {name: ''}}}".to_owned(), "found \"\""),
        ("tools: {overrides: {x: {}}}".to_owned(), "overrides nothing"),
        (
            "tools: {overrides: {x: {name: z}, y: {name: z}}}".to_owned(),
            "duplicate",
        ),
        (
            r#"prompts: {overrides: {x: {name: "a\tb"}}}"#.to_owned(),
            "backends[0].prompts.overrides.x.name",
        ),
    ] {
        let error = one_backend(&text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
    one_backend("prompts: {overrides: {x: {name: 'Überprüfen: Code'}}}").unwrap();
}

#[test]
fn tls_with_an_http_backend_is_rejected() {
    let error = one_backend("tls: {caFile: ca.crt}").unwrap_err();
    assert!(
        error.contains("backends[0].tls") && error.contains("https"),
        "{error}"
    );
}

// A hot file in several parts is read as one, and its hash is that of the whole.
#[test]
fn hot_file_in_parts_is_read_as_one() {
    use vmcp_crds::config::split_file::{part_name, split};
    let backend = |number| format!("- {{name: b-{number}, url: 'http://b-{number}:8000/mcp'}}\n");
    let whole = format!("backends:\n{}", (0..200).map(backend).collect::<String>());
    let parts = split(&whole, 4096).unwrap();
    assert!(parts.len() > 2, "{}", parts.len());
    let directory = tempfile::tempdir().unwrap();
    for (index, part) in parts.iter().enumerate() {
        std::fs::write(directory.path().join(part_name("hot.yaml", index)), part).unwrap();
    }
    let hot = HotSettings::load(&directory.path().join("hot.yaml")).unwrap();
    assert_eq!(hot.backends.len(), 200);
    assert_eq!(hot.hash, vmcp_crds::status::config_hash(&whole));
    std::fs::write(directory.path().join("hot.yaml.1"), "").unwrap();
    let error = HotSettings::load(&directory.path().join("hot.yaml")).unwrap_err();
    assert!(error.to_string().contains("do not belong together"), "{error}");
}
