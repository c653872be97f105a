//! Readiness of a gateway that Redis refuses, or that cannot reach it: `/readyz`, and the reason on `/status`.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use vmcp_crds::config::RedisTls;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::redis::{Certificates, Redis, documented_user};
use vmcp_e2e::{http_client, ports, wait};
use vmcp_external::requires;

const PATIENCE: Duration = Duration::from_secs(20);
/// The password of the gateways. Nothing repeats it.
const PASSWORD: &str = "hunter2";

/// Permissions of the documented user without which a gateway serves. `ROLE` and `INFO` only find more faults, without
/// `PUBLISH` and `SUBSCRIBE` each request reads its session, `HELLO` is always allowed, and the rest is for other topologies.
const OPTIONAL: [&str; 10] = [
    "ASKING",
    "HELLO",
    "INFO",
    "PING",
    "PUBLISH",
    "ROLE",
    "SELECT",
    "SPUBLISH",
    "SSUBSCRIBE",
    "SUBSCRIBE",
];

fn recipe(redis: &Redis) -> anyhow::Result<Recipe> {
    let mut recipe = Recipe::new(&[])?;
    recipe.use_redis(redis.address);
    recipe.password = Some(PASSWORD.to_owned());
    Ok(recipe)
}

/// Status of `/readyz`, and the state of the session store.
fn state(gateway: &Gateway, recipe: &Recipe) -> anyhow::Result<(u16, bool, String)> {
    let ready = http_client::get(gateway.admin, "/readyz", &[])?.status;
    let store = gateway.status(recipe)?.session_store;
    Ok((ready, store.available, store.error.unwrap_or_default()))
}

/// Waits until the gateway says why it cannot use its store. `ready` is the status of `/readyz`.
fn says(gateway: &Gateway, recipe: &Recipe, ready: u16, words: &str) -> anyhow::Result<()> {
    wait::until("the reason is named", PATIENCE, || {
        let now = state(gateway, recipe)?;
        ensure!(
            now.0 == ready && !now.1 && now.2.contains(words),
            "{now:?}, and not {words:?}"
        );
        Ok(())
    })?;
    let (_, _, error) = state(gateway, recipe)?;
    for text in [error, gateway.log()?] {
        ensure!(!text.contains(PASSWORD), "the password is shown: {text}");
    }
    Ok(())
}

/// Starts a gateway that Redis refuses: it is live, not ready, and opens no session. `accept` makes Redis accept it, and then
/// it is ready without a restart.
fn refused_until_accepted(
    recipe: &Recipe,
    words: &str,
    accept: &[&str],
    redis: &Redis,
) -> anyhow::Result<()> {
    let mut gateway = recipe.start_without_store()?;
    says(&gateway, recipe, 503, words)?;
    ensure!(http_client::get(gateway.admin, "/livez", &[])?.status == 200);
    ensure!(http_client::initialize(gateway.mcp)?.status == 503);
    redis.command::<()>(accept)?;
    gateway.wait_until_ready()?;
    ensure!(http_client::initialize(gateway.mcp)?.status == 200);
    Ok(())
}

#[requires(redis)]
#[test]
fn gateway_with_refused_password_is_not_ready() -> anyhow::Result<()> {
    let redis = Redis::start(Some("right"))?;
    let wrong = recipe(&redis)?;
    let words = "WRONGPASS: it does not accept the password of its default user; check the password";
    let accept = ["ACL", "SETUSER", "default", ">hunter2"];
    refused_until_accepted(&wrong, words, &accept, &redis)?;

    let redis = Redis::start(Some("right"))?;
    let mut none = recipe(&redis)?;
    none.password = None;
    let words = "NOAUTH: it wants a password, and none is configured";
    refused_until_accepted(&none, words, &["ACL", "SETUSER", "default", "nopass"], &redis)?;

    let redis = Redis::start(None)?;
    let unwanted = recipe(&redis)?;
    let words = "its default user has no password, but one is configured; remove it";
    let accept = ["ACL", "SETUSER", "default", "resetpass", ">hunter2"];
    refused_until_accepted(&unwanted, words, &accept, &redis)
}

