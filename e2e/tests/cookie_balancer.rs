//! A pair of backends behind a balancer with cookie affinity: every replica of the gateway sends the cookies that any response of the upstream
//! session has set.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use vmcp_crds::config;
use vmcp_e2e::gateway::Gateway;
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::{self, Session};
use vmcp_e2e::redis::Redis;
use vmcp_e2e::scripted_server::{Received, Reply, ScriptedServer, usual};
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;
use vmcp_external::requires;

/// The headers that the balancer passes on.
const PASSED: [&str; 4] = ["accept", "content-type", "mcp-session-id", "mcp-protocol-version"];

/// Forwards `request` to `server`, and returns its response.
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
    let answer = http_client::exchange(server, &request.verb, "/mcp", &headers, body.as_bytes())?;
    let mut reply = Reply::empty(answer.status);
    for name in ["content-type", "mcp-session-id"] {
        if let Some(value) = answer.header(name) {
            reply = reply.with(name, value);
        }
    }
    reply.body = answer.body;
    Ok(reply)
}

/// A balancer in front of `servers`. Its first cookie, set by the first response, names the server. The first call sets a second cookie, and
/// from then on the balancer requires both. Each further call changes the second cookie.
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

/// The session's state is on one of two servers. Every replica reaches that server with the cookies of `initialize` and of the first call.
#[requires(redis)]
#[test]
fn second_replica_keeps_cookie_affinity() -> anyhow::Result<()> {
    let servers = [
        TestServer::start(&["--json-response", "--name", "one"])?,
        TestServer::start(&["--json-response", "--name", "two"])?,
    ];
    let balancer = balancer([servers[0].address(), servers[1].address()])?;
    let builder = Harness::builder().backend("pair", &balancer.url);
    let mut harness = builder.redis(Redis::start(None)?).replicas(2).start()?;
    let [one, two] = harness.all()?.each_ref().map(|gateway| gateway.mcp);
    let session = Session::open(one)?;
    for (count, gateway) in [one, two, two, one].into_iter().enumerate() {
        let answer = session.call(gateway, "pair_counter", &json!({}))?;
        assert_eq!(answer.tool_text()?, (count + 1).to_string());
    }
    harness.kill_gateways()?;
    harness.replace_gateways()?;
    let answer = session.call(harness.addresses()[1], "pair_counter", &json!({}))?;
    assert_eq!(answer.tool_text()?, "5");
    let initialized = servers.iter().map(|server| server.initializes("http-client"));
    assert_eq!(
        initialized.sum::<anyhow::Result<u64>>()?,
        1,
        "no session was lost"
    );
    // The newest cookie is sent to the backend, and no cookie to the client.
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

/// During an outage of the store, calls whose responses set cookies do not wait for it. After the outage the cookies are stored without a call.
#[requires(redis)]
#[test]
fn cookies_set_in_outage_are_stored_afterwards() -> anyhow::Result<()> {
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
    let builder = Harness::builder().backend("a", &server.url);
    let mut harness = builder
        .redis(Redis::start(None)?)
        // The time that a call waits for the store.
        .configure(|recipe| {
            recipe.config.session_storage.command_timeout = config::Duration::from_secs(2);
        })
        .replicas(2)
        .start()?;
    let [one, two] = harness.take_gateways()?;
    let session = Session::open(one.mcp)?;
    let call = |gateway: &Gateway, number: u32| -> anyhow::Result<Duration> {
        let began = Instant::now();
        let message = number.to_string();
        let answer = session.call(gateway.mcp, "a_echo", &json!({"message": message}))?;
        answer.tool_text()?;
        Ok(began.elapsed())
    };
    call(&one, 1)?;
    harness.redis.pause()?;
    wait::until("the gateway has noticed", Duration::from_secs(20), || {
        let status = one.status(&harness.recipe)?.session_store;
        anyhow::ensure!(!status.available, "{status:?}");
        Ok(())
    })?;
    let waited: Vec<_> = (2..=6)
        .map(|number| call(&one, number))
        .collect::<Result<_, _>>()?;
    // The first response may have waited for the store once.
    let again: Duration = waited.iter().skip(1).sum();
    anyhow::ensure!(again < Duration::from_secs(1), "{waited:?}");
    harness.redis.resume()?;
    wait::until("the cookies are stored", Duration::from_secs(20), || {
        let records: Vec<String> = harness.redis.command(&["KEYS", "*:s:*"])?;
        let fields: Vec<Vec<u8>> = harness.redis.command(&["HVALS", &records[0]])?;
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
