//! The configuration of the session store takes effect: every field is found in what the gateway sends to Redis.
//!
//! In an earlier system the operator wrote these fields and the gateway never read them. This test prevents that.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use vmcp_crds::config::{
    self, RedisCluster, RedisSentinel, RedisTls, SessionStorage, SessionStorageProvider,
};
use vmcp_crds::v1alpha1::MCPServerEntry;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::http_client;
use vmcp_e2e::proxy::{Fault, Proxy};
use vmcp_e2e::recorder::Recorder;
use vmcp_e2e::redis::{Certificates, Cluster, MASTER_NAME, Redis, Sentinels};
use vmcp_e2e::rendered;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;
use vmcp_external::requires;
use vmcp_operator::desired::Backend;

/// No test waits longer for something that has to happen.
const LIMIT: Duration = Duration::from_secs(20);

/// A Redis on which only the configured user works, and only on keys with the configured prefix.
fn redis_of_acme() -> anyhow::Result<(Redis, Recorder)> {
    let user = "user acme-gateway on >s3cret-of-acme ~{acme:* &* +@all";
    let redis = Redis::start_with(None, &["user default on nopass ~* &* +@all", user])?;
    let recorder = Recorder::start(redis.address)?;
    redis.command::<()>(&["ACL", "SETUSER", "default", "resetpass"])?;
    Ok((redis, recorder))
}

/// What a gateway of `tools/everything` sends to the recorded Redis when it opens a session.
fn check_what_is_said(recorder: &Recorder) -> anyhow::Result<()> {
    // The recorder is at `address`, so the address was used. RESP writes the length before each word.
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
    // And Redis stored the session.
    let clients = redis_as_user(recorder, "CLIENT", &["LIST"])?;
    assert!(
        clients.contains("user=acme-gateway") && clients.contains("db=7"),
        "{clients}"
    );
    Ok(())
}

/// Every field of session storage and the password are found on the wire.
#[requires(redis)]
#[test]
fn every_session_storage_field_reaches_redis() -> anyhow::Result<()> {
    let (_redis, recorder) = redis_of_acme()?;
    let mut recipe = Recipe::new(&[])?;
    recipe.config.namespace = "tools".to_owned();
    recipe.config.name = "everything".to_owned();
    let storage = recipe.use_redis(recorder.address);
    storage.db = 7;
    storage.key_prefix = "acme:".to_owned();
    storage.username = Some("acme-gateway".to_owned());
    // The fields that do not concern the connection are tested in session_cache.rs and store_outage.rs.
    recipe.password = Some("s3cret-of-acme".to_owned());
    let gateway = recipe.start()?;
    http_client::Session::open(gateway.mcp)?;
    check_what_is_said(&recorder)?;
    // The password is not in the resource's output.
    assert!(
        !gateway.log()?.contains("s3cret-of-acme"),
        "the password is in the log"
    );
    assert!(!serde_json::to_string(&gateway.status(&recipe)?)?.contains("s3cret-of-acme"));
    Ok(())
}

/// Every field of session storage in a resource is found on the wire.
#[requires(redis)]
#[test]
fn every_resource_storage_field_reaches_redis() -> anyhow::Result<()> {
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
    // The line break is no part of the password.
    let password = BTreeMap::from([("password".to_owned(), "s3cret-of-acme\n".to_owned())]);
    let secrets = BTreeMap::from([("acme".to_owned(), password)]);
    let mut gateway = rendered::start(&serde_json::from_value(resource)?, &[], secrets)?;
    gateway.wait_until_ready()?;
    http_client::Session::open(gateway.mcp)?;
    check_what_is_said(&recorder)
}

/// With the provider `memory` the gateway does not connect to Redis.
#[test]
fn provider_memory_says_nothing_to_redis() -> anyhow::Result<()> {
    let recipe = Recipe::new(&[])?;
    let gateway = recipe.start()?;
    http_client::Session::open(gateway.mcp)?;
    assert_eq!(gateway.status(&recipe)?.session_store.provider, "memory");
    Ok(())
}

