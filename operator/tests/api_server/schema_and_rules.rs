//! The schemas and the rules of the operator and the gateway agree on values: what the API server accepts, the gateway accepts, too.
//!
//! A rule that exists twice, as CEL or OpenAPI in the schema and in the code, is tried here with values at its edges.

use serde_json::{Value as Json, json};
use vmcp_crds::config::{AggregationConfig, Timeouts};
use vmcp_external::requires;
use vmcp_operator::desired::{Backend, config_files};
use vmcp_operator::spec_validation::first_violation;

use crate::bad_resources::{apply, resource};
use crate::harness::Harness;
use crate::rejected_resources::{ENTRY, SERVER};

/// Values of one field.
struct Field {
    kind: &'static str,
    /// The field in the spec, as a JSON pointer.
    pointer: &'static str,
    /// The other fields of the spec.
    with: Json,
    /// Schema and code accept them.
    accepted: Vec<Json>,
    /// Schema and code refuse them.
    refused: Vec<Json>,
    /// The schema is narrower: the code accepts more ways to write the same, or more than anyone needs.
    only_schema_refuses: Vec<Json>,
    /// CEL cannot express the rule. A condition names the field.
    only_code_refuses: Vec<Json>,
}

fn field(kind: &'static str, pointer: &'static str) -> Field {
    Field {
        kind,
        pointer,
        with: json!({}),
        accepted: Vec::new(),
        refused: Vec::new(),
        only_schema_refuses: Vec::new(),
        only_code_refuses: Vec::new(),
    }
}

impl Field {
    fn with(mut self, with: Json) -> Self {
        self.with = with;
        self
    }

    fn accepts(mut self, values: Vec<Json>) -> Self {
        self.accepted.extend(values);
        self
    }

    fn refuses(mut self, values: Vec<Json>) -> Self {
        self.refused.extend(values);
        self
    }

    fn only_schema_refuses(mut self, values: Vec<Json>) -> Self {
        self.only_schema_refuses = values;
        self
    }

    fn only_code_refuses(mut self, values: Vec<Json>) -> Self {
        self.only_code_refuses = values;
        self
    }

    /// The spec with `value` in the field.
    fn spec(&self, value: &Json) -> Json {
        let mut spec = self.with.clone();
        let mut place = &mut spec;
        for name in self.pointer.split('/').skip(1) {
            place = &mut place[name];
        }
        *place = value.clone();
        spec
    }
}

fn texts(values: &[&str]) -> Vec<Json> {
    values.iter().map(|value| json!(value)).collect()
}

/// One list or map for each value.
fn each(values: &[&str], whole: impl Fn(&str) -> Json) -> Vec<Json> {
    values.iter().map(|value| whole(value)).collect()
}

/// Why the operator, or the gateway's code in it, refuses the spec.
fn refusal(kind: &str, spec: &Json) -> Option<String> {
    let mut object = resource(kind, "x", spec);
    object["metadata"]["namespace"] = json!("tools");
    if kind == ENTRY {
        let entry = match serde_json::from_value(object) {
            Ok(entry) => entry,
            Err(error) => return Some(error.to_string()),
        };
        let backend = Backend::new(&entry, &Timeouts::default());
        let mut checked = Backend::check_all(vec![backend], &AggregationConfig::default());
        return checked.remove(0).problem;
    }
    match serde_json::from_value(object) {
        Ok(server) => first_violation(&server)
            .or_else(|| config_files(&server, &[]).err().map(|error| error.to_string())),
        Err(error) => Some(error.to_string()),
    }
}

