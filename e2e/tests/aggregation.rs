//! Aggregation: prefixes, name conflicts, filters, overrides and instructions of several backends.

use serde_json::{Value, json};
use vmcp_crds::config::{
    AnnotationOverride, Capability, ConflictStrategy, HotConfig, NameRule, PromptOverride, ToolOverride,
};
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::http_client::{self, Session};
use vmcp_e2e::test_server::TestServer;

/// Two test servers with the same lists and different names.
fn left_and_right() -> anyhow::Result<(TestServer, TestServer, Recipe)> {
    let left = TestServer::start(&["--name", "left"])?;
    let right = TestServer::start(&["--name", "right"])?;
    let recipe = Recipe::new(&[("left", &left.url), ("right", &right.url)])?;
    Ok((left, right, recipe))
}

fn hot(recipe: &mut Recipe) -> &mut HotConfig {
    recipe.hot()
}

fn who(session: &Session, gateway: &Gateway, tool: &str) -> anyhow::Result<Value> {
    let answer = session.call(gateway.mcp, tool, &json!({}))?;
    let who: Value = serde_json::from_str(&answer.tool_text()?)?;
    Ok(who["name"].clone())
}

fn tools(session: &Session, gateway: &Gateway) -> anyhow::Result<Vec<String>> {
    session.names(gateway.mcp, "tools/list")
}

fn has(names: &[String], name: &str) -> bool {
    names.iter().any(|other| other == name)
}

/// The prefix of a backend is its name, unless another one is configured.
#[test]
fn prefix_defaults_to_backend_name() -> anyhow::Result<()> {
    let (_left, _right, mut recipe) = left_and_right()?;
    hot(&mut recipe).aggregation.prefix_format = "{backend}.".to_owned();
    hot(&mut recipe).backends[1].prefix = Some(String::new());
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    assert_eq!(who(&session, &gateway, "left.whoami")?, "left");
    assert_eq!(who(&session, &gateway, "whoami")?, "right");
    let prompts = session.names(gateway.mcp, "prompts/list")?;
    assert!(has(&prompts, "left.test_simple_prompt") && has(&prompts, "test_simple_prompt"));
    Ok(())
}

/// Without prefixes the first backend wins and the loser is reported.
#[test]
fn first_backend_wins_without_prefixes() -> anyhow::Result<()> {
    let (_left, _right, mut recipe) = left_and_right()?;
    hot(&mut recipe).aggregation.strategy = ConflictStrategy::None;
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    assert_eq!(who(&session, &gateway, "whoami")?, "left");
    let prompt = session.request(gateway.mcp, "prompts/get", &json!({"name": "test_simple_prompt"}))?;
    assert!(
        prompt.message()?["result"]["messages"].is_array(),
        "{}",
        prompt.text()
    );
    let conflicts = gateway.status(&recipe)?.conflicts;
    let expected = "the tool \"whoami\" of right is not offered: backend left, which comes first, has it too";
    assert!(has(&conflicts, expected), "{conflicts:?}");
    let resource = "the resource \"test://static-text\" of right is not offered";
    assert!(
        conflicts.iter().any(|conflict| conflict.starts_with(resource)),
        "{conflicts:?}"
    );
    Ok(())
}

/// With the strategy `priority` the backend that comes first in the list wins a name.
#[test]
fn first_backend_in_priority_list_wins() -> anyhow::Result<()> {
    let (_left, _right, mut recipe) = left_and_right()?;
    hot(&mut recipe).aggregation.strategy = ConflictStrategy::Priority;
    hot(&mut recipe).aggregation.priority = vec!["right".to_owned()];
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    assert_eq!(who(&session, &gateway, "whoami")?, "right");
    Ok(())
}

/// With the strategy `manual` a name of two backends is not listed until one of them is renamed.
#[test]
fn manual_conflict_hides_name_until_renamed() -> anyhow::Result<()> {
    let (_left, _right, mut recipe) = left_and_right()?;
    hot(&mut recipe).aggregation.strategy = ConflictStrategy::Manual;
    let overrides = &mut hot(&mut recipe).backends[1].tools.overrides;
    overrides.insert("whoami".to_owned(), renamed("whoami_right"));
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    assert_eq!(tools(&session, &gateway)?, ["whoami", "whoami_right"]);
    assert_eq!(who(&session, &gateway, "whoami")?, "left");
    assert_eq!(who(&session, &gateway, "whoami_right")?, "right");
    let echo = session.call(gateway.mcp, "echo", &json!({"message": "hi"}))?;
    assert_eq!(echo.error_code(), -32602, "{}", echo.text());
    let conflicts = gateway.status(&recipe)?.conflicts;
    assert!(
        conflicts
            .iter()
            .any(|conflict| conflict.starts_with("the tool \"echo\" is offered by none of left, right")),
        "{conflicts:?}"
    );
    Ok(())
}

