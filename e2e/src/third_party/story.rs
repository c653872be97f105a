//! The requests to the servers: each of their tools, prompts and resources, with arguments for which the response is always the same.

use std::path::Path;

use serde_json::{Value, json};

/// The folder, below the one of the filesystem server, in which files change.
pub(super) const WORK: &str = "work";

/// The file beside it that no call reads or writes, so that its metadata stay the same.
pub(super) const STILL: &str = "still.txt";

/// One request to one server.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The server's name at the gateway.
    pub backend: &'static str,
    /// The method.
    pub method: &'static str,
    /// The params, with names as the server knows them.
    pub params: Value,
}

impl Request {
    /// A request of `method`.
    #[must_use]
    pub fn new(backend: &'static str, method: &'static str, params: Value) -> Self {
        Self {
            backend,
            method,
            params,
        }
    }

    /// The params with names as the gateway offers them.
    #[must_use]
    pub fn renamed(&self) -> Value {
        let mut renamed = self.params.clone();
        for name in ["/name", "/ref/name"] {
            if let Some(name) = renamed.pointer_mut(name) {
                *name = json!(format!("{}_{}", self.backend, name.as_str().unwrap_or_default()));
            }
        }
        renamed
    }

    fn call(backend: &'static str, (tool, arguments): (&str, Value)) -> Self {
        Self::new(
            backend,
            "tools/call",
            json!({"name": tool, "arguments": arguments}),
        )
    }
}

/// A call of each tool without server requests. `files` is the folder of the filesystem server.
#[must_use]
pub fn calls(files: &str) -> Vec<Request> {
    let of = |backend: &'static str, tools: Vec<(&str, Value)>| -> Vec<Request> {
        let calls = tools.into_iter().map(|tool| Request::call(backend, tool));
        calls.collect()
    };
    [
        of("everything", everything()),
        of("filesystem", filesystem(Path::new(files))),
        of("memory", memory()),
        of("time", time()),
        of("sessionless", sessionless()),
        of("fixture", test_server()),
    ]
    .concat()
}

/// Calls of tools that send a request to the client.
#[must_use]
pub fn questions() -> Vec<Request> {
    let everything = [
        ("get-roots-list", json!({})),
        ("trigger-elicitation-request", json!({})),
        (
            "trigger-sampling-request",
            json!({"prompt": "Say something", "maxTokens": 10}),
        ),
        (
            "trigger-url-elicitation",
            json!({"url": "https://example.com/form", "message": "Fill it in", "elicitationId": "one"}),
        ),
    ];
    let test_server = [
        ("test_elicitation", json!({"message": "Who?"})),
        ("test_sampling", json!({"prompt": "Say something"})),
        ("list_roots", json!({})),
    ];
    let everything = everything.map(|tool| Request::call("everything", tool));
    let test_server = test_server.map(|tool| Request::call("fixture", tool));
    everything.into_iter().chain(test_server).collect()
}

fn everything() -> Vec<(&'static str, Value)> {
    vec![
        ("echo", json!({"message": "héllo \u{1F600} \"x\""})),
        (
            "get-annotated-message",
            json!({"messageType": "error", "includeImage": true}),
        ),
        ("get-env", json!({})),
        ("get-resource-links", json!({"count": 3})),
        ("get-structured-content", json!({"location": "New York"})),
        ("get-sum", json!({"a": 1.5, "b": 2})),
        ("get-sum", json!({"a": "one"})),
        ("get-tiny-image", json!({})),
        (
            "gzip-file-as-resource",
            json!({"name": "a.gz", "data": "data:text/plain,hello", "outputType": "resourceLink"}),
        ),
        (
            "trigger-long-running-operation",
            json!({"duration": 0.02, "steps": 2}),
        ),
        ("toggle-simulated-logging", json!({})),
        ("toggle-simulated-logging", json!({})),
        ("toggle-subscriber-updates", json!({})),
        ("toggle-subscriber-updates", json!({})),
    ]
}

fn filesystem(files: &Path) -> Vec<(&'static str, Value)> {
    let work = files.join(WORK);
    let path = |name: &str| json!(work.join(name));
    vec![
        ("list_allowed_directories", json!({})),
        ("get_file_info", json!({"path": files.join(STILL)})),
        ("read_file", json!({"path": path("a.txt")})),
        ("read_text_file", json!({"path": path("a.txt"), "head": 2})),
        ("read_media_file", json!({"path": path("c.png")})),
        (
            "read_multiple_files",
            json!({"paths": [path("a.txt"), path("b.txt"), path("missing.txt")]}),
        ),
        ("read_text_file", json!({"path": "/etc/hostname"})),
        ("write_file", json!({"path": path("n.txt"), "content": "new\n"})),
        (
            "edit_file",
            json!({"path": path("n.txt"), "edits": [{"oldText": "new", "newText": "newer"}]}),
        ),
        ("create_directory", json!({"path": path("deep/er")})),
        (
            "move_file",
            json!({"source": path("n.txt"), "destination": path("deep/m.txt")}),
        ),
        ("list_directory", json!({"path": work})),
        (
            "list_directory_with_sizes",
            json!({"path": work, "sortBy": "size"}),
        ),
        ("directory_tree", json!({"path": work})),
        ("search_files", json!({"path": work, "pattern": "**/*.txt"})),
    ]
}