/// Fields that hold a duration from `minimum` to `maximum`, with the next values outside.
fn durations() -> Vec<Field> {
    let redis = || json!({"sessionStorage": {"provider": "redis", "address": "r:1"}});
    let oidc = || json!({"incomingAuth": {"type": "oidc", "oidc": {"issuer": "https://i", "audience": ["https://a"]}}});
    let in_range = |kind, pointer, with, inside: &[&str], outside: &[&str]| {
        field(kind, pointer)
            .with(with)
            .accepts(texts(inside))
            .refuses(texts(outside))
            .refuses(texts(&["", "5", "soon"]))
    };
    let mut fields = vec![
        in_range(
            SERVER,
            "/aggregation/refresh",
            json!({}),
            &["1s", "9000h"],
            &["999ms", "0s"],
        ),
        in_range(
            SERVER,
            "/operational/idleTimeout",
            json!({}),
            &["1s", "24h"],
            &["999ms", "24h1ms"],
        ),
        in_range(
            SERVER,
            "/incomingAuth/oidc/clockLeeway",
            oidc(),
            &["0s", "5m"],
            &["5m1ms"],
        ),
        in_range(
            SERVER,
            "/incomingAuth/oidc/keyRefresh",
            oidc(),
            &["1s", "9000h"],
            &["999ms"],
        ),
        in_range(
            SERVER,
            "/sessionStorage/ttl",
            redis(),
            &["1ms", "24h"],
            &["0s", "24h1ms"],
        ),
        in_range(
            SERVER,
            "/sessionStorage/maxLifetime",
            redis(),
            &["30m", "8784h"],
            &["29m", "8784h1ms"],
        ),
        in_range(
            SERVER,
            "/sessionStorage/connectTimeout",
            redis(),
            &["1ms", "1h"],
            &["0s", "0h0m"],
        ),
        in_range(
            SERVER,
            "/sessionStorage/commandTimeout",
            redis(),
            &["1ms", "1h"],
            &["0s"],
        ),
        in_range(
            SERVER,
            "/sessionStorage/maxStaleness",
            redis(),
            &["0s", "1h"],
            &[],
        ),
        in_range(
            SERVER,
            "/sessionStorage/outageGrace",
            redis(),
            &["0s", "9000h"],
            &[],
        ),
        in_range(SERVER, "/streamCallsAfter", json!({}), &["0s", "9000h"], &[]),
        in_range(
            ENTRY,
            "/breaker/openFor",
            json!({}),
            &["100ms", "1h"],
            &["99ms", "1h1ms"],
        ),
        in_range(
            ENTRY,
            "/health/interval",
            json!({}),
            &["100ms", "1h"],
            &["99ms", "1h1ms"],
        ),
        in_range(
            ENTRY,
            "/health/timeout",
            json!({}),
            &["10ms", "1m"],
            &["9ms", "1m1ms"],
        ),
        in_range(ENTRY, "/concurrency/wait", json!({}), &["0s", "1m"], &["1m1ms"]),
        in_range(
            ENTRY,
            "/tools/deadlines/slow_*",
            json!({}),
            &["1ms", "24h"],
            &["0s", "24h1ms"],
        ),
        // The default counts in every way to write it.
        field(SERVER, "/sessionStorage/maxStaleness")
            .with(json!({"sessionStorage": {"provider": "memory"}}))
            .accepts(texts(&["2s", "2000ms"]))
            .refuses(texts(&["3s"])),
        field(SERVER, "/operational/drainDelay")
            .accepts(texts(&[
                "0s",
                "1ms",
                "5s",
                "1h30m",
                "1m500ms",
                "1h1m1s1ms",
                "999999h",
            ]))
            .refuses(texts(&[
                "", " ", "5", "5 ", "s", "-5s", "1d", "1s1m", "1hh", "soon", "\u{663}s", "1.h",
            ]))
            .only_schema_refuses(texts(&["1h 30m", "1.5h", "PT5M", "5sec", "1us", "5s\n"])),
    ];
    for (kind, parent) in [(SERVER, "/operational/timeouts"), (ENTRY, "/timeouts")] {
        for name in ["connect", "firstByte", "idle", "call"] {
            let pointer: &'static str = format!("{parent}/{name}").leak();
            fields.push(in_range(
                kind,
                pointer,
                json!({}),
                &["1ms", "24h"],
                &["0s", "24h1ms"],
            ));
        }
    }
    fields
}

