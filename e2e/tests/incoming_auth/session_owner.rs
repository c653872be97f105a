//! A session belongs to the subject of the token that opened it.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use vmcp_crds::config::IncomingAuth;
use vmcp_e2e::gateway::Recipe;
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client;
use vmcp_e2e::issuer::Issuer;
use vmcp_e2e::recorder::Recorder;
use vmcp_e2e::redis::Redis;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;
use vmcp_external::requires;

use crate::support::{Caller, SOON, oidc, seen, with_auth};

/// A session belongs only to the subject that opened it.
#[requires(redis)]
#[test]
fn session_belongs_to_the_subject_that_opened_it() -> anyhow::Result<()> {
    let (test_server, redis) = (TestServer::start(&[])?, Redis::start(None)?);
    let (issuer, elsewhere) = (Issuer::start()?, Issuer::start()?);
    let builder = Harness::builder().backend("one", &test_server.url);
    let mut harness = builder.redis(redis).start()?;
    let ([anonymous_gateway], redis) = (harness.take_gateways()?, harness.redis);
    let recipe = with_auth(harness.recipe, oidc(&issuer)?);
    let home = recipe.start()?;
    // A replica that never serves the owner, so none of its Redis commands is for the owner.
    let recorder = Recorder::start(redis.address)?;
    let mut recipe = recipe;
    recipe.use_redis(recorder.address);
    let replica = recipe.start()?;
    let mut recipe = with_auth(recipe, oidc(&elsewhere)?);
    let replica_of_another_issuer = recipe.start()?;
    recipe.config.incoming_auth = IncomingAuth::default();
    let anonymous_replica = recipe.start()?;

    let alice = Caller::with(issuer.token("alice")?).open(home.mcp)?;
    let id = alice.session.clone().context("a session")?;
    assert_eq!(alice.call(home.mcp, "one_counter")?.tool_text()?, "1");
    let anonymous = Caller::default().open(anonymous_gateway.mcp)?;
    let anonymous_id = anonymous.session.clone().context("a session")?;
    assert_eq!(
        anonymous
            .call(anonymous_gateway.mcp, "one_counter")?
            .tool_text()?,
        "1"
    );

    // A well-formed id of another virtual server.
    let other_server = Recipe::new(&[])?.start()?;
    let random = http_client::Session::open(other_server.mcp)?.id;
    let bob = Caller::with(issuer.token("bob")?);
    let unknown = seen(&bob.naming(&random).try_everything(replica.mcp)?);
    assert!(unknown.iter().all(|answer| answer.status == 404), "{unknown:?}");
    let namesake = Caller::with(elsewhere.token("alice")?);
    let foreign: [(&str, Caller, SocketAddr); 5] = [
        ("bob with alice's", bob.naming(&id), replica.mcp),
        (
            "bob with an anonymous one",
            bob.naming(&anonymous_id),
            replica.mcp,
        ),
        (
            "alice with an anonymous one",
            alice.naming(&anonymous_id),
            replica.mcp,
        ),
        (
            "alice of another issuer with alice's",
            namesake.naming(&id),
            replica_of_another_issuer.mcp,
        ),
        (
            "anonymous with alice's",
            Caller::default().naming(&id),
            anonymous_replica.mcp,
        ),
    ];
    for (who, caller, gateway) in &foreign {
        // Gateways also send Redis commands by themselves. A command for the request would be sent every time.
        wait::until(&format!("{who}: no store command"), SOON, || {
            let before = recorder.said().len();
            let answers = seen(&caller.try_everything(*gateway)?);
            assert_eq!(answers, unknown, "{who}");
            let said = recorder.said()[before..].replace("*1\r\n$4\r\nPING\r\n", "");
            ensure!(said.is_empty(), "{said:?}");
            Ok(())
        })?;
    }
    // Without a token the session is not even loaded.
    let stolen = Caller::default().naming(&id).try_everything(replica.mcp)?;
    assert!(stolen.iter().all(|answer| answer.status == 401), "{stolen:?}");

    // The owners are undisturbed, on every replica, and with a new token of the same subject.
    let renewed = Caller::with(issuer.token("alice")?).naming(&id);
    assert_ne!(renewed.token, alice.token);
    assert_eq!(alice.call(replica.mcp, "one_counter")?.tool_text()?, "2");
    assert_eq!(renewed.call(home.mcp, "one_counter")?.tool_text()?, "3");
    assert_eq!(
        anonymous
            .call(anonymous_replica.mcp, "one_counter")?
            .tool_text()?,
        "2"
    );
    assert_eq!(renewed.send(replica.mcp, "DELETE", None)?.status, 200);
    assert_eq!(alice.call(replica.mcp, "one_counter")?.status, 404);
    Ok(())
}
