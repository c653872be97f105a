//! Servers that nobody here wrote, and the fixture, behind one gateway: whatever they serve is there, and is what they serve.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::net::SocketAddr;

use serde_json::{Value, json};
use vmcp_e2e::fixture::Fixture;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::raw::Session;
use vmcp_peers::server::{self, Server};

/// One backend, asked directly and through the gateway.
struct Pair {
    name: &'static str,
    direct: SocketAddr,
    own: Session,
}

struct World {
    gateway: Gateway,
    recipe: Recipe,
    through: Session,
    pairs: Vec<Pair>,
    _servers: (Server, Server, Fixture),
}

/// What the gateway declares when it looks: some servers list tools only to clients that could answer what those tools ask.
fn capabilities() -> Value {
    json!({"roots": {}, "sampling": {}, "elicitation": {"form": {}, "url": {}}})
}

fn world() -> anyhow::Result<World> {
    let servers = (
        server::everything()?,
        server::time()?,
        Fixture::start(&["--page-size", "3"])?,
    );
    let backends = [
        ("everything", servers.0.url.clone()),
        ("time", servers.1.url.clone()),
        ("fixture", servers.2.url.clone()),
    ];
    let named: Vec<_> = backends.iter().map(|(name, url)| (*name, url.as_str())).collect();
    let recipe = Recipe::new(&named)?;
    let gateway = recipe.start()?;
    let pairs = backends
        .iter()
        .map(|(name, url)| {
            let direct = url
                .trim_start_matches("http://")
                .trim_end_matches("/mcp")
                .parse()?;
            let own = Session::open_with(direct, "2025-11-25", &capabilities())?;
            Ok(Pair { name, direct, own })
        })
        .collect::<anyhow::Result<_>>()?;
    Ok(World {
        through: Session::open_with(gateway.mcp, "2025-11-25", &capabilities())?,
        gateway,
        recipe,
        pairs,
        _servers: servers,
    })
}

impl World {
    /// Sends the same request to the backend and through the gateway, where names have a prefix, and compares the bytes.
    fn compare(&self, backend: &str, method: &str, params: &Value) -> anyhow::Result<()> {
        let pair = self.pair(backend);
        let mut renamed = params.clone();
        for name in ["/name", "/ref/name"] {
            if let Some(name) = renamed.pointer_mut(name) {
                *name = json!(format!("{backend}_{}", name.as_str().unwrap_or_default()));
            }
        }
        let own = pair.own.request(pair.direct, method, params)?;
        let through = self.through.request(self.gateway.mcp, method, &renamed)?;
        assert_eq!(
            through.outcome()?.get(),
            own.outcome()?.get(),
            "{backend} {method} {params}"
        );
        assert_eq!(through.message()?["id"], 7);
        Ok(())
    }

    fn pair(&self, backend: &str) -> &Pair {
        self.pairs.iter().find(|pair| pair.name == backend).unwrap()
    }
}

#[test]
fn everything_that_they_list_is_listed_byte_for_byte_but_for_its_name() -> anyhow::Result<()> {
    if vmcp_peers::left_out("npm") || vmcp_peers::left_out("python") {
        return Ok(());
    }
    let world = world()?;
    for (method, field, prefixed) in [
        ("tools/list", "name", true),
        ("prompts/list", "name", true),
        ("resources/list", "uri", false),
        ("resources/templates/list", "uriTemplate", false),
    ] {
        let mut expected = Vec::new();
        for pair in &world.pairs {
            for item in pair.own.list(pair.direct, method)? {
                let value: Value = serde_json::from_str(item.get())?;
                let name = value[field].as_str().unwrap_or_default();
                let advertised = if prefixed {
                    format!("{}_{name}", pair.name)
                } else {
                    name.to_owned()
                };
                let from = format!("\"{field}\":\"{name}\"");
                let text = item
                    .get()
                    .replacen(&from, &format!("\"{field}\":\"{advertised}\""), 1);
                expected.push((advertised, text));
            }
        }
        expected.sort();
        assert!(!expected.is_empty(), "{method}");
        let through = world.through.list(world.gateway.mcp, method)?;
        let through: Vec<_> = through.iter().map(|item| item.get()).collect();
        let expected: Vec<_> = expected.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(through, expected, "{method}");
    }
    let status = world.gateway.status(&world.recipe)?;
    assert!(status.conflicts.is_empty(), "{:?}", status.conflicts);
    Ok(())
}