/// Fields that hold a number from `minimum` to `maximum`, with the next values outside.
fn numbers() -> Vec<Field> {
    let in_range = |kind, pointer, minimum: i64, maximum: i64| {
        field(kind, pointer)
            .accepts(vec![json!(minimum), json!(maximum)])
            .refuses(vec![
                json!(minimum - 1),
                json!(maximum + 1),
                json!(-1),
                json!(1.5),
                json!("7"),
            ])
    };
    let largest = i64::from(u32::MAX);
    let mut fields = vec![
        in_range(SERVER, "/limits/requestBytes", 1024, 268_435_456)
            .with(json!({"limits": {"bufferedBytes": 1_000_000_000, "requestBytesInFlight": 300_000_000}})),
        // The default of `requestBytes` is 4 MiB.
        in_range(SERVER, "/limits/requestBytesInFlight", 4_194_304, largest),
        field(SERVER, "/limits/bufferedBytes")
            .accepts(vec![json!(4_194_304), json!(i64::MAX)])
            .refuses(vec![json!(4_194_303), json!(0), json!(-1)]),
        field(SERVER, "/limits/bufferedBytes")
            .with(json!({"limits": {"requestBytes": 1024}}))
            .accepts(vec![json!(1_048_576)])
            .refuses(vec![json!(1_048_575)]),
        in_range(SERVER, "/aggregation/pageSize", 1, 100_000),
        in_range(SERVER, "/sessionStorage/db", 0, 65_535)
            .with(json!({"sessionStorage": {"provider": "redis", "address": "r:1"}})),
        field(SERVER, "/operational/accessLog/sample")
            .accepts(vec![json!(0), json!(0.01), json!(1)])
            .refuses(vec![json!(-0.1), json!(1.1), json!("1")]),
        field(ENTRY, "/maxAnswerBytes")
            .accepts(vec![json!(1024), json!(i64::MAX)])
            .refuses(vec![json!(1023), json!(-1)]),
        in_range(ENTRY, "/concurrency/limit", 1, 100_000),
        in_range(ENTRY, "/concurrency/queue", 0, 100_000),
        in_range(ENTRY, "/breaker/failures", 0, largest),
        in_range(ENTRY, "/health/unhealthyAfter", 1, largest),
    ];
    for pointer in [
        "/limits/requestsInFlight",
        "/limits/requestsInFlightPerSession",
        "/limits/initializesPerSecond",
        "/limits/initializesPerSecondPerPrincipal",
        "/limits/sessions",
        "/limits/sessionsPerPrincipal",
    ] {
        fields.push(in_range(SERVER, pointer, 1, 1_000_000_000));
    }
    fields
}

fn urls() -> Vec<Field> {
    let oidc = || json!({"incomingAuth": {"type": "oidc", "oidc": {"issuer": "https://i", "audience": ["https://a"]}}});
    let broken = [
        "",
        "a",
        "/mcp",
        "ftp://a/mcp",
        "https://",
        "https:///mcp",
        "https://a b",
        "https://a/b c",
        "https://a/mcp#x",
        "https://u:p@a/mcp",
        "https://a:0/",
        "https://a:65536/",
        "https://a:/",
        "https://a:b/",
        "https://[::1",
        "https://a/<x>",
        "https://a/\n",
        "https://a/\\\u{7f}",
    ];
    let with_query = ["https://a?x=y", "https://a/b?c"];
    // The code leaves them to the parser of the HTTP library.
    let unusual = ["HTTPS://a/", "https://a/{b}", "https://a/\"b\"", "https://a!b/"];
    vec![
        field(ENTRY, "/url")
            .accepts(texts(&[
                "http://a",
                "http://a/mcp",
                "https://a.b:65535/x?y=z@w",
                "http://[::1]:9/mcp",
                "http://10.0.0.1",
                "http://a_b-c/~x",
            ]))
            .accepts(texts(&with_query))
            .refuses(texts(&broken))
            .only_schema_refuses(texts(&unusual)),
        field(SERVER, "/incomingAuth/oidc/issuer")
            .with(oidc())
            .accepts(texts(&[
                "https://id.example.com",
                "https://id:8443/realms/a",
                "https://[fd00::1]/",
            ]))
            .refuses(texts(&broken))
            .refuses(texts(&with_query))
            .refuses(texts(&["http://id.example.com"])),
        field(SERVER, "/incomingAuth/oidc/jwksUrl")
            .with(oidc())
            .accepts(texts(&["https://id.example.com/keys", "https://i/keys?v=1"]))
            .refuses(texts(&broken))
            .refuses(texts(&["http://id.example.com/keys"])),
        field(SERVER, "/incomingAuth/oidc/resource")
            .with(oidc())
            .accepts(texts(&["https://tools.example.com/mcp", "http://a:1/b"]))
            .refuses(texts(&broken))
            .refuses(texts(&with_query))
            .refuses(texts(&["https://a/\\b", "https://a/\"b"])),
        field(SERVER, "/incomingAuth/oidc/audience")
            .with(oidc())
            .accepts(vec![json!(["https://a/mcp"]), json!(["https://a", "b"])])
            .refuses(vec![
                json!([]),
                json!([""]),
                json!(["https://a", ""]),
                json!(["tools"]),
                json!(["https://a?x"]),
            ]),
        field(SERVER, "/incomingAuth/oidc/scopes")
            .with(oidc())
            .accepts(each(&["openid", "api://x/.default", "a~!"], |scope| {
                json!([scope])
            }))
            .refuses(each(&["", "a b", "a\"", "a\\", "\u{e4}", "a\n"], |scope| {
                json!([scope])
            })),
    ]
}