fn renamed(name: &str) -> ToolOverride {
    ToolOverride {
        name: Some(name.to_owned()),
        ..ToolOverride::default()
    }
}

/// A tool that loses its name to an override is a conflict that names both.
#[test]
fn override_conflict_names_both_tools() -> anyhow::Result<()> {
    let (_left, _right, mut recipe) = left_and_right()?;
    let overrides = &mut hot(&mut recipe).backends[0].tools.overrides;
    overrides.insert("whoami".to_owned(), renamed("echo"));
    hot(&mut recipe).backends[1].resources.deny = vec!["*".to_owned()];
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    assert_eq!(who(&session, &gateway, "left_echo")?, "left");
    let listed = tools(&session, &gateway)?;
    assert_eq!(listed.iter().filter(|name| *name == "left_echo").count(), 1);
    assert!(!has(&listed, "left_whoami") && has(&listed, "right_echo"));
    let status = gateway.status(&recipe)?;
    let conflict = r#"the tool "left_echo" of left (its "echo") is not offered: an override gives the name to its "whoami""#;
    assert_eq!(
        (status.conflicts, status.faults),
        (vec![conflict.to_owned()], Vec::new())
    );
    assert_eq!(gateway.metric("vmcp_catalog_conflicts ", "")?, 1.0);
    let logged = serde_json::to_string(conflict)?;
    assert!(gateway.log()?.contains(&logged), "the log does not say {logged}");
    Ok(())
}

/// A configured name that the backend does not have causes a warning.
#[test]
fn unmatched_configured_name_is_warned_of() -> anyhow::Result<()> {
    let (_left, _right, mut recipe) = left_and_right()?;
    let left = &mut hot(&mut recipe).backends[0];
    left.tools.overrides.insert("ehco".to_owned(), renamed("say"));
    left.tools
        .overrides
        .insert("counter".to_owned(), renamed("count"));
    left.tools.deny = vec!["counter".to_owned(), "secrte".to_owned(), "nothing_*".to_owned()];
    left.tools.hidden = vec!["whomai".to_owned()];
    left.prompts.allow = vec!["test_simple_prompt".to_owned(), "tset_prompt".to_owned()];
    left.resources.deny = vec![
        "test://static-tetx".to_owned(),
        "test://template/7/data".to_owned(),
    ];
    let gateway = recipe.start()?;
    assert_eq!(
        gateway.status(&recipe)?.warnings,
        [
            "the override of the tool \"counter\" of backend left has no effect: `allow` and `deny` do not let it pass",
            "the override of the tool \"ehco\" of backend left has no effect: the backend offers none of that name",
            "`tools.deny` of backend left names \"secrte\", but the backend offers no tool of that name",
            "`tools.hidden` of backend left names \"whomai\", but the backend offers no tool of that name",
            "`prompts.allow` of backend left names \"tset_prompt\", but the backend offers no prompt of that name",
            "`resources.deny` of backend left names \"test://static-tetx\", but the backend lists no such resource, and no \
             template that fits it",
        ]
    );
    Ok(())
}

/// A configured name causes no warning while the list of its backend is unknown.
#[test]
fn names_in_unknown_list_cause_no_warning() -> anyhow::Result<()> {
    let (left, mut right, mut recipe) = left_and_right()?;
    right.kill()?;
    left.admin(
        "POST",
        "/faults",
        &json!({"status": 500, "only_method": "prompts/list"}),
    )?;
    hot(&mut recipe).aggregation.capabilities = vec![Capability::Tools, Capability::Prompts];
    for backend in &mut hot(&mut recipe).backends {
        backend.tools.deny = vec!["secrte".to_owned()];
        backend.prompts.allow = vec!["tset_prompt".to_owned()];
        backend.resources.deny = vec!["test://static-tetx".to_owned()];
    }
    let gateway = recipe.start()?;
    let warnings = gateway.status(&recipe)?.warnings;
    assert_eq!(
        warnings,
        ["`tools.deny` of backend left names \"secrte\", but the backend offers no tool of that name"]
    );
    Ok(())
}