/// Tools whose answers are the same every time, with arguments for them.
fn deterministic() -> Vec<(&'static str, &'static str, Value)> {
    let everything = [
        ("echo", json!({"message": "héllo \u{1F600} \"x\""})),
        (
            "get-annotated-message",
            json!({"messageType": "error", "includeImage": true}),
        ),
        ("get-env", json!({})),
        ("get-resource-links", json!({"count": 3})),
        ("get-structured-content", json!({"location": "New York"})),
        ("get-sum", json!({"a": 1.5, "b": 2})),
        ("get-tiny-image", json!({})),
        (
            "gzip-file-as-resource",
            json!({"name": "a.gz", "data": "data:text/plain,hello", "outputType": "resourceLink"}),
        ),
        (
            "trigger-long-running-operation",
            json!({"duration": 0.02, "steps": 2}),
        ),
    ];
    let time = [(
        "convert_time",
        json!({"source_timezone": "UTC", "time": "16:30", "target_timezone": "Asia/Tokyo"}),
    )];
    let fixture = [
        ("echo", json!({"message": "hi"})),
        ("counter", json!({})),
        ("big", json!({"bytes": 400_000})),
        ("sleep", json!({"ms": 1})),
        ("stream_progress", json!({"steps": 2, "ms": 1})),
        ("test_simple_text", json!({})),
        ("test_image_content", json!({})),
        ("test_audio_content", json!({})),
        ("test_embedded_resource", json!({})),
        ("test_multiple_content_types", json!({})),
        ("test_error_handling", json!({})),
        ("test_tool_with_logging", json!({})),
        ("test_tool_with_progress", json!({})),
        ("test_logging_tool", json!({})),
        ("greet", json!({"name": "Ada"})),
        ("json_schema_2020_12_tool", json!({"name": "Ada"})),
    ];
    let of = |backend, tools: Vec<(&'static str, Value)>| {
        let tool = move |(name, arguments)| (backend, name, arguments);
        tools.into_iter().map(tool).collect::<Vec<_>>()
    };
    [
        of("everything", everything.into()),
        of("time", time.into()),
        of("fixture", fixture.into()),
    ]
    .concat()
}

/// Tools of the third-party servers that answer otherwise each time, or ask the client something first.
const OTHERS: [&str; 9] = [
    "everything_get-resource-reference",
    "everything_get-roots-list",
    "everything_simulate-research-query",
    "everything_toggle-simulated-logging",
    "everything_toggle-subscriber-updates",
    "everything_trigger-elicitation-request",
    "everything_trigger-sampling-request",
    "everything_trigger-url-elicitation",
    "time_get_current_time",
];

#[test]
fn calls_answer_byte_for_byte_what_the_backend_answers() -> anyhow::Result<()> {
    if vmcp_peers::left_out("npm") || vmcp_peers::left_out("python") {
        return Ok(());
    }
    let world = world()?;
    let deterministic = deterministic();
    for name in world.through.names(world.gateway.mcp, "tools/list")? {
        let called = |(backend, tool, _): &(&str, &str, Value)| format!("{backend}_{tool}") == name;
        let accounted = deterministic.iter().any(called) || OTHERS.contains(&name.as_str());
        assert!(
            accounted || name.starts_with("fixture_"),
            "{name} is new: call it here"
        );
    }
    for (backend, tool, arguments) in &deterministic {
        world.compare(
            backend,
            "tools/call",
            &json!({"name": tool, "arguments": arguments}),
        )?;
    }
    // The others: an answer of the right form, not an error.
    let now = world.through.call(
        world.gateway.mcp,
        "time_get_current_time",
        &json!({"timezone": "UTC"}),
    )?;
    assert!(now.tool_text()?.contains("\"timezone\""), "{}", now.text());
    let reference = json!({"resourceType": "Text", "resourceId": 1});
    let reference = world
        .through
        .call(world.gateway.mcp, "everything_get-resource-reference", &reference)?;
    assert!(
        reference.tool_text()?.contains("resource"),
        "{}",
        reference.text()
    );
    // A resource that no list names: a tool made it for this session.
    let made = json!({"uri": "demo://resource/session/a.gz"});
    let made = world
        .through
        .request(world.gateway.mcp, "resources/read", &made)?
        .message()?;
    assert_eq!(
        made["result"]["contents"][0]["mimeType"], "application/gzip",
        "{made}"
    );
    Ok(())
}