/// With a wrong password sessions are unavailable, and never reported as gone.
#[requires(redis)]
#[test]
fn wrong_password_is_unavailable_and_not_gone() -> anyhow::Result<()> {
    let redis = Redis::start(Some("right"))?;
    let mut recipe = Recipe::new(&[])?;
    recipe.use_redis(redis.address);
    recipe.password = Some("wrong-password".to_owned());
    let gateway = recipe.start_without_store()?;
    let answer = http_client::initialize(gateway.mcp)?;
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
    let recipe = recipe_with(storage)?;
    let gateway = recipe.start()?;
    Ok((recipe, gateway))
}

fn recipe_with(storage: SessionStorage) -> anyhow::Result<Recipe> {
    let mut recipe = Recipe::new(&[])?;
    recipe.config.session_storage = SessionStorage {
        provider: SessionStorageProvider::Redis,
        ..storage
    };
    Ok(recipe)
}

/// Opens a session once the store is available.
fn opens(gateway: &Gateway) -> anyhow::Result<()> {
    wait::until("a session opens", LIMIT, || {
        http_client::Session::open(gateway.mcp).map(drop)
    })
}

/// Waits until the gateway reports its store as unavailable with a reason that contains `why`.
fn unavailable(recipe: &Recipe, gateway: &Gateway, why: &str) -> anyhow::Result<()> {
    assert_eq!(http_client::initialize(gateway.mcp)?.status, 503);
    wait::until("the reason is told", LIMIT, || {
        let status = serde_json::to_string(&gateway.status(recipe)?)?;
        anyhow::ensure!(status.contains(why), "no {why:?} in {status}");
        Ok(())
    })
}

/// The times of the only record in Redis, in milliseconds: last touch, idle deadline, and end.
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

/// The record in Redis has the configured `ttl` and `maxLifetime`.
#[requires(redis)]
#[test]
fn record_contains_ttl_and_max_lifetime() -> anyhow::Result<()> {
    let redis = Redis::start(None)?;
    let (_, gateway) = gateway_with(SessionStorage {
        address: Some(redis.address.to_string()),
        ttl: config::Duration::from_secs(90),
        max_lifetime: config::Duration::from_secs(7200),
        ..SessionStorage::default()
    })?;
    opens(&gateway)?;
    // It was not used since it was created.
    let [touched, idle, end] = times_of_the_record(&redis)?;
    assert_eq!((idle - touched, end - touched), (90_000, 7_200_000));
    Ok(())
}

#[test]
fn ttl_holds_for_sessions_in_memory_too() -> anyhow::Result<()> {
    let mut recipe = Recipe::new(&[])?;
    recipe.config.session_storage.ttl = config::Duration::from_millis(300);
    let gateway = recipe.start()?;
    let session = http_client::Session::open(gateway.mcp)?;
    wait::until("the session ends", LIMIT, || {
        // A call would touch the record, unless the last touch was less than a second ago.
        std::thread::sleep(Duration::from_secs(1));
        let status = session
            .request(gateway.mcp, "ping", &serde_json::json!({}))?
            .status;
        anyhow::ensure!(status == 404, "{status}");
        Ok(())
    })
}

/// A password file is read, and a new password in it is used without a restart.
#[requires(redis)]
#[test]
fn changed_password_file_is_read_again() -> anyhow::Result<()> {
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
    // The old password is invalid now, also for existing connections.
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

/// The gateway presents the configured certificate to Redis, and verifies that of Redis.
#[requires(redis)]
#[test]
fn redis_tls_uses_configured_certificates() -> anyhow::Result<()> {
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
        recipe_with(SessionStorage {
            address: Some(address.to_string()),
            tls: Some(tls),
            ..SessionStorage::default()
        })
    };
    opens(&with(right.clone())?.start()?)?;
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
        let recipe = with(tls)?;
        unavailable(&recipe, &recipe.start_without_store()?, why)?;
    }
    let believing = RedisTls {
        cert_file: Some(identity.cert),
        key_file: Some(identity.key),
        insecure_skip_verify: true,
        ..RedisTls::default()
    };
    opens(&with(believing)?.start()?)
}

