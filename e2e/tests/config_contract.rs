//! The test that this product starts from: what the file says about the session store is what the gateway says to Redis.
//!
//! It exists because in the system that this one re-imagines the operator wrote these fields and the gateway never read them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use vmcp_crds::config::{
    self, RedisCluster, RedisSentinel, RedisTls, SessionStorage, SessionStorageProvider,
};
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::proxy::{Fault, Proxy};
use vmcp_e2e::raw;
use vmcp_e2e::recorder::Recorder;
use vmcp_e2e::redis::{Certificates, Cluster, MASTER_NAME, Redis, Sentinels};
use vmcp_e2e::rendered;
use vmcp_e2e::wait;

/// No test waits longer for something that has to happen.
const LIMIT: Duration = Duration::from_secs(20);

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

/// Every field of session storage and the password are found on the wire.
#[test]
fn every_session_storage_field_reaches_redis() -> anyhow::Result<()> {
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

/// Every field of session storage in a resource is found on the wire.
#[test]
fn every_resource_storage_field_reaches_redis() -> anyhow::Result<()> {
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

/// A gateway with this session storage.
fn gateway_with(storage: SessionStorage) -> anyhow::Result<(Recipe, Gateway)> {
    let mut recipe = Recipe::new(&[])?;
    recipe.config.session_storage = SessionStorage {
        provider: SessionStorageProvider::Redis,
        ..storage
    };
    let gateway = recipe.start()?;
    Ok((recipe, gateway))
}

/// Opens a session, as soon as the gateway has found its store.
fn opens(gateway: &Gateway) -> anyhow::Result<()> {
    wait::until("a session opens", LIMIT, || {
        raw::Session::open(gateway.mcp).map(drop)
    })
}

/// Waits until the gateway says that its store is unavailable, because of something with `why` in it.
fn unavailable(recipe: &Recipe, gateway: &Gateway, why: &str) -> anyhow::Result<()> {
    assert_eq!(raw::initialize(gateway.mcp)?.status, 503);
    wait::until("the reason is told", LIMIT, || {
        let status = serde_json::to_string(&gateway.status(recipe)?)?;
        anyhow::ensure!(status.contains(why), "no {why:?} in {status}");
        Ok(())
    })
}

/// When the only record in Redis was touched, and when it ends without use and at the latest, as milliseconds.
fn times_of_the_record(redis: &Redis) -> anyhow::Result<[u64; 3]> {
    let keys: Vec<String> = redis.command(&["KEYS", "*:s:*"])?;
    anyhow::ensure!(keys.len() == 1, "{keys:?}");
    let [fixed, times]: [String; 2] = redis.command(&["HMGET", &keys[0], "fixed", "times"])?;
    let word = |text: &str, place| -> anyhow::Result<u64> {
        let word = text.split(' ').nth(place).context("too few words")?;
        Ok(word.parse()?)
    };
    Ok([word(&times, 1)?, word(&times, 0)?, word(&fixed, 2)?])
}

#[test]
fn ttl_and_max_lifetime_are_in_the_record() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let redis = Redis::start(None)?;
    let (_, gateway) = gateway_with(SessionStorage {
        address: Some(redis.address.to_string()),
        ttl: config::Duration::from_secs(90),
        max_lifetime: config::Duration::from_secs(7200),
        ..SessionStorage::default()
    })?;
    opens(&gateway)?;
    // Nobody has used it since it was created.
    let [touched, idle, end] = times_of_the_record(&redis)?;
    assert_eq!((idle - touched, end - touched), (90_000, 7_200_000));
    Ok(())
}

#[test]
fn ttl_holds_for_sessions_in_memory_too() -> anyhow::Result<()> {
    let mut recipe = Recipe::new(&[])?;
    recipe.config.session_storage.ttl = config::Duration::from_millis(300);
    let gateway = recipe.start()?;
    let session = raw::Session::open(gateway.mcp)?;
    wait::until("the session ends", LIMIT, || {
        // A call would be use of it; a second between two of them is not.
        std::thread::sleep(Duration::from_secs(1));
        let status = session
            .request(gateway.mcp, "ping", &serde_json::json!({}))?
            .status;
        anyhow::ensure!(status == 404, "{status}");
        Ok(())
    })
}

#[test]
fn a_password_file_is_read_and_a_new_password_in_it_is_used() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let redis = Redis::start_with(None, &["user gateway on >the-first-one ~* &* +@all"])?;
    let recorder = Recorder::start(redis.address)?;
    let directory = tempfile::TempDir::new()?;
    let file = directory.path().join("password");
    std::fs::write(&file, "the-first-one\n")?;
    let (recipe, gateway) = gateway_with(SessionStorage {
        address: Some(recorder.address.to_string()),
        username: Some("gateway".to_owned()),
        password_file: Some(file.clone()),
        ..SessionStorage::default()
    })?;
    opens(&gateway)?;
    redis.command::<()>(&["ACL", "SETUSER", "gateway", ">the-second-one"])?;
    std::fs::write(&file, "the-second-one\n")?;
    wait::until("the new password is used", LIMIT, || {
        anyhow::ensure!(recorder.said().contains("the-second-one"), "not yet");
        Ok(())
    })?;
    // The old password is worth nothing any more, also not for the connections of before.
    redis.command::<()>(&["ACL", "SETUSER", "gateway", "<the-first-one"])?;
    redis.command::<()>(&["CLIENT", "KILL", "USER", "gateway"])?;
    opens(&gateway)?;
    let told = gateway.log()? + &serde_json::to_string(&gateway.status(&recipe)?)?;
    assert!(
        !told.contains("the-first-one") && !told.contains("the-second-one"),
        "a password is told"
    );
    Ok(())
}

