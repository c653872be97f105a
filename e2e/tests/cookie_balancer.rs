//! A pair of backends behind a balancer that finds the server of a session by cookies: whichever replica of the gateway goes on with the
//! session sends what any of its answers has set.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use vmcp_crds::config::{self, BackendConfig, HotConfig, SessionStorage, SessionStorageProvider};
use vmcp_e2e::fixture::Fixture;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::raw::{self, Session};
use vmcp_e2e::redis::Redis;
use vmcp_e2e::replicas::Replicas;
use vmcp_e2e::scripted_server::{Received, Reply, ScriptedServer, usual};
use vmcp_e2e::wait;

/// The headers that the balancer passes on.
const PASSED: [&str; 4] = ["accept", "content-type", "mcp-session-id", "mcp-protocol-version"];

/// Passes `request` on to `server`, and gives its answer.
fn pass_on(server: SocketAddr, request: &Received) -> anyhow::Result<Reply> {
    let headers = PASSED
        .iter()
        .filter_map(|name| Some((*name, request.header(name)?)));
    let headers: Vec<_> = headers.collect();
    let body = if request.message.is_null() {
        String::new()
    } else {
        request.message.to_string()
    };
    let answer = raw::exchange(server, &request.verb, "/mcp", &headers, body.as_bytes())?;
    let mut reply = Reply::empty(answer.status);
    for name in ["content-type", "mcp-session-id"] {
        if let Some(value) = answer.header(name) {
            reply = reply.with(name, value);
        }
    }
    reply.body = answer.body;
    Ok(reply)
}

/// A balancer in front of `servers`. Its first cookie, which comes with the first answer, says which server it is. With the first call it
/// adds another one, and from then on finds the server by both; with each further call the second one has another value.
fn balancer(servers: [SocketAddr; 2]) -> anyhow::Result<ScriptedServer> {
    let (next, calls) = (AtomicU64::new(0), AtomicU64::new(0));
    ScriptedServer::start(move |request| {
        if request.verb == "GET" {
            return Some(Reply::empty(405));
        }
        let cookies = request.header("cookie").unwrap_or_default();
        let value = |name: &str| {
            let pairs = cookies.split("; ").filter_map(|pair| pair.split_once('='));
            pairs
                .into_iter()
                .find(|(other, _)| *other == name)
                .map(|(_, value)| value.to_owned())
        };
        let server = value("server").and_then(|server| server.parse::<usize>().ok());
        let wants_second = calls.load(Ordering::Relaxed) > 0 && request.method() == "tools/call";
        let is_found = server.is_some() && (!wants_second || value("second").is_some());
        let number = server
            .filter(|_| is_found)
            .unwrap_or_else(|| usize::from(next.fetch_add(1, Ordering::Relaxed) % 2 == 1));
        let mut reply = pass_on(*servers.get(number)?, request).unwrap_or_else(|_| Reply::empty(502));
        if !is_found {
            reply = reply.with("set-cookie", &format!("server={number}; Path=/; HttpOnly"));
        }
        if request.method() == "tools/call" {
            let call = calls.fetch_add(1, Ordering::Relaxed);
            reply = reply.with("set-cookie", &format!("second={call}; Path=/; Max-Age=600"));
        }
        Some(reply)
    })
}