#[test]
fn resources_prompts_and_completions_are_byte_for_byte_what_the_backend_gives() -> anyhow::Result<()> {
    if vmcp_peers::left_out("npm") || vmcp_peers::left_out("python") {
        return Ok(());
    }
    let world = world()?;
    for pair in &world.pairs {
        for uri in pair.own.names(pair.direct, "resources/list")? {
            world.compare(pair.name, "resources/read", &json!({"uri": uri}))?;
        }
    }
    for (backend, method, params) in [
        (
            "fixture",
            "resources/read",
            json!({"uri": "test://template/a%20b/data", "_meta": {"x": 1}}),
        ),
        (
            "fixture",
            "resources/read",
            json!({"uri": "test://nonexistent-resource"}),
        ),
        ("everything", "prompts/get", json!({"name": "simple-prompt"})),
        (
            "everything",
            "prompts/get",
            json!({"name": "args-prompt", "arguments": {"city": "Bern"}}),
        ),
        (
            "everything",
            "prompts/get",
            json!({"name": "completable-prompt", "arguments": {"department": "Sales", "name": "Eve"}}),
        ),
        ("everything", "prompts/get", json!({"name": "args-prompt"})),
        ("fixture", "prompts/get", json!({"name": "test_simple_prompt"})),
        (
            "fixture",
            "prompts/get",
            json!({"name": "test_prompt_with_arguments", "arguments": {"arg1": "1", "arg2": "2"}}),
        ),
        (
            "fixture",
            "prompts/get",
            json!({"name": "test_prompt_with_embedded_resource", "arguments": {"resourceUri": "test://x"}}),
        ),
        (
            "fixture",
            "prompts/get",
            json!({"name": "test_prompt_with_image"}),
        ),
        (
            "everything",
            "completion/complete",
            json!({
                "ref": {"type": "ref/prompt", "name": "completable-prompt"},
                "argument": {"name": "name", "value": "D"},
                "context": {"arguments": {"department": "Sales"}},
            }),
        ),
        (
            "everything",
            "completion/complete",
            json!({
                "ref": {"type": "ref/resource", "uri": "demo://resource/dynamic/text/{resourceId}"},
                "argument": {"name": "resourceId", "value": "7"},
            }),
        ),
        (
            "fixture",
            "completion/complete",
            json!({
                "ref": {"type": "ref/prompt", "name": "test_prompt_with_arguments"},
                "argument": {"name": "arg1", "value": "par"},
            }),
        ),
    ] {
        world.compare(backend, method, &params)?;
    }
    // Its text holds the time of day, so that only its form can be the same.
    let dynamic = json!({"uri": "demo://resource/dynamic/text/7"});
    let read = world
        .through
        .request(world.gateway.mcp, "resources/read", &dynamic)?
        .message()?;
    let text = read["result"]["contents"][0]["text"].as_str().unwrap_or_default();
    assert!(text.starts_with("Resource 7:"), "{read}");
    Ok(())
}

#[test]
fn instructions_of_the_backends_are_told_under_their_names() -> anyhow::Result<()> {
    if vmcp_peers::left_out("npm") || vmcp_peers::left_out("python") {
        return Ok(());
    }
    let world = world()?;
    let hello = vmcp_e2e::raw::initialize(world.gateway.mcp)?.message()?;
    let instructions = hello["result"]["instructions"].as_str().unwrap_or_default();
    for expected in [
        "# everything\n\n# Everything Server",
        "# fixture\n\nA server for tests.",
    ] {
        assert!(instructions.contains(expected), "{instructions}");
    }
    Ok(())
}