fn headers() -> Vec<Field> {
    let good = ["X-Tenant", "x_a", "a", "Origin", "User-Agent", "x!#$%&`+.^|~"];
    let own = [
        "Host",
        "MCP-Session-Id",
        "mcp-x",
        "Transfer-Encoding",
        "last-event-id",
        "TE",
    ];
    let broken = ["", "a b", "X-*", "*", "a:b", "\u{e4}", "a\n", "a(b)", "a\"b"];
    let map = |name: &str| json!({name: {"value": "x"}});
    let list = |name: &str| json!([name]);
    let value = |value: &str| json!({"X-A": {"value": value}});
    let prefix = |prefix: &str| json!({"X-A": {"prefix": prefix, "value": "x"}});
    vec![
        field(ENTRY, "/headers")
            .accepts(each(&good, map))
            .accepts(each(&["Authorization", "Cookie"], map))
            .refuses(each(&own, map))
            .refuses(each(&broken, map))
            .only_schema_refuses(each(&["a'b"], map))
            .refuses(vec![json!({"X-A": {"value": "a"}, "x-a": {"value": "b"}})]),
        field(ENTRY, "/headers")
            .accepts(each(&["a", "a b", "a\tb", "\u{fc}", "\""], value))
            .refuses(each(&["", "a\nb", "\0", "\u{7f}", "a\r"], value)),
        field(ENTRY, "/headers")
            .accepts(each(&["", "Bearer ", "a\t"], prefix))
            .refuses(each(&["a\nb", "\u{7f}"], prefix)),
        field(ENTRY, "/passHeaders")
            .accepts(each(&good, list))
            .refuses(each(&own, list))
            .refuses(each(&broken, list))
            .refuses(each(&["Authorization", "COOKIE"], list))
            .only_schema_refuses(each(&["a'b"], list)),
        field(ENTRY, "/passHeaders")
            .with(json!({"headers": {"X-A": {"value": "a"}}}))
            .accepts(vec![json!(["X-B"])])
            .refuses(vec![json!(["x-a"])]),
    ]
}

