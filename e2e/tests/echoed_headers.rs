//! The values of configured headers stay secret, although a backend repeats them.

use std::time::Duration;

use serde_json::json;
use vmcp_crds::config::{HeaderSource, LogLevel};
use vmcp_e2e::gateway::Recipe;
use vmcp_e2e::http_client::Session;
use vmcp_e2e::scripted_server::{Reply, ScriptedServer, usual};
use vmcp_e2e::wait;

const PATIENCE: Duration = Duration::from_secs(15);

/// A backend that repeats the value of its header in an error does not bring it into `/status`, into logs or into the gateway's own errors.
/// What it answers to a call reaches the client unchanged.
#[test]
fn header_value_echoed_in_an_error_is_hidden() -> anyhow::Result<()> {
    let server = ScriptedServer::start(|request| {
        let sent = request.header("authorization").unwrap_or_default();
        let key = sent.trim_start_matches("Bearer ");
        let message = &request.message["params"]["arguments"]["message"];
        match request.method() {
            "tools/list" if request.path.contains("broken") => {
                Some(request.error(200, -32000, &format!("invalid key {key}")))
            }
            "tools/call" if message == "pass" => Some(request.error(200, -32000, key)),
            // An error whose id is null belongs to the request, on whose stream it comes.
            "tools/call" if message == "stream" => {
                let error = json!({"code": -32700, "message": format!("invalid key {key}")});
                let event = json!({"jsonrpc": "2.0", "id": null, "error": error});
                let event = format!("data: {event}\n\n");
                Some(Reply::new(200, "text/event-stream", event.as_bytes()))
            }
            "tools/call" => Some(request.error(500, -32000, &format!("invalid key {key} in {sent}"))),
            _ => Some(usual(request)),
        }
    })?;
    let broken = format!("{}/broken", server.url);
    let mut recipe = Recipe::new(&[("fixture", &server.url), ("other", &broken)])?;
    let token = ("BACKEND_TOKEN".to_owned(), "s3cret-token".to_owned());
    recipe.environment.extend([token]);
    if let Some(hot) = &mut recipe.config.hot {
        let source = HeaderSource {
            env: Some("BACKEND_TOKEN".to_owned()),
            prefix: "Bearer ".to_owned(),
            ..HeaderSource::default()
        };
        hot.log_level = LogLevel::Debug;
        for backend in &mut hot.backends {
            backend.headers = [("Authorization".to_owned(), source.clone())].into();
        }
    }
    let gateway = recipe.start()?;
    let error = wait::until("the error is reported", PATIENCE, || {
        let backends = gateway.status(&recipe)?.backends;
        let error = backends.into_iter().find_map(|backend| backend.error);
        error.ok_or_else(|| anyhow::anyhow!("no error"))
    })?;
    assert!(error.contains("invalid key <hidden>"), "{error}");
    let session = Session::open(gateway.mcp)?;
    let call = |message: &str| session.call(gateway.mcp, "fixture_echo", &json!({"message": message}));
    let failed = call("hi")?.text();
    assert!(failed.contains("invalid key <hidden> in <hidden>"), "{failed}");
    let streamed = call("stream")?.text();
    assert!(streamed.contains("invalid key <hidden>"), "{streamed}");
    let passed = call("pass")?.text();
    assert!(passed.contains(r#""message":"s3cret-token""#), "{passed}");
    for said in [gateway.log()?, serde_json::to_string(&gateway.status(&recipe)?)?] {
        assert!(!said.contains("s3cret"), "{said}");
    }
    Ok(())
}