fn memory() -> Vec<(&'static str, Value)> {
    let relation = json!([{"from": "Ada", "to": "engine", "relationType": "wrote for"}]);
    vec![
        (
            "create_entities",
            json!({"entities": [
                {"name": "Ada", "entityType": "person", "observations": ["counts"]},
                {"name": "engine", "entityType": "machine", "observations": []},
            ]}),
        ),
        ("create_relations", json!({"relations": relation})),
        (
            "add_observations",
            json!({"observations": [{"entityName": "Ada", "contents": ["writes \u{2211}"]}]}),
        ),
        ("read_graph", json!({})),
        ("search_nodes", json!({"query": "writes"})),
        ("open_nodes", json!({"names": ["engine"]})),
        (
            "delete_observations",
            json!({"deletions": [{"entityName": "Ada", "observations": ["counts"]}]}),
        ),
        ("delete_relations", json!({"relations": relation})),
        ("delete_entities", json!({"entityNames": ["engine"]})),
        ("read_graph", json!({})),
    ]
}

fn time() -> Vec<(&'static str, Value)> {
    vec![(
        "convert_time",
        json!({"source_timezone": "UTC", "time": "16:30", "target_timezone": "Asia/Tokyo"}),
    )]
}

fn sessionless() -> Vec<(&'static str, Value)> {
    vec![
        ("add", json!({"a": 1e-3, "b": 41})),
        ("add", json!({"a": "x"})),
        ("count", json!({"to": 3})),
        ("fail", json!({})),
    ]
}

fn test_server() -> Vec<(&'static str, Value)> {
    vec![
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
    ]
}

/// Prompts, resources that no list names, and completions; one of each kind fails.
#[must_use]
pub fn others() -> Vec<Request> {
    let read = |backend, uri: &str| Request::new(backend, "resources/read", json!({"uri": uri}));
    let prompt = |backend, name: &str, arguments: Value| {
        Request::new(
            backend,
            "prompts/get",
            json!({"name": name, "arguments": arguments}),
        )
    };
    let complete = |backend, reference: Value, name: &str, value: &str| {
        let argument = json!({"name": name, "value": value});
        Request::new(
            backend,
            "completion/complete",
            json!({"ref": reference, "argument": argument}),
        )
    };
    let of_prompt = |name: &str| json!({"type": "ref/prompt", "name": name});
    vec![
        prompt("everything", "simple-prompt", json!({})),
        prompt("everything", "args-prompt", json!({"city": "Bern"})),
        prompt(
            "everything",
            "completable-prompt",
            json!({"department": "Sales", "name": "Eve"}),
        ),
        prompt("everything", "args-prompt", json!({})),
        Request::new(
            "everything",
            "completion/complete",
            json!({
                "ref": of_prompt("completable-prompt"),
                "argument": {"name": "name", "value": "D"},
                "context": {"arguments": {"department": "Sales"}},
            }),
        ),
        complete(
            "everything",
            json!({"type": "ref/resource", "uri": "demo://resource/dynamic/text/{resourceId}"}),
            "resourceId",
            "7",
        ),
        read("memory", "memory://knowledge-graph"),
        read("sessionless", "sessionless://motto"),
        read("sessionless", "sessionless://square/12"),
        read("sessionless", "sessionless://nothing"),
        prompt("sessionless", "greet", json!({"name": "Grace"})),
        complete("sessionless", of_prompt("greet"), "name", "A"),
        read("fixture", "test://template/a%20b/data"),
        read("fixture", "test://nonexistent-resource"),
        prompt("fixture", "test_simple_prompt", json!({})),
        prompt(
            "fixture",
            "test_prompt_with_arguments",
            json!({"arg1": "1", "arg2": "2"}),
        ),
        prompt(
            "fixture",
            "test_prompt_with_embedded_resource",
            json!({"resourceUri": "test://x"}),
        ),
        prompt("fixture", "test_prompt_with_image", json!({})),
        complete("fixture", of_prompt("test_prompt_with_arguments"), "arg1", "par"),
    ]
}