fn hosts() -> Vec<Field> {
    let list = |host: &str| json!([host]);
    let good = [
        "a",
        "mcp.example.com",
        "mcp.example.com.",
        "A_b-c",
        "10.0.0.7:4483",
        "[fd00::1]",
        "[::1]:80",
        "a:65535",
    ];
    let broken = [
        "",
        ".",
        "a b",
        "a/b",
        "a:",
        "a:0",
        "a:65536",
        "a:b",
        "[::1",
        "::1",
        "[10.0.0.1]",
        "[:::]",
        "[::1]80",
        "[fd00::1%eth0]",
        "\u{e4}",
        "a\n",
        "*.example.com",
    ];
    let origin = |host: &str| json!([format!("https://{host}")]);
    let redis = |server: Json| json!({"sessionStorage": server});
    let addresses = [
        "r:1",
        "redis.data.svc:6379",
        "[fd00::1]:6379",
        "10.0.0.1:65535",
        "a_b:1",
    ];
    let no_addresses = [
        "",
        "r",
        "r:",
        ":1",
        "r:0",
        "r:65536",
        "r:+1",
        "redis://r:1",
        "u@r:1",
        "a b:1",
        "r:1\n",
        "r:01",
    ];
    vec![
        field(SERVER, "/allowedHosts")
            .accepts(each(&good, list))
            .refuses(each(&broken, list))
            .refuses(each(&["http://a"], list))
            // Kubernetes takes no IPv4 address in an IPv6 address.
            .only_schema_refuses(each(&["a..", "a:080", "[::ffff:10.0.0.1]"], list)),
        field(SERVER, "/allowedOrigins")
            .accepts(each(&good, origin))
            .accepts(each(
                &[
                    "null",
                    "http://localhost:3000",
                    "app://obsidian.md",
                    "chrome-extension://abc",
                ],
                list,
            ))
            .refuses(each(&broken, origin))
            .refuses(each(
                &["*", "a", "https:a", "App://x", "app://a/b", "https://a/b"],
                list,
            )),
        field(SERVER, "/sessionStorage/address")
            .with(redis(json!({"provider": "redis"})))
            .accepts(texts(&addresses))
            .refuses(texts(&no_addresses)),
        field(SERVER, "/sessionStorage/sentinel/addresses")
            .with(redis(
                json!({"provider": "redis", "sentinel": {"masterName": "m"}}),
            ))
            .accepts(each(&addresses, list))
            .refuses(each(&no_addresses, list))
            .refuses(vec![json!([])]),
        field(SERVER, "/sessionStorage/cluster/addresses")
            .with(redis(json!({"provider": "redis"})))
            .accepts(each(&addresses, list))
            .refuses(each(&no_addresses, list))
            .refuses(vec![json!([])]),
        field(SERVER, "/sessionStorage/tls/serverName")
            .with(redis(json!({"provider": "redis", "address": "r:1"})))
            .accepts(texts(&["redis.tools.svc"]))
            .refuses(texts(&["", "a b", "a:1", "https://a"])),
        field(SERVER, "/httpRoute/hostnames")
            .with(json!({"httpRoute": {"parentRefs": [{"name": "a"}]}}))
            .accepts(each(&["a", "tools.example.com"], list))
            .refuses(each(&["", "A", "a:1", "*.a", "a..b", "-a", "a_b", "a."], list)),
        field(SERVER, "/httpRoute/path")
            .with(json!({"httpRoute": {"parentRefs": [{"name": "a"}], "hostnames": ["a"]}}))
            .accepts(texts(&["/mcp", "/team-a/mcp", "/v1.2/~a_b"]))
            .refuses(texts(&[
                "", "/", "mcp", "/mcp/", "/a//b", "/../a", "/a b", "/a?b", "/%61", "/a\n",
            ])),
        field(ENTRY, "/addresses")
            .accepts(each(&["10.0.0.7", "fd00::7", "::1"], list))
            .refuses(each(
                &[
                    "",
                    "a",
                    "10.0.0",
                    "10.0.0.256",
                    "010.0.0.1",
                    "[::1]",
                    "fd00::1%eth0",
                    "10.0.0.1/8",
                ],
                list,
            ))
            .only_schema_refuses(each(&["::ffff:10.0.0.1"], list)),
        field(ENTRY, "/addresses")
            .with(json!({"url": "http://10.0.0.1:8000/mcp"}))
            .refuses(each(&["10.0.0.7"], list)),
    ]
}

