//! Every change of the catalog reaches the lists of every session, and clients with a stream get `list_changed` of the changed kinds only.

use std::time::Duration;

use serde_json::json;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::http_client::Session;
use vmcp_e2e::mount::Mount;
use vmcp_e2e::stream::Stream;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;

const PATIENCE: Duration = Duration::from_secs(20);
const KINDS: [&str; 3] = ["tools", "prompts", "resources"];

/// Waits until the gateway's stream for `list_changed` is open at the test server.
fn wait_until_heard(test_server: &TestServer) -> anyhow::Result<()> {
    wait::until("the gateway listens to the test server", PATIENCE, || {
        anyhow::ensure!(test_server.stats()?.gets_open == 1, "nobody listens");
        Ok(())
    })
}

/// The kinds of the next `list_changed` notifications, in alphabetical order.
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

/// A change of one list of a backend sends `list_changed` of that kind only, and is in the next list.
#[test]
fn list_change_notifies_its_kind_alone() -> anyhow::Result<()> {
    let test_server = TestServer::start(&[])?;
    let gateway = Recipe::new(&[("a", &test_server.url)])?.start()?;
    let (listening, other) = (Session::open(gateway.mcp)?, Session::open(gateway.mcp)?);
    wait_until_heard(&test_server)?;
    let mut stream = Stream::get(gateway.mcp, &listening, None)?;
    // Each is the next message of the stream, so no other notification was sent for the change.
    for edit in ["add", "remove"] {
        for kind in KINDS {
            let (added, name) = match kind {
                "resources" => ("test://added", "test://added"),
                _ => ("added", "a_added"),
            };
            let change = format!("/{kind}-changed?{edit}={added}");
            test_server.admin("POST", &change, &json!(null))?;
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
    let (one, two) = (TestServer::start(&[])?, TestServer::start(&[])?);
    let first = format!("backends:\n- {{name: one, url: '{}'}}\n", one.url);
    let second = |rules: &str| format!("{first}- {{name: two, url: '{}'{rules}}}\n", two.url);
    // A URI of both belongs to the first one.
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

    // The protocol has one notification for resources and templates.
    let rules = "- {name: one, url: 'URL', resources: {deny: ['test://template/*']}}";
    mount.put(&format!("backends:\n{}\n", rules.replace("URL", &one.url)))?;
    assert_eq!(told(&mut stream, 1)?, ["resources"]);
    let templates = session.names(gateway.mcp, "resources/templates/list")?;
    assert!(templates.is_empty(), "{templates:?}");
    Ok(())
}
