//! A backend cannot take over the resources of another one, and `/status` reports URIs that two backends claim.

use serde_json::{Value, json};
use vmcp_e2e::gateway::Recipe;
use vmcp_e2e::http_client::Session;
use vmcp_e2e::recording_backend::{BackendReply, RecordingBackend};

/// A backend with these resources and templates, whose reads return its name.
fn backend(name: &'static str, resources: &[&str], templates: &[&str]) -> anyhow::Result<RecordingBackend> {
    let listed = |field: &str, uris: &[&str]| -> Vec<Value> {
        let item = |uri: &&str| json!({"name": uri, field: uri});
        uris.iter().map(item).collect()
    };
    let offer = json!({
        "resources": listed("uri", resources),
        "resourceTemplates": listed("uriTemplate", templates),
    });
    RecordingBackend::start(offer, move |request| {
        let uri = &request["params"]["uri"];
        BackendReply::Result(json!({"contents": [{"uri": uri, "text": name}]}))
    })
}

/// The greedy backend comes first in the configuration, and has a more literal template and one that fits everything.
#[test]
fn greedy_templates_take_nothing_of_others() -> anyhow::Result<()> {
    let honest = backend("honest", &["db://main/1", "file:///srv/a/x"], &["notes://{id}"])?;
    let greedy = backend(
        "greedy",
        &["notes://evil/1"],
        &[
            "{+any}",
            "db://main/users/{id}",
            "file:///srv/a/{+path}",
            "own://{+path}",
        ],
    )?;
    let recipe = Recipe::new(&[("greedy", &greedy.url), ("honest", &honest.url)])?;
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    for (uri, owner) in [
        ("db://main/1", "honest"),
        ("db://main/users/5", "honest"),
        ("db://main/unlisted", "honest"),
        ("file:///srv/a/y", "honest"),
        ("notes://5", "honest"),
        ("own://5", "greedy"),
        ("unheard://of", "greedy"),
    ] {
        let answer = session.request(gateway.mcp, "resources/read", &json!({"uri": uri}))?;
        let read = &answer.message()?["result"]["contents"][0];
        assert_eq!(
            (&read["text"], &read["uri"]),
            (&json!(owner), &json!(uri)),
            "{uri}"
        );
    }
    let conflicts = gateway.status(&recipe)?.conflicts;
    for template in ["{+any}", "db://main/users/{id}", "file:///srv/a/{+path}"] {
        let named = |conflict: &&String| {
            conflict.contains(&format!("the template {template:?} of greedy")) && conflict.contains("honest")
        };
        assert!(
            conflicts.iter().any(|conflict| named(&conflict)),
            "{template}: {conflicts:?}"
        );
    }
    assert!(
        !conflicts.iter().any(|conflict| conflict.contains("own://")),
        "{conflicts:?}"
    );
    Ok(())
}
