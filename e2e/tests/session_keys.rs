//! The keys that sign session ids change while the gateway runs, and no session ends for it.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use vmcp_crds::session_key::{CURRENT, NEXT, PREVIOUS, SessionKey};
use vmcp_e2e::fixture::Fixture;
use vmcp_e2e::gateway::Recipe;
use vmcp_e2e::raw::Session;
use vmcp_e2e::wait;

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_rotation_is_taken_while_sessions_go_on_and_a_bad_set_of_keys_changes_nothing() -> anyhow::Result<()> {
    let fixture = Fixture::start(&[])?;
    let recipe = Recipe::new(&[("fixture", &fixture.url)])?;
    let keys = recipe.config.session_keys.as_ref().context("no keys")?;
    let directory = keys.directory.clone();
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    let mut expected = 0;
    let mut call = |session: &Session| -> anyhow::Result<()> {
        expected += 1;
        let text = session
            .call(gateway.mcp, "fixture_counter", &json!({}))?
            .tool_text()?;
        anyhow::ensure!(text == expected.to_string(), "{text}, not {expected}");
        Ok(())
    };
    call(&session)?;
    // The first characters of an id name the version, and six bits of the number of the key.
    let signer = |session: &Session| session.id.chars().take(4).collect::<String>();
    let before = signer(&session);

    // Something that is no key: told of, and nothing else.
    std::fs::write(directory.join(NEXT), "no key")?;
    wait::until("the bad key is told of", PATIENCE, || {
        anyhow::ensure!(gateway.log()?.contains("are refused"), "not yet");
        Ok(())
    })?;
    call(&session)?;

    // The rotation, file by file. A key whose number is another than that of the one before shows who signed.
    let next = loop {
        let key = SessionKey::generate()?;
        let current = SessionKey::parse(&std::fs::read_to_string(directory.join(CURRENT))?)?;
        if key.id() >> 2 != current.id() >> 2 {
            break key;
        }
    };
    std::fs::write(directory.join(NEXT), next.to_text())?;
    call(&session)?;
    std::fs::copy(directory.join(CURRENT), directory.join(PREVIOUS))?;
    call(&session)?;
    std::fs::rename(directory.join(NEXT), directory.join(CURRENT))?;
    let new = wait::until("the new key signs", PATIENCE, || {
        call(&session)?;
        let new = Session::open(gateway.mcp)?;
        anyhow::ensure!(signer(&new) != before, "not yet");
        Ok(new)
    })?;
    call(&session)?;
    new.call(gateway.mcp, "fixture_counter", &json!({}))?
        .tool_text()?;

    // Once its key is gone a session is unknown.
    std::fs::remove_file(directory.join(PREVIOUS))?;
    wait::until("the old session is unknown", PATIENCE, || {
        let refused = session.call(gateway.mcp, "fixture_counter", &json!({}))?;
        anyhow::ensure!(refused.error_code() == -32001, "{}", refused.text());
        Ok(())
    })?;
    new.call(gateway.mcp, "fixture_counter", &json!({}))?
        .tool_text()?;
    Ok(())
}