fn names() -> Vec<Field> {
    let list = |name: &str| json!([name]);
    let redis = || json!({"sessionStorage": {"provider": "redis", "address": "r:1", "passwordRef": {"name": "a", "key": "b"}}});
    let redis_texts = ["", "a b", "a\n", "a\tb", "a\u{7f}"];
    let tool = |name: &str| json!({"x": {"name": name}});
    let (long, longer) = ("x".repeat(126), "x".repeat(127));
    let (long_prompt, wide_prompt) = ("x".repeat(1022), "\u{e4}".repeat(600));
    vec![
        field(ENTRY, "/prefix")
            .accepts(texts(&["", "t-", "A9_./-", &longer]))
            .refuses(texts(&[
                "a b",
                "\u{e4}",
                "a\n",
                "{backend}",
                &format!("{longer}x"),
            ])),
        field(SERVER, "/aggregation/prefixFormat")
            .accepts(texts(&["", "{backend}_", "{workload}.", "a-{backend}/"]))
            .refuses(texts(&["{other}_", "{backend", "a b", "\u{e4}"]))
            .only_schema_refuses(texts(&[&"x".repeat(65)])),
        field(SERVER, "/aggregation/priority")
            .with(json!({"aggregation": {"strategy": "priority"}}))
            .accepts(vec![json!(["a"]), json!(["a", "b-9"]), json!(["x".repeat(63)])])
            .refuses(vec![
                json!([]),
                json!([""]),
                json!(["A"]),
                json!(["-a"]),
                json!(["a-"]),
                json!(["a.b"]),
                json!(["a", "a"]),
                json!(["x".repeat(64)]),
            ]),
        // The prefix is `x_`.
        field(ENTRY, "/tools/overrides")
            .accepts(each(&["a", "A9_./-", &long], tool))
            .refuses(each(&["", "a b", "\u{e4}", &format!("{longer}xx")], tool))
            .refuses(vec![
                json!({"a": {}}),
                json!({"a": {"name": "x"}, "b": {"name": "x"}}),
            ])
            .only_code_refuses(each(&[&longer], tool)),
        field(ENTRY, "/prompts/overrides")
            .accepts(each(
                &[
                    "a",
                    "\u{dc}ber: Code",
                    "\u{2027}\u{202f}\u{2065}\u{206a}",
                    &long_prompt,
                ],
                tool,
            ))
            .refuses(each(
                &[
                    "",
                    "a\tb",
                    "a\u{7f}",
                    "\u{2028}",
                    "\u{202e}",
                    "\u{2066}",
                    "\u{2069}",
                    &"x".repeat(1025),
                ],
                tool,
            ))
            .refuses(vec![
                json!({"a": {}}),
                json!({"a": {"name": "x"}, "b": {"name": "x"}}),
            ])
            // CEL counts characters.
            .only_code_refuses(each(&[&wide_prompt, &"x".repeat(1024)], tool)),
        field(ENTRY, "/tools/allow")
            .accepts(each(&["get_*", "a b", "?"], list))
            .refuses(each(&[""], list)),
        field(ENTRY, "/resources/deny")
            .accepts(each(&["file:///etc/*"], list))
            .refuses(each(&[""], list)),
        field(SERVER, "/sessionStorage/keyPrefix")
            .with(redis())
            .accepts(texts(&["acme:", "\u{e4}:"]))
            .refuses(texts(&redis_texts))
            .refuses(texts(&["{a}", "a}"]))
            .only_code_refuses(texts(&[&"\u{e4}".repeat(129)])),
        field(SERVER, "/sessionStorage/username")
            .with(redis())
            .accepts(texts(&["gateway"]))
            .refuses(texts(&redis_texts))
            .only_code_refuses(texts(&[&"\u{e4}".repeat(129)])),
        field(SERVER, "/sessionStorage/sentinel/masterName")
            .with(json!({"sessionStorage": {"provider": "redis", "sentinel": {"addresses": ["s:1"]}}}))
            .accepts(texts(&["mymaster"]))
            .refuses(texts(&redis_texts)),
        field(SERVER, "/serverInfo/name")
            .accepts(texts(&["a", "a b"]))
            .refuses(texts(&[""]))
            .only_schema_refuses(texts(&[&"x".repeat(257)])),
        field(SERVER, "/serviceAccountName")
            .accepts(texts(&["a", "a.b-c"]))
            .refuses(texts(&["", "A", "a/b", "a b", "-a", "a..b", &"x".repeat(254)])),
        field(SERVER, "/image")
            .accepts(texts(&["gateway", "registry.example:5000/a/b_c:V1.2@sha256:ab"]))
            .refuses(texts(&[
                "",
                "a b",
                "a:b:c",
                "../a",
                "http://a/b",
                &"x".repeat(1025),
            ])),
    ]
}

async fn compare(harness: &Harness, field: &Field, wrong: &mut Vec<String>) {
    for (values, schema_accepts, code_accepts) in [
        (&field.accepted, true, true),
        (&field.refused, false, false),
        (&field.only_schema_refuses, false, true),
        (&field.only_code_refuses, true, false),
    ] {
        for value in values {
            let spec = field.spec(value);
            let answer = apply(harness, field.kind, "x", &spec).await;
            let refusal = refusal(field.kind, &spec);
            if (answer == "accepted", refusal.is_none()) != (schema_accepts, code_accepts) {
                wrong.push(format!(
                    "{} {} {value}: the API server says {answer}; the code says {refusal:?}",
                    field.kind, field.pointer
                ));
            }
        }
    }
}

// Each value is accepted or refused by the API server and by the code, as the table says.
#[requires(api_server)]
#[tokio::test]
async fn schema_and_code_agree_on_every_rule() {
    let harness = Harness::without_operator("agree").await;
    let fields = [durations(), numbers(), urls(), headers(), hosts(), names()];
    let mut wrong = Vec::new();
    for field in fields.iter().flatten() {
        compare(&harness, field, &mut wrong).await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