#[test]
fn tls_shows_and_wants_the_certificates_that_are_named() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let (ours, others) = (Certificates::new()?, Certificates::new()?);
    let (_redis, address) = Redis::start_encrypted(&ours, "redis.test", true, &[])?;
    let identity = ours.issue("gateway")?;
    let right = RedisTls {
        ca_file: Some(ours.authority()),
        cert_file: Some(identity.cert.clone()),
        key_file: Some(identity.key.clone()),
        server_name: Some("redis.test".to_owned()),
        insecure_skip_verify: false,
    };
    let with = |tls: RedisTls| {
        gateway_with(SessionStorage {
            address: Some(address.to_string()),
            tls: Some(tls),
            ..SessionStorage::default()
        })
    };
    opens(&with(right.clone())?.1)?;
    let refused = [
        (
            "caFile",
            RedisTls {
                ca_file: Some(others.authority()),
                ..right.clone()
            },
            "invalid peer certificate",
        ),
        (
            "serverName",
            RedisTls {
                server_name: None,
                ..right.clone()
            },
            "not valid for name",
        ),
        (
            "certFile and keyFile",
            RedisTls {
                cert_file: None,
                key_file: None,
                ..right
            },
            "Redis",
        ),
    ];
    for (field, tls, why) in refused {
        println!("{field}");
        let (recipe, gateway) = with(tls)?;
        unavailable(&recipe, &gateway, why)?;
    }
    let believing = RedisTls {
        cert_file: Some(identity.cert),
        key_file: Some(identity.key),
        insecure_skip_verify: true,
        ..RedisTls::default()
    };
    opens(&with(believing)?.1)
}

#[tokio::test]
async fn the_timeouts_say_how_slow_redis_may_be() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let redis = Redis::start(Some("secret"))?;
    let proxy = Proxy::start(redis.address).await?;
    let late = Duration::from_millis(700);
    proxy.set(Fault {
        late,
        ..Fault::default()
    });
    let (short, long) = (
        config::Duration::from_millis(300),
        config::Duration::from_secs(20),
    );
    // Authentication is a part of connecting, and has its one answer.
    let cases = [
        (long, long, None),
        (short, long, Some("within 300 ms")),
        (long, short, Some("within 300 ms")),
    ];
    for (connect_timeout, command_timeout, why) in cases {
        let address = Some(proxy.address.to_string());
        let try_it = move || {
            let mut recipe = Recipe::new(&[])?;
            recipe.config.session_storage = SessionStorage {
                provider: SessionStorageProvider::Redis,
                address,
                connect_timeout,
                command_timeout,
                ..SessionStorage::default()
            };
            recipe.password = Some("secret".to_owned());
            let gateway = recipe.start()?;
            match why {
                None => opens(&gateway),
                Some(why) => unavailable(&recipe, &gateway, why),
            }
        };
        tokio::task::spawn_blocking(try_it).await??;
    }
    Ok(())
}

#[test]
fn sentinels_name_the_server_that_gets_the_sessions() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let sentinels = Sentinels::start()?;
    let (_, gateway) = gateway_with(SessionStorage {
        sentinel: Some(RedisSentinel {
            master_name: MASTER_NAME.to_owned(),
            addresses: sentinels.addresses.iter().map(ToString::to_string).collect(),
        }),
        ..SessionStorage::default()
    })?;
    opens(&gateway)?;
    times_of_the_record(&sentinels.servers[sentinels.primary()?])?;
    // Another name means nothing to them.
    let (recipe, gateway) = gateway_with(SessionStorage {
        sentinel: Some(RedisSentinel {
            master_name: "another".to_owned(),
            addresses: sentinels.addresses.iter().map(ToString::to_string).collect(),
        }),
        ..SessionStorage::default()
    })?;
    unavailable(&recipe, &gateway, "another")
}

#[test]
fn a_cluster_has_the_sessions_at_the_node_of_their_slot() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let cluster = Cluster::start()?;
    let owner = cluster.owner(0, "{vmcp:default/vmcp}")?;
    // Whichever node is named leads there.
    let gateways = cluster.nodes.iter().map(|node| {
        gateway_with(SessionStorage {
            cluster: Some(RedisCluster {
                addresses: vec![node.address.to_string()],
            }),
            ..SessionStorage::default()
        })
    });
    for gateway in gateways {
        opens(&gateway?.1)?;
    }
    let keys: Vec<String> = cluster.nodes[owner].command(&["KEYS", "*:s:*"])?;
    assert_eq!(keys.len(), 3, "{keys:?}");
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