/// The certificates that a resource refers to are presented to Redis, and verify that of Redis.
#[requires(redis)]
#[test]
fn redis_tls_of_resource_uses_referenced_secrets() -> anyhow::Result<()> {
    let certificates = Certificates::new()?;
    let (_redis, address) = Redis::start_encrypted(&certificates, "redis.test", true, &[])?;
    let identity = certificates.issue("gateway")?;
    let read = |file: &Path| std::fs::read_to_string(file);
    let resource = json!({
        "apiVersion": "vmcp.dev/v1alpha1",
        "kind": "VirtualMCPServer",
        "metadata": {"name": "everything", "namespace": "tools", "uid": "1"},
        "spec": {
            "groupRef": {"name": "tools"},
            "sessionStorage": {
                "provider": "redis",
                "address": address.to_string(),
                "tls": {
                    "serverName": "redis.test",
                    "caBundleRef": {"configMapKeyRef": {"name": "authorities", "key": "ca.pem"}},
                    "clientCertificateRef": {"name": "gateway"},
                },
            },
        },
    });
    let authorities = [("ca.pem".to_owned(), read(&certificates.authority())?)].into();
    let pair = [
        ("tls.crt".to_owned(), read(&identity.cert)?),
        ("tls.key".to_owned(), read(&identity.key)?),
    ];
    let secrets = [
        ("authorities".to_owned(), authorities),
        ("gateway".to_owned(), pair.into()),
    ];
    let mut gateway = rendered::start(&serde_json::from_value(resource)?, &[], secrets.into())?;
    gateway.wait_until_ready()?;
    opens(&gateway)
}

/// The headers that an entry sets, or takes from a Secret, reach the backend.
#[test]
fn headers_of_entry_reach_backend() -> anyhow::Result<()> {
    let test_server = TestServer::start(&[])?;
    let resource = json!({
        "apiVersion": "vmcp.dev/v1alpha1",
        "kind": "VirtualMCPServer",
        "metadata": {"name": "everything", "namespace": "tools", "uid": "1"},
        "spec": {"groupRef": {"name": "tools"}},
    });
    let entry: MCPServerEntry = serde_json::from_value(json!({
        "apiVersion": "vmcp.dev/v1alpha1",
        "kind": "MCPServerEntry",
        "metadata": {"name": "fixture"},
        "spec": {
            "groupRef": {"name": "tools"},
            "url": test_server.url,
            "headers": {
                "X-Region": {"value": "eu-west-1"},
                "Authorization": {"prefix": "Bearer ", "secretKeyRef": {"name": "fixture", "key": "token"}},
            },
        },
    }))?;
    let token = [("token".to_owned(), "s3cret-of-the-secret\n".to_owned())].into();
    let backends = [Backend::new(&entry, &config::Timeouts::default())];
    let secrets = [("fixture".to_owned(), token)].into();
    let mut gateway = rendered::start(&serde_json::from_value(resource)?, &backends, secrets)?;
    gateway.wait_until_ready()?;
    let session = http_client::Session::open(gateway.mcp)?;
    let text = session
        .call(gateway.mcp, "fixture_whoami", &json!({}))?
        .tool_text()?;
    let headers: Value = serde_json::from_str(&text)?;
    let headers = &headers["headers"];
    assert_eq!(headers["x-region"], "eu-west-1", "{headers}");
    assert_eq!(
        headers["authorization"], "Bearer s3cret-of-the-secret",
        "{headers}"
    );
    assert!(!gateway.log()?.contains("s3cret"));
    Ok(())
}

/// The connect and command timeouts limit how slow Redis may be.
#[requires(redis)]
#[tokio::test]
async fn redis_timeouts_are_applied() -> anyhow::Result<()> {
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
    // Authentication is part of connecting, and has one timeout with it.
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
            match why {
                None => opens(&recipe.start()?),
                Some(why) => unavailable(&recipe, &recipe.start_without_store()?, why),
            }
        };
        tokio::task::spawn_blocking(try_it).await??;
    }
    Ok(())
}

#[requires(redis)]
#[test]
fn sentinel_master_gets_the_sessions() -> anyhow::Result<()> {
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
    // The sentinels do not know another name.
    let recipe = recipe_with(SessionStorage {
        sentinel: Some(RedisSentinel {
            master_name: "another".to_owned(),
            addresses: sentinels.addresses.iter().map(ToString::to_string).collect(),
        }),
        ..SessionStorage::default()
    })?;
    unavailable(&recipe, &recipe.start_without_store()?, "another")
}

#[requires(redis)]
#[test]
fn cluster_node_of_slot_gets_the_sessions() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    let owner = cluster.owner(0, "{vmcp:default/vmcp}")?;
    // Every node of the cluster leads there.
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