/// A denied or hidden tool is neither listed nor callable.
#[test]
fn denied_or_hidden_tool_is_neither_listed_nor_callable() -> anyhow::Result<()> {
    let (_left, _right, mut recipe) = left_and_right()?;
    hot(&mut recipe).aggregation.strategy = ConflictStrategy::None;
    let left = &mut hot(&mut recipe).backends[0];
    left.tools.allow = vec!["echo".to_owned(), "test_*".to_owned(), "whoami".to_owned()];
    left.tools.deny = vec!["test_s*".to_owned(), "whoami".to_owned()];
    left.tools.hidden = vec!["echo".to_owned()];
    left.prompts.allow = vec!["*image".to_owned()];
    left.prompts.deny = vec!["nothing".to_owned()];
    left.resources.allow = vec!["test://static-*".to_owned(), "test://template/*".to_owned()];
    left.resources.deny = vec!["*binary".to_owned(), "test://template/secret/*".to_owned()];
    let right = &mut hot(&mut recipe).backends[1];
    right.tools.allow = vec!["echo".to_owned(), "whoami".to_owned()];
    right.prompts.deny = vec!["*".to_owned()];
    right.resources.deny = vec!["*".to_owned()];
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;

    let listed = tools(&session, &gateway)?;
    assert!(
        has(&listed, "test_image_content") && !has(&listed, "test_simple_text"),
        "{listed:?}"
    );
    assert!(!has(&listed, "counter"), "{listed:?}");
    // The name of a denied tool is free for other backends, that of a hidden tool is not.
    assert_eq!(who(&session, &gateway, "whoami")?, "right");
    assert!(!has(&listed, "echo"), "{listed:?}");
    for tool in ["echo", "counter", "test_simple_text"] {
        let answer = session.call(gateway.mcp, tool, &json!({"message": "hi"}))?;
        assert_eq!((answer.status, answer.error_code()), (200, -32602), "{tool}");
    }
    assert_eq!(
        session.names(gateway.mcp, "prompts/list")?,
        ["test_prompt_with_image"]
    );
    let get = session.request(gateway.mcp, "prompts/get", &json!({"name": "test_simple_prompt"}))?;
    assert_eq!((get.status, get.error_code()), (200, -32602));
    assert_eq!(
        session.names(gateway.mcp, "resources/list")?,
        ["test://static-text"]
    );
    for (uri, code) in [
        ("test://static-text", 0),
        ("test://static-binary", -32002),
        ("test://template/7/data", 0),
        ("test://template/secret/data", -32002),
    ] {
        let read = session.request(gateway.mcp, "resources/read", &json!({"uri": uri}))?;
        assert_eq!(
            (read.status, read.error_code()),
            (200, code),
            "{uri}: {}",
            read.text()
        );
    }
    Ok(())
}