/// A Redis without the command AUTH repeats its arguments. The password is hidden in the reason and in the log.
#[requires(redis)]
#[test]
fn password_repeated_by_redis_is_hidden() -> anyhow::Result<()> {
    let redis = Redis::start_with(None, &["rename-command AUTH \"\""])?;
    let recipe = recipe(&redis)?;
    let gateway = recipe.start_without_store()?;
    says(&gateway, &recipe, 503, "unknown command 'AUTH'")
}

#[requires(redis)]
#[test]
fn gateway_with_unknown_user_is_not_ready() -> anyhow::Result<()> {
    let redis = Redis::start(None)?;
    let mut recipe = recipe(&redis)?;
    recipe.config.session_storage.username = Some("stranger".to_owned());
    let words = "it does not accept the password of the user \"stranger\", or has no such user";
    let accept = [
        "ACL", "SETUSER", "stranger", "on", ">hunter2", "~*", "&*", "+@all",
    ];
    refused_until_accepted(&recipe, words, &accept, &redis)
}

/// A certificate that one side does not accept is a wrong setting, as a wrong password is.
#[requires(redis)]
#[test]
fn gateway_with_refused_certificate_is_not_ready() -> anyhow::Result<()> {
    let (ours, others) = (Certificates::new()?, Certificates::new()?);
    let (_redis, address) = Redis::start_encrypted(&ours, "redis.test", true, &[])?;
    let identity = ours.issue("gateway")?;
    let right = RedisTls {
        ca_file: Some(ours.authority()),
        cert_file: Some(identity.cert),
        key_file: Some(identity.key),
        server_name: Some("redis.test".to_owned()),
        insecure_skip_verify: false,
    };
    let wrong_authority = RedisTls {
        ca_file: Some(others.authority()),
        ..right.clone()
    };
    let wrong_name = RedisTls {
        server_name: Some("another.test".to_owned()),
        ..right.clone()
    };
    let no_certificate = RedisTls {
        cert_file: None,
        key_file: None,
        ..right.clone()
    };
    for (tls, words) in [
        (
            wrong_authority,
            "check the trusted authorities and the server name",
        ),
        (wrong_name, "not valid for name"),
        (no_certificate, "Redis does not accept the gateway's certificate"),
    ] {
        let mut recipe = Recipe::new(&[])?;
        recipe.use_redis(address).tls = Some(tls);
        let gateway = recipe.start_without_store()?;
        says(&gateway, &recipe, 503, words)?;
        let denied = "not ready while the session store refuses this process";
        ensure!(gateway.log()?.contains(denied), "{}", gateway.log()?);
    }
    let mut recipe = Recipe::new(&[])?;
    recipe.use_redis(address).tls = Some(right);
    recipe.start().map(drop)
}

/// The number of databases cannot be changed while Redis runs.
#[requires(redis)]
#[test]
fn gateway_with_missing_database_is_not_ready() -> anyhow::Result<()> {
    let redis = Redis::start(Some(PASSWORD))?;
    let mut recipe = recipe(&redis)?;
    recipe.config.session_storage.db = 99;
    let gateway = recipe.start_without_store()?;
    says(
        &gateway,
        &recipe,
        503,
        "it has no database 99; set sessionStorage.db",
    )
}

