//! The test that this product starts from: what the file says about the session store is what the gateway says to Redis.
//!
//! It exists because in the system that this one re-imagines the operator wrote these fields and the gateway never read them.

use std::collections::BTreeMap;

use vmcp_crds::config::{SessionStorage, SessionStorageProvider};
use vmcp_e2e::gateway::Recipe;
use vmcp_e2e::raw;
use vmcp_e2e::recorder::Recorder;
use vmcp_e2e::redis::Redis;
use vmcp_e2e::rendered;

/// A server on which nothing works but what the resource says: the default user is off, and the user of the resource may touch
/// only keys with its prefix.
fn redis_of_acme() -> anyhow::Result<(Redis, Recorder)> {
    let user = "user acme-gateway on >s3cret-of-acme ~{acme:* &* +@all";
    let redis = Redis::start_with(None, &["user default on nopass ~* &* +@all", user])?;
    let recorder = Recorder::start(redis.address)?;
    redis.command::<()>(&["ACL", "SETUSER", "default", "resetpass"])?;
    Ok((redis, recorder))
}

/// What a gateway of `tools/everything` says to the recorded Redis when it opens a session.
fn check_what_is_said(recorder: &Recorder) -> anyhow::Result<()> {
    // The recorder is what `address` names, and it heard something. RESP puts each word behind its length.
    let said = recorder.said();
    let word = |word: &str| format!("${}\r\n{word}\r\n", word.len());
    assert!(
        said.contains(&word("acme-gateway")),
        "username is not on the wire: {said}"
    );
    assert!(
        said.contains(&word("s3cret-of-acme")),
        "the password is not on the wire"
    );
    assert!(
        said.contains(&format!("{}{}", word("SELECT"), word("7"))),
        "db is not on the wire: {said}"
    );
    assert!(
        said.contains("{acme:tools/everything}:s:"),
        "keyPrefix is not on the wire: {said}"
    );
    // And Redis understood.
    let clients = redis_as_user(recorder, "CLIENT", &["LIST"])?;
    assert!(
        clients.contains("user=acme-gateway") && clients.contains("db=7"),
        "{clients}"
    );
    Ok(())
}

#[test]
fn every_field_of_session_storage_and_the_password_are_found_on_the_wire() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let (_redis, recorder) = redis_of_acme()?;
    let mut recipe = Recipe::new(&[])?;
    recipe.config.namespace = "tools".to_owned();
    recipe.config.name = "everything".to_owned();
    recipe.config.session_storage = SessionStorage {
        provider: SessionStorageProvider::Redis,
        address: Some(recorder.address.to_string()),
        db: 7,
        key_prefix: "acme:".to_owned(),
        username: Some("acme-gateway".to_owned()),
        // What is not about the connection is flipped in session_cache.rs and store_outage.rs.
        ..SessionStorage::default()
    };
    recipe.password = Some("s3cret-of-acme".to_owned());
    let gateway = recipe.start()?;
    raw::Session::open(gateway.mcp)?;
    check_what_is_said(&recorder)?;
    // The secret stays where it belongs.
    assert!(
        !gateway.log()?.contains("s3cret-of-acme"),
        "the password is in the log"
    );
    assert!(!serde_json::to_string(&gateway.status(&recipe)?)?.contains("s3cret-of-acme"));
    Ok(())
}

#[test]
fn every_field_of_session_storage_in_a_resource_is_found_on_the_wire() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let (_redis, recorder) = redis_of_acme()?;
    let resource = serde_json::json!({
        "apiVersion": "vmcp.dev/v1alpha1",
        "kind": "VirtualMCPServer",
        "metadata": {"name": "everything", "namespace": "tools", "uid": "1"},
        "spec": {
            "groupRef": {"name": "tools"},
            "sessionStorage": {
                "provider": "redis",
                "address": recorder.address.to_string(),
                "db": 7,
                "keyPrefix": "acme:",
                "username": "acme-gateway",
                "passwordRef": {"name": "acme", "key": "password"},
            },
        },
    });
    let password = BTreeMap::from([("password".to_owned(), "s3cret-of-acme".to_owned())]);
    let secrets = BTreeMap::from([("acme".to_owned(), password)]);
    let mut gateway = rendered::start(&serde_json::from_value(resource)?, &[], secrets)?;
    gateway.wait_until_ready()?;
    raw::Session::open(gateway.mcp)?;
    check_what_is_said(&recorder)
}

#[test]
fn provider_memory_says_nothing_to_redis() -> anyhow::Result<()> {
    let recipe = Recipe::new(&[])?;
    let gateway = recipe.start()?;
    raw::Session::open(gateway.mcp)?;
    assert_eq!(gateway.status(&recipe)?.session_store.provider, "memory");
    Ok(())
}

#[test]
fn a_wrong_password_is_unavailable_and_not_gone() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let redis = Redis::start(Some("right"))?;
    let mut recipe = Recipe::new(&[])?;
    recipe.config.session_storage = SessionStorage {
        provider: SessionStorageProvider::Redis,
        address: Some(redis.address.to_string()),
        ..SessionStorage::default()
    };
    recipe.password = Some("wrong-password".to_owned());
    let gateway = recipe.start()?;
    let answer = raw::initialize(gateway.mcp)?;
    assert_eq!(
        (answer.status, answer.error_code()),
        (503, -32603),
        "{}",
        answer.text()
    );
    assert!(answer.header("retry-after").is_some());
    let status = gateway.status(&recipe)?;
    assert!(!status.session_store.available, "{status:?}");
    assert!(
        !gateway.log()?.contains("wrong-password"),
        "the password is in the log"
    );
    Ok(())
}

fn redis_as_user(recorder: &Recorder, command: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let settings = redis::RedisConnectionInfo::default()
        .set_username("acme-gateway")
        .set_password("s3cret-of-acme");
    let address = redis::ConnectionAddr::Tcp(recorder.address.ip().to_string(), recorder.address.port());
    let info = redis::IntoConnectionInfo::into_connection_info(address)?.set_redis_settings(settings);
    let mut connection = redis::Client::open(info)?.get_connection()?;
    Ok(redis::cmd(command).arg(arguments).query(&mut connection)?)
}
