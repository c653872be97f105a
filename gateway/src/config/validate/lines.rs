//! Tests that every error names the line of the mistake, in all styles of YAML.

use super::*;

/// Each text is rejected for the field at the path, in the line with the mark HERE.
const FAULTS: &[(&str, &str)] = &[
    ("version: v1\nname: Not A Name # HERE\n", "name"),
    (
        "version: v1\nsessionStorage: # HERE\n  provider: redis\n",
        "sessionStorage.address",
    ),
    (
        "version: v1\nsessionStorage:\n  provider: redis\n  address: redis # HERE\n",
        "sessionStorage.address",
    ),
    (
        "version: v1\nsessionStorage:\n  ttl: 0s # HERE\n",
        "sessionStorage.ttl",
    ),
    (
        "version: v1\nsessionStorage:\n  provider: redis\n  sentinel:\n    masterName: m\n    addresses:\n      - r:1\n      - s # HERE\n",
        "sessionStorage.sentinel.addresses[1]",
    ),
    (
        "version: v1 # HERE\nsessionStorage: {provider: redis, address: 'r:1'}\n",
        "sessionKeys",
    ),
    (
        "version: v1\nincomingAuth: # HERE\n  type: oidc\n",
        "incomingAuth.oidc",
    ),
    (
        "version: v1\nincomingAuth:\n  type: oidc\n  oidc:\n    issuer: https://i\n    audience:\n      - https://a\n    clockLeeway: 1h # HERE\n",
        "incomingAuth.oidc.clockLeeway",
    ),
    ("version: v1\nhotFile: hot.yaml # HERE\nhot: {}\n", "hotFile"),
    (
        "version: v1\nhot:\n  limits:\n    sessions: 5\n    requestsInFlight: 0 # HERE\n",
        "hot.limits.requestsInFlight",
    ),
    (
        "version: v1\nhot: {limits: {\n  sessions: 5,\n  requestsInFlight: 0}} # HERE\n",
        "hot.limits.requestsInFlight",
    ),
    (
        "version: v1\nhot:\n  allowedHosts:\n    - a\n    - http://b # HERE\n",
        "hot.allowedHosts[1]",
    ),
    (
        "version: v1\nhot:\n  allowedOrigins: ['https://a',\n    b] # HERE\n",
        "hot.allowedOrigins[1]",
    ),
    (
        "version: v1\nhot:\n  serverInfo:\n    name: '' # HERE\n",
        "hot.serverInfo.name",
    ),
    (
        "version: v1\nhot:\n  aggregation: # HERE\n    strategy: priority\n",
        "hot.aggregation.priority",
    ),
    (
        "version: v1\nhot:\n  aggregation:\n    strategy: priority\n    priority:\n      - a\n      - a # HERE\n",
        "hot.aggregation.priority[1]",
    ),
    (
        "version: v1\nhot:\n  aggregation:\n    refresh: 1ms # HERE\n",
        "hot.aggregation.refresh",
    ),
    (
        "version: v1\nhot:\n  backends:\n    - {name: a, url: 'http://a'}\n    - {name: a, url: 'http://b'} # HERE\n",
        "hot.backends[1].name",
    ),
    (
        "version: v1\nhot:\n  backends:\n    - name: a\n      url: http://a\n    - url: nowhere # HERE\n      name: b\n",
        "hot.backends[1].url",
    ),
    (
        "version: v1\nhot:\n  backends:\n    - name: a\n      url: http://a\n      timeouts: &slow\n        call: 25h # HERE\n    - name: b\n      url: http://b\n      timeouts: *slow\n",
        "hot.backends[0].timeouts.call",
    ),
    (
        "version: v1\nhot:\n  backends:\n    - name: a\n      url: http://a\n      headers:\n        \"X-Key\": {} # HERE\n",
        "hot.backends[0].headers.X-Key",
    ),
    (
        "version: v1\nhot:\n  backends:\n    - name: a\n      url: http://a\n      passHeaders:\n      - X-One\n      - Cookie # HERE\n",
        "hot.backends[0].passHeaders[1]",
    ),
    (
        "version: v1\nhot:\n  backends:\n    - name: a\n      url: http://a\n      tools:\n        deadlines:\n          'get.*': 1s\n          get.time[0]: 0s # HERE\n",
        "hot.backends[0].tools.deadlines.get.time[0]",
    ),
    (
        "version: v1\nhot:\n  backends:\n    - name: a\n      url: http://a\n      tools:\n        overrides:\n          get.time:\n            name: n\n          get:\n            name: a b # HERE\n",
        "hot.backends[0].tools.overrides.get.name",
    ),
    (
        "version: v1\nhot:\n  backends:\n    - name: a\n      url: http://a\n      prompts:\n        overrides:\n          p: {} # HERE\n",
        "hot.backends[0].prompts.overrides.p",
    ),
    (
        "version: v1\nhot:\n  backends:\n    - name: a\n      url: http://a\n      breaker:\n        openFor: 1ms # HERE\n",
        "hot.backends[0].breaker.openFor",
    ),
    // Errors of deserialization.
    (
        "version: v1\nlisteners:\n  mcp: nowhere # HERE\n",
        "listeners.mcp",
    ),
    (
        "version: v1\nhot:\n  backends:\n    - name: a # HERE\n",
        "hot.backends[0].url",
    ),
    (
        "version: v1\nhot:\n  backends:\n    - {name: a, url: 'http://a'}\n    - name: b\n      url: http://b\n      tools:\n        alow: [x] # HERE\n",
        "hot.backends[1].tools.alow",
    ),
    (
        "version: v1\nhot:\n  accessLog:\n    sample: 2 # HERE\n",
        "hot.accessLog.sample",
    ),
    ("version: v1\ndrainDelay: 5 # HERE\n", "drainDelay"),
    ("version: v1\nhot:\n  logLevel: loud # HERE\n", "hot.logLevel"),
    (
        "version: v1\nlisteners:\n  admin: 127.0.0.1:9\n  mcp: 127.0.0.1:99999 # HERE\n",
        "listeners.mcp",
    ),
    (
        "version: v1\nhot:\n  backends:\n    - name: a\n      url: http://a\n      addresses:\n        - 10.0.0.1\n        - foo # HERE\n",
        "hot.backends[0].addresses[1]",
    ),
    ("version: v1\nhotFile: missing.yaml # HERE\n", "hotFile"),
    (
        "version: v1\nlisteners:\n  mcp: 0.0.0.0:4483\n  admin: 127.0.0.1:4483 # HERE\n",
        "listeners.admin",
    ),
    (
        "version: v1\nhot:\n  backends:\n    - name: a\n      url: http://a\n      tools:\n        allow: [x,\n          ''] # HERE\n",
        "hot.backends[0].tools.allow[1]",
    ),
    (
        "version: v1\nhot:\n  backends:\n    - name: a\n      url: http://a\n      resources: {deny: ['']} # HERE\n",
        "hot.backends[0].resources.deny[0]",
    ),
    (
        "version: v1\nhot:\n  backends:\n    - name: a\n      url: http://a\n      maxAnswerBytes: 0 # HERE\n",
        "hot.backends[0].maxAnswerBytes",
    ),
    (
        "version: v1\nhot:\n  backends:\n    - name: a\n      url: http://a\n      passHeaders: ['*'] # HERE\n",
        "hot.backends[0].passHeaders[0]",
    ),
    // A duplicate is reported at its second occurrence.
    ("version: v1\nname: a\nversion: v1 # HERE\n", "version"),
    (
        "version: v1\nhot:\n  backends:\n    - name: a\n      url: http://a\n      url: http://b # HERE\n",
        "hot.backends[0].url",
    ),
    (
        "version: v1\nhot:\n  backends:\n    - name: a\n      url: http://a\n      tools:\n        overrides:\n          a: {name: x}\n          a: {name: y} # HERE\n",
        "hot.backends[0].tools.overrides.a",
    ),
    (
        "version: v1\nhot:\n  backends:\n    - name: a\n      url: http://a\n      timeouts:\n        call: soon # HERE\n",
        "hot.backends[0].timeouts.call",
    ),
    (
        "version: v1\nhot:\n  backends:\n    - name: a\n      url: http://a\n      uri: http://b # HERE\n",
        "hot.backends[0].uri",
    ),
];