/// The session's state is at one of two servers. Every replica finds it, by the cookie of `initialize` and by the one that the first call set.
#[tokio::test(flavor = "multi_thread")]
async fn second_replica_goes_on_with_the_session_at_its_server() -> anyhow::Result<()> {
    let servers = [
        Fixture::start(&["--json-response", "--name", "one"])?,
        Fixture::start(&["--json-response", "--name", "two"])?,
    ];
    let balancer = balancer([servers[0].address(), servers[1].address()])?;
    let mut replicas = Replicas::start_with(2, |recipe| {
        let backend = BackendConfig {
            name: "pair".to_owned(),
            url: balancer.url.clone(),
            ..BackendConfig::default()
        };
        recipe.config.hot = Some(HotConfig {
            backends: vec![backend],
            ..HotConfig::default()
        });
    })
    .await?;
    let [one, two] = replicas.addresses()[..] else {
        anyhow::bail!("two replicas")
    };
    let session = Session::open(one)?;
    for (count, gateway) in [one, two, two, one].into_iter().enumerate() {
        let answer = session.call(gateway, "pair_counter", &json!({}))?;
        assert_eq!(answer.tool_text()?, (count + 1).to_string());
    }
    replicas.kill_all()?;
    replicas.start_all_anew()?;
    let answer = session.call(replicas.addresses()[1], "pair_counter", &json!({}))?;
    assert_eq!(answer.tool_text()?, "5");
    let initialized = servers.iter().map(|server| server.initializes("raw"));
    assert_eq!(
        initialized.sum::<anyhow::Result<u64>>()?,
        1,
        "no session was lost"
    );
    // What was set last is sent, and nothing of it stands in an answer to the client.
    let calls = balancer.received();
    let last = calls
        .iter()
        .rev()
        .find(|request| request.method() == "tools/call");
    let sent = last
        .and_then(|request| request.header("cookie"))
        .unwrap_or_default();
    assert!(sent.contains("server=") && sent.contains("second="), "{sent}");
    assert!(answer.header("set-cookie").is_none());
    Ok(())
}

/// While the store is out, answers that set cookies do not wait for it. When it is back, the cookies are stored without another call.
#[test]
fn cookies_that_are_set_in_an_outage_are_stored_afterwards() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let mut redis = Redis::start(None)?;
    let server = ScriptedServer::start(|request| match request.method() {
        "GET" => Some(Reply::empty(405)),
        "initialize" => Some(usual(request).with("mcp-session-id", "s")),
        "tools/call" => {
            let call = request.message["params"]["arguments"]["message"].as_str();
            let cookie = format!("call{}=1; Path=/", call.unwrap_or_default());
            Some(usual(request).with("set-cookie", &cookie))
        }
        _ => None,
    })?;
    let mut recipe = Recipe::new(&[("a", &server.url)])?;
    recipe.config.session_storage = SessionStorage {
        provider: SessionStorageProvider::Redis,
        address: Some(redis.address.to_string()),
        // Whoever asks waits for so long.
        command_timeout: config::Duration::from_secs(2),
        ..SessionStorage::default()
    };
    let [one, two] = [recipe.start()?, recipe.start()?];
    let session = Session::open(one.mcp)?;
    let call = |gateway: &Gateway, number: u32| -> anyhow::Result<Duration> {
        let began = Instant::now();
        let message = number.to_string();
        let answer = session.call(gateway.mcp, "a_echo", &json!({"message": message}))?;
        answer.tool_text()?;
        Ok(began.elapsed())
    };
    call(&one, 1)?;
    redis.pause()?;
    wait::until("the gateway has noticed", Duration::from_secs(20), || {
        let status = one.status(&recipe)?.session_store;
        anyhow::ensure!(!status.available, "{status:?}");
        Ok(())
    })?;
    let waited: Vec<_> = (2..=6)
        .map(|number| call(&one, number))
        .collect::<Result<_, _>>()?;
    // The first answer may have found out that the store cannot be written.
    let again: Duration = waited.iter().skip(1).sum();
    anyhow::ensure!(again < Duration::from_secs(1), "{waited:?}");
    redis.resume()?;
    wait::until("the cookies are stored", Duration::from_secs(20), || {
        let records: Vec<String> = redis.command(&["KEYS", "*:s:*"])?;
        let fields: Vec<Vec<u8>> = redis.command(&["HVALS", &records[0]])?;
        let text = String::from_utf8_lossy(&fields.concat()).into_owned();
        anyhow::ensure!(text.contains("call6"), "{text}");
        Ok(())
    })?;
    call(&two, 7)?;
    let calls = server.received();
    let last = calls
        .iter()
        .rev()
        .find(|request| request.method() == "tools/call");
    let sent = last
        .and_then(|request| request.header("cookie"))
        .unwrap_or_default();
    assert!(sent.contains("call1=1") && sent.contains("call6=1"), "{sent}");
    Ok(())
}