/// Overrides change what clients see, and calls still arrive.
#[test]
fn overridden_tool_is_renamed_and_still_called() -> anyhow::Result<()> {
    let (left, _right, mut recipe) = left_and_right()?;
    let terms = &mut hot(&mut recipe).backends[0];
    let tool = ToolOverride {
        name: Some("say".to_owned()),
        title: Some("Say it".to_owned()),
        description: Some("Says \"it\" again".to_owned()),
        annotations: AnnotationOverride {
            title: Some("Say".to_owned()),
            read_only_hint: Some(true),
            destructive_hint: Some(false),
            idempotent_hint: Some(true),
            open_world_hint: Some(false),
        },
    };
    terms.tools.overrides.insert("echo".to_owned(), tool);
    let prompt = PromptOverride {
        name: Some("hello".to_owned()),
        title: Some("Hello".to_owned()),
        description: Some("Greets".to_owned()),
    };
    terms
        .prompts
        .overrides
        .insert("test_prompt_with_arguments".to_owned(), prompt);
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    let find = |session: &Session, server, method, name: &str| -> anyhow::Result<Value> {
        let items = session.list(server, method)?;
        let mut items = items
            .iter()
            .filter_map(|item| serde_json::from_str::<Value>(item.get()).ok());
        Ok(items.find(|item| item["name"] == name).unwrap_or_default())
    };
    let direct = Session::open(left.address())?;
    let mut expected = find(&direct, left.address(), "tools/list", "echo")?;
    expected["name"] = json!("left_say");
    expected["title"] = json!("Say it");
    expected["description"] = json!("Says \"it\" again");
    expected["annotations"] = json!({
        "title": "Say", "readOnlyHint": true, "destructiveHint": false, "idempotentHint": true, "openWorldHint": false,
    });
    assert_eq!(find(&session, gateway.mcp, "tools/list", "left_say")?, expected);
    let said = session.call(gateway.mcp, "left_say", &json!({"message": "hi"}))?;
    assert_eq!(said.tool_text()?, "hi");
    let old = session.call(gateway.mcp, "left_echo", &json!({"message": "hi"}))?;
    assert_eq!(old.error_code(), -32602);

    let mut expected = find(
        &direct,
        left.address(),
        "prompts/list",
        "test_prompt_with_arguments",
    )?;
    expected["name"] = json!("left_hello");
    expected["title"] = json!("Hello");
    expected["description"] = json!("Greets");
    assert_eq!(
        find(&session, gateway.mcp, "prompts/list", "left_hello")?,
        expected
    );
    let got = json!({"name": "left_hello", "arguments": {"arg1": "1", "arg2": "2"}});
    let got = session.request(gateway.mcp, "prompts/get", &got)?;
    assert!(got.text().contains("arg1='1'"), "{}", got.text());
    let completed = json!({
        "ref": {"type": "ref/prompt", "name": "left_hello"}, "argument": {"name": "arg1", "value": "lo"},
    });
    let completed = session.request(gateway.mcp, "completion/complete", &completed)?;
    assert_eq!(
        completed.message()?["result"]["completion"]["values"],
        json!(["london"])
    );
    Ok(())
}

/// Tools with unusual names are listed, callable, and cause a warning. With the strict rule they are omitted and reported.
#[test]
fn unusual_tool_names_are_listed_unless_strict() -> anyhow::Result<()> {
    let (left, _right, mut recipe) = left_and_right()?;
    let (long, too_long) = ("l".repeat(70), "m".repeat(130));
    left.admin(
        "POST",
        &format!("/tools-changed?add=white%20space,{long},{too_long}"),
        &json!({}),
    )?;
    let said = |sentences: &[String], words: &[&str]| {
        sentences
            .iter()
            .any(|sentence| words.iter().all(|word| sentence.contains(word)))
    };
    let unusual: [&[&str]; 2] = [
        &["white space\"", "left", "characters outside"],
        &[&too_long, "longer than 128"],
    ];
    for names in [NameRule::Lenient, NameRule::Strict] {
        let hot = recipe.hot();
        hot.aggregation.names = names;
        let gateway = recipe.start()?;
        let session = Session::open(gateway.mcp)?;
        let listed = tools(&session, &gateway)?;
        assert!(has(&listed, &format!("left_{long}")), "{listed:?}");
        let is_lenient = names == NameRule::Lenient;
        for name in ["left_white space".to_owned(), format!("left_{too_long}")] {
            assert_eq!(has(&listed, &name), is_lenient, "{names:?}: {name}");
            let answer = session.call(gateway.mcp, &name, &json!({}))?;
            assert_eq!(
                answer.error_code() == 0,
                is_lenient,
                "{names:?}: {}",
                answer.text()
            );
        }
        let status = gateway.status(&recipe)?;
        let sentences = if is_lenient {
            &status.warnings
        } else {
            &status.faults
        };
        for words in unusual {
            assert!(said(sentences, words), "{names:?}: {status:?}");
        }
        assert!(
            said(&status.warnings, &[&long, "75 characters"]),
            "{:?}",
            status.warnings
        );
    }
    Ok(())
}