#[test]
fn listeners_share_a_port_only_on_disjoint_addresses() {
    for (mcp, admin, fits) in [
        ("127.0.0.1:1", "127.0.0.1:1", false),
        ("127.0.0.1:0", "127.0.0.1:0", true),
        ("127.0.0.1:1", "127.0.0.1:2", true),
        ("127.0.0.1:1", "127.0.0.2:1", true),
        ("10.0.0.1:1", "0.0.0.0:1", false),
        ("[::]:1", "127.0.0.1:1", false),
        ("0.0.0.0:1", "[::1]:1", true),
        ("0.0.0.0:1", "[::]:1", false),
    ] {
        let text = format!("version: v1\nlisteners: {{mcp: '{mcp}', admin: '{admin}'}}");
        let config = config(&text, Path::new("gateway.yaml"), None);
        assert_eq!(config.is_ok(), fits, "{mcp} and {admin}");
    }
}

fn load_error(text: &str) -> String {
    let loaded = config(text, Path::new("gateway.yaml"), None);
    loaded.unwrap_err().to_string()
}

fn marked_line(text: &str) -> usize {
    text.lines().position(|line| line.contains("HERE")).unwrap() + 1
}

#[test]
fn every_error_names_file_line_and_path() {
    for (text, path) in FAULTS {
        let expected = format!("gateway.yaml:{}: at `{path}`: ", marked_line(text));
        let error = load_error(text);
        assert!(
            error.starts_with(&expected),
            "{expected}… but {error}\nin\n{text}"
        );
        let rest = &error[expected.len()..];
        assert!(
            !rest.contains(&format!("{path}: ")),
            "the path appears twice: {error}"
        );
    }
}