/// A gateway names each permission that it lacks, until it has all of them. These are the documented ones.
#[requires(redis)]
#[test]
fn gateway_names_each_missing_permission() -> anyhow::Result<()> {
    let command = documented_user::command()?;
    let documented = command
        .iter()
        .filter_map(|word| word.strip_prefix('+'))
        .map(str::to_ascii_uppercase);
    let documented: BTreeSet<String> = documented.collect();
    let setting = format!("{} -@all", documented_user::setting()?);
    let redis = Redis::start_with(None, &[&setting])?;
    let mut recipe = recipe(&redis)?;
    recipe.config.session_storage.username = Some(documented_user::NAME.to_owned());
    recipe.password = Some(documented_user::PASSWORD.to_owned());

    let gateway = recipe.start_without_store()?;
    let mut named = BTreeSet::new();
    loop {
        let next = wait::until("it names another permission, or is ready", PATIENCE, || {
            let (ready, _, error) = state(&gateway, &recipe)?;
            if ready == 200 {
                return Ok(None);
            }
            let name = error.split_once("its user may not run the command ");
            let name = name.and_then(|(_, rest)| rest.split(';').next());
            let name = name.with_context(|| format!("no command in {error:?}"))?;
            ensure!(!named.contains(name), "still {error}");
            Ok(Some(name.to_owned()))
        })?;
        let Some(name) = next else { break };
        let permission = format!("+{}", name.to_ascii_lowercase());
        redis.command::<()>(&["ACL", "SETUSER", documented_user::NAME, &permission])?;
        named.insert(name);
    }
    named.extend(OPTIONAL.map(str::to_owned));
    assert_eq!(named, documented);
    Ok(())
}

/// A gateway that was ready stays ready, also when Redis refuses it later. A new one does not become ready.
#[requires(redis)]
#[test]
fn ready_gateway_stays_ready_when_redis_refuses_or_ends() -> anyhow::Result<()> {
    let user = format!("user gateway on >{PASSWORD} ~* &* +@all");
    let mut redis = Redis::start_with(None, &[&user])?;
    let mut recipe = recipe(&redis)?;
    recipe.config.session_storage.username = Some("gateway".to_owned());
    let running = recipe.start()?;
    redis.command::<()>(&["ACL", "SETUSER", "gateway", "resetpass", ">another"])?;
    redis.command::<()>(&["CLIENT", "KILL", "USER", "gateway"])?;
    says(&running, &recipe, 200, "WRONGPASS")?;
    says(&recipe.start_without_store()?, &recipe, 503, "WRONGPASS")?;
    redis.command::<()>(&["ACL", "SETUSER", "gateway", "-hset", ">hunter2"])?;
    wait::until("it is accepted again", PATIENCE, || {
        ensure!(state(&running, &recipe)?.1, "not yet");
        Ok(())
    })?;
    // A gateway without traffic notices a missing permission with the next operation that needs it.
    ensure!(http_client::initialize(running.mcp)?.status == 503);
    says(&running, &recipe, 200, "the command HSET")?;
    redis.kill()?;
    says(&running, &recipe, 200, "cannot connect to Redis")
}

/// A gateway waits for a Redis that it cannot reach. That it waits 60 s at most is tested with a clock of the test, in
/// `session/store_readiness.rs`, and on the cluster.
#[requires(redis)]
#[test]
fn gateway_waits_for_redis_that_cannot_be_reached() -> anyhow::Result<()> {
    let mut nowhere = Recipe::new(&[])?;
    nowhere.use_redis(ports::free()?).address = Some("nowhere.invalid:6379".to_owned());
    let gateway = nowhere.start_without_store()?;
    says(&gateway, &nowhere, 503, "\"nowhere.invalid\"")?;
    let (_, _, error) = state(&gateway, &nowhere)?;
    // The words depend on whether a name server answers.
    ensure!(
        error.contains("no such host as") || error.contains("the host name of Redis"),
        "{error}"
    );

    let mut redis = Redis::start(Some(PASSWORD))?;
    redis.kill()?;
    let recipe = recipe(&redis)?;
    let mut gateway = recipe.start_without_store()?;
    says(&gateway, &recipe, 503, "cannot connect to Redis")?;
    redis.start_again()?;
    gateway.wait_until_ready()
}

/// With full memory sessions in use continue, so the gateway is ready.
#[requires(redis)]
#[test]
fn gateway_is_ready_when_memory_of_redis_is_full() -> anyhow::Result<()> {
    let redis = Redis::start_with(Some(PASSWORD), &["maxmemory 1"])?;
    let recipe = recipe(&redis)?;
    let gateway = recipe.start()?;
    says(&gateway, &recipe, 200, "OOM")
}
