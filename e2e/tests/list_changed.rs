//! Whatever changes what is offered reaches the list of every live session, and a client that holds a stream is told of the kinds that
//! have changed, and of no other.

use std::time::Duration;

use serde_json::json;
use vmcp_e2e::fixture::Fixture;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::mount::Mount;
use vmcp_e2e::raw::Session;
use vmcp_e2e::stream::Stream;
use vmcp_e2e::wait;

const PATIENCE: Duration = Duration::from_secs(20);
const KINDS: [&str; 3] = ["tools", "prompts", "resources"];

/// Waits until the gateway hears what the fixture says of its lists.
fn wait_until_heard(fixture: &Fixture) -> anyhow::Result<()> {
    wait::until("the gateway listens to the fixture", PATIENCE, || {
        anyhow::ensure!(fixture.stats()?.gets_open == 1, "nobody listens");
        Ok(())
    })
}

/// The kinds of which the next messages say that their lists have changed, in alphabetical order.
fn told(stream: &mut Stream, count: usize) -> anyhow::Result<Vec<String>> {
    let mut kinds = Vec::with_capacity(count);
    for _ in 0..count {
        let message = stream.message()?;
        let method = message["method"].as_str().unwrap_or_default();
        let kind = method.strip_prefix("notifications/");
        let kind = kind.and_then(|method| method.strip_suffix("/list_changed"));
        kinds.push(kind.unwrap_or(method).to_owned());
    }
    kinds.sort();
    Ok(kinds)
}

/// Whether the session's list shows `name`.
fn lists(gateway: &Gateway, session: &Session, method: &str, name: &str) -> anyhow::Result<bool> {
    let names = session.names(gateway.mcp, method)?;
    Ok(names.iter().any(|other| other == name))
}

/// A change of a backend's list of any kind is notified as that kind alone and is in the next list.
#[test]
fn list_change_notifies_its_kind_alone() -> anyhow::Result<()> {
    let fixture = Fixture::start(&[])?;
    let gateway = Recipe::new(&[("a", &fixture.url)])?.start()?;
    let (listening, other) = (Session::open(gateway.mcp)?, Session::open(gateway.mcp)?);
    wait_until_heard(&fixture)?;
    let mut stream = Stream::get(gateway.mcp, &listening, None)?;
    // Each is the next message of the stream, so that nothing else was said of the change before it.
    for edit in ["add", "remove"] {
        for kind in KINDS {
            let (added, name) = match kind {
                "resources" => ("test://added", "test://added"),
                _ => ("added", "a_added"),
            };
            let change = format!("/{kind}-changed?{edit}={added}");
            fixture.admin("POST", &change, &json!(null))?;
            assert_eq!(told(&mut stream, 1)?, [kind], "{change}");
            for session in [&listening, &other] {
                let is_listed = lists(&gateway, session, &format!("{kind}/list"), name)?;
                assert_eq!(is_listed, edit == "add", "{change}");
            }
        }
    }
    Ok(())
}

/// A reload that adds filters or removes a backend is notified to a client with a stream.
#[test]
fn reload_that_changes_lists_notifies_open_streams() -> anyhow::Result<()> {
    let (one, two) = (Fixture::start(&[])?, Fixture::start(&[])?);
    let first = format!("backends:\n- {{name: one, url: '{}'}}\n", one.url);
    let second = |rules: &str| format!("{first}- {{name: two, url: '{}'{rules}}}\n", two.url);
    // What both have under one URI is the first one's.
    two.admin("POST", "/resources-changed?add=test://of-two", &json!(null))?;
    let mount = Mount::new(&first)?;
    let mut recipe = Recipe::new(&[])?;
    recipe.config.hot = None;
    recipe.config.hot_file = Some(mount.file());
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    let mut stream = Stream::get(gateway.mcp, &session, None)?;
    let has = |method: &str, name: &str| lists(&gateway, &session, method, name);

    mount.put(&second(""))?;
    assert_eq!(told(&mut stream, 3)?, ["prompts", "resources", "tools"]);
    assert!(has("tools/list", "two_echo")? && has("prompts/list", "two_test_simple_prompt")?);
    assert!(has("resources/list", "test://of-two")?);

    mount.put(&second(", prompts: {deny: ['*']}"))?;
    assert_eq!(told(&mut stream, 1)?, ["prompts"]);
    assert!(has("tools/list", "two_echo")? && !has("prompts/list", "two_test_simple_prompt")?);

    let rules = ", prompts: {deny: ['*']}, resources: {deny: ['test://of-two']}";
    mount.put(&second(rules))?;
    assert_eq!(told(&mut stream, 1)?, ["resources"]);
    assert!(!has("resources/list", "test://of-two")?);

    mount.put(&first)?;
    assert_eq!(told(&mut stream, 1)?, ["tools"]);
    assert!(!has("tools/list", "two_echo")?);

    // Templates are told of as resources, which is the only word that the protocol has for both.
    let rules = "- {name: one, url: 'URL', resources: {deny: ['test://template/*']}}";
    mount.put(&format!("backends:\n{}\n", rules.replace("URL", &one.url)))?;
    assert_eq!(told(&mut stream, 1)?, ["resources"]);
    let templates = session.names(gateway.mcp, "resources/templates/list")?;
    assert!(templates.is_empty(), "{templates:?}");
    Ok(())
}