#[test]
fn error_in_the_hot_file_names_its_line_there() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gateway.yaml");
    let hot = directory.path().join("hot.yaml");
    std::fs::write(&file, "version: v1\nhotFile: hot.yaml\n").unwrap();
    for (text, path) in FAULTS.iter().filter(|(_, path)| path.starts_with("hot.")) {
        let Some(text) = text.strip_prefix("version: v1\nhot:\n") else {
            continue;
        };
        std::fs::write(&hot, text).unwrap();
        let path = path.trim_start_matches("hot.");
        let expected = format!("{}:{}: at `{path}`: ", hot.display(), marked_line(text));
        for error in [
            Config::load(&file, None).map(drop),
            HotSettings::load(&hot).map(drop),
        ] {
            let error = error.unwrap_err().to_string();
            assert!(
                error.starts_with(&expected),
                "{expected}… but {error}\nin\n{text}"
            );
        }
    }
}

#[test]
fn error_does_not_repeat_secrets() {
    for text in [
        "hot: {backends: [{name: a, url: 'ftp://me:s3cret@a/mcp?key=s3cret'}]}",
        "hot: {backends: [{name: a, url: 'http://a', headers: {X-Key: s3cret}}]}",
        "hot: {backends: [{name: a, url: 'http://a', headers: {X-Key: {value: s3cret, env: X}}}]}",
        "hot: {backends: [{name: a, url: 'http://a', headers: {X-Key: {value: \"s3cret\\nx\"}}}]}",
        "hot: {backends: [{name: a, url: 'http://a', headers: {X-Key: {value: [s3cret]}}}]}",
        "hot: {backends: [{name: a, url: 'http://a', headers: {X-Key: [s3cret]}}]}",
        "hot: {backends: [{name: a, url: 'http://a', headers: s3cret}]}",
        "sessionKeys: s3cret",
        "sessionStorage: {tls: s3cret}",
        "sessionKeys: {directory: k}\nsessionStorage: {provider: redis, address: 'redis://:s3cret@r:1'}",
        "incomingAuth: {type: oidc, oidc: {issuer: 'https://i?k=s3cret', audience: a}}",
        "incomingAuth: {type: oidc, oidc: {issuer: 'https://i', audience: a, jwksUrl: 'http://i?k=s3cret'}}",
        "incomingAuth: {type: oidc, oidc: {issuer: 'https://i', audience: a, resource: 'https://i?k=s3cret'}}",
    ] {
        let error = load_error(&format!("version: v1\n{text}"));
        assert!(!error.contains("s3cret"), "{text}: {error}");
    }
}