/// A disabled capability is not declared, not served, and not requested from backends.
#[test]
fn disabled_capability_is_neither_listed_nor_served() -> anyhow::Result<()> {
    let (left, _right, mut recipe) = left_and_right()?;
    hot(&mut recipe).aggregation.capabilities = vec![Capability::Tools];
    let gateway = recipe.start()?;
    let hello = http_client::initialize(gateway.mcp)?.message()?;
    assert_eq!(
        hello["result"]["capabilities"],
        json!({"tools": {"listChanged": true}, "logging": {}})
    );
    let session = Session::open(gateway.mcp)?;
    assert!(!tools(&session, &gateway)?.is_empty());
    for (method, params) in [
        ("prompts/list", json!({})),
        ("prompts/get", json!({"name": "left_test_simple_prompt"})),
        ("resources/list", json!({})),
        ("resources/templates/list", json!({})),
        ("resources/read", json!({"uri": "test://static-text"})),
        (
            "completion/complete",
            json!({"ref": {"type": "ref/prompt", "name": "left_test_simple_prompt"}}),
        ),
    ] {
        let answer = session.request(gateway.mcp, method, &params)?;
        assert_eq!((answer.status, answer.error_code()), (200, -32601), "{method}");
    }
    let asked = left.stats()?.requests;
    assert!(
        asked.contains_key("tools/list") && !asked.contains_key("prompts/list"),
        "{asked:?}"
    );
    Ok(())
}

/// Server info and instructions come from the configuration, and instructions contain those of the backends.
#[test]
fn server_info_and_instructions_are_configurable() -> anyhow::Result<()> {
    let (_left, _right, mut recipe) = left_and_right()?;
    let tell = |recipe: &Recipe| -> anyhow::Result<Value> {
        let gateway = recipe.start()?;
        Ok(http_client::initialize(gateway.mcp)?.message()?["result"].clone())
    };
    let hello = tell(&recipe)?;
    assert_eq!(
        hello["serverInfo"],
        json!({"name": "vmcp", "version": env!("CARGO_PKG_VERSION")})
    );
    assert_eq!(
        hello["instructions"],
        "# left\n\nA server for tests. Nothing here does anything.\n\n\
         # right\n\nA server for tests. Nothing here does anything."
    );
    assert_eq!(
        hello["capabilities"],
        json!({
            "tools": {"listChanged": true},
            "resources": {"listChanged": true, "subscribe": true},
            "prompts": {"listChanged": true},
            "completions": {},
            "logging": {},
        })
    );
    let info = &mut hot(&mut recipe).server_info;
    info.name = Some("tools".to_owned());
    info.title = Some("All our tools".to_owned());
    info.version = Some("7".to_owned());
    hot(&mut recipe).instructions = Some("Use them well.".to_owned());
    let hello = tell(&recipe)?;
    assert_eq!(
        hello["serverInfo"],
        json!({"name": "tools", "title": "All our tools", "version": "7"})
    );
    assert_eq!(hello["instructions"], "Use them well.");
    hot(&mut recipe).instructions = Some(String::new());
    assert_eq!(tell(&recipe)?.get("instructions"), None);
    Ok(())
}

/// An unknown item gets its error code. An item that its backend cannot provide gets an error that names the backend.
#[test]
fn unknown_item_gets_code_and_missing_one_names_backend() -> anyhow::Result<()> {
    let (mut left, _right, recipe) = left_and_right()?;
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    let prompt =
        json!({"ref": {"type": "ref/prompt", "name": "nobody"}, "argument": {"name": "a", "value": ""}});
    for (method, params, code) in [
        ("prompts/get", json!({"name": "nobody"}), -32602),
        ("prompts/get", json!({}), -32602),
        ("resources/read", json!({"uri": "nobody://has/it"}), -32002),
        ("resources/read", json!({"uri": 5}), -32602),
        ("completion/complete", prompt, -32602),
        (
            "completion/complete",
            json!({"ref": {"type": "ref/tool"}}),
            -32602,
        ),
    ] {
        let answer = session.request(gateway.mcp, method, &params)?;
        assert_eq!(
            (answer.status, answer.error_code()),
            (200, code),
            "{method} {params}"
        );
    }
    let unknown = session.request(gateway.mcp, "resources/read", &json!({"uri": "nobody://has/it"}))?;
    assert_eq!(
        unknown.message()?["error"]["data"],
        json!({"uri": "nobody://has/it"})
    );
    left.kill()?;
    for (method, params) in [
        ("prompts/get", json!({"name": "left_test_simple_prompt"})),
        ("resources/read", json!({"uri": "test://static-text"})),
    ] {
        let answer = session.request(gateway.mcp, method, &params)?;
        assert_eq!(
            (answer.status, answer.error_code()),
            (200, -32603),
            "{}",
            answer.text()
        );
        assert!(
            answer.text().contains("backend left cannot be reached"),
            "{}",
            answer.text()
        );
    }
    Ok(())
}
