//! A hostile backend: it does not affect other backends, their clients and the probes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::http_client::{self, Session};
use vmcp_e2e::stream::Stream;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;
use vmcp_external::process::Signal;

/// How long the gateway may take to notice a change of the backend. Other tests may be running.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long an independent response may take: far more than it needs, and far less than the hostile backend's responses take.
const PROMPT: Duration = Duration::from_secs(3);

/// A server that answers every request with what a function says, as JSON.
struct Hostile {
    url: String,
    /// How often its tools were listed.
    looks: Arc<AtomicUsize>,
}

impl Hostile {
    /// `result` gives the result for a method and its parameters; `None` is an empty one.
    fn start(
        result: impl Fn(&str, &Value, usize) -> Option<String> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}/mcp", listener.local_addr()?);
        let (looks, result) = (Arc::new(AtomicUsize::new(0)), Arc::new(result));
        let counted = Arc::clone(&looks);
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (result, looks) = (Arc::clone(&result), Arc::clone(&counted));
                std::thread::spawn(move || serve(connection, &*result, &looks).ok());
            }
        });
        Ok(Self { url, looks })
    }
}

fn serve(
    mut connection: TcpStream,
    result: &(dyn Fn(&str, &Value, usize) -> Option<String> + Send + Sync),
    looks: &AtomicUsize,
) -> anyhow::Result<()> {
    let mut reader = BufReader::new(connection.try_clone()?);
    let mut length = 0;
    let mut is_post = false;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        is_post |= line.starts_with("POST");
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    let method = request["method"].as_str().unwrap_or_default();
    let head = |status: &str, length: usize| {
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    if !is_post {
        connection.write_all(head("405 Method Not Allowed", 0).as_bytes())?;
        return Ok(());
    }
    if request["id"].is_null() {
        connection.write_all(head("202 Accepted", 0).as_bytes())?;
        return Ok(());
    }
    let is_first_page = method == "tools/list" && request["params"]["cursor"].is_null();
    let look = looks.fetch_add(usize::from(is_first_page), Ordering::SeqCst);
    let result = result(method, &request["params"], look).unwrap_or_else(|| "{}".to_owned());
    let answer = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, request["id"]);
    connection.write_all(head("200 OK", answer.len()).as_bytes())?;
    connection.write_all(answer.as_bytes())?;
    Ok(())
}

fn initialize_result() -> Option<String> {
    let result = json!({
        "protocolVersion": "2025-11-25",
        "capabilities": {"tools": {"listChanged": true}, "resources": {}},
        "serverInfo": {"name": "hostile", "version": "1"},
    });
    Some(result.to_string())
}

/// The gateway, with a backend that behaves, and with the hostile one. All that the hostile one lists fits into the budget of bytes, so that
/// the bounds of single items are seen.
fn gateway(good: &TestServer, hostile: &Hostile) -> anyhow::Result<(Recipe, Gateway)> {
    let mut recipe = Recipe::new(&[("good", &good.url), ("hostile", &hostile.url)])?;
    let hot = recipe.config.hot.as_mut().context("no hot configuration")?;
    hot.limits.buffered_bytes = Some(512 << 20);
    let gateway = recipe.start()?;
    Ok((recipe, gateway))
}

/// Checks that calls, probes and scrapes are answered at once while `lasting` is true.
fn everybody_else_is_served(gateway: &Gateway, session: &Session, lasting: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + lasting;
    while Instant::now() < end {
        let began = Instant::now();
        let call = session.call(gateway.mcp, "good_echo", &json!({"message": "hello"}))?;
        assert!(call.tool_text()?.contains("hello"));
        for path in ["/livez", "/metrics"] {
            assert_eq!(http_client::get(gateway.admin, path, &[])?.status, 200, "{path}");
        }
        assert!(began.elapsed() < PROMPT, "{:?}", began.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn faults((recipe, gateway): &(Recipe, Gateway)) -> anyhow::Result<String> {
    Ok(gateway.status(recipe)?.faults.join("\n"))
}

fn faults_say(gateway: &(Recipe, Gateway), expected: &[&str]) -> anyhow::Result<()> {
    wait::until("the faults of the backend", PATIENCE, || {
        let faults = faults(gateway)?;
        for expected in expected {
            anyhow::ensure!(faults.contains(expected), "no {expected:?} in {faults}");
        }
        Ok(())
    })
}

/// Items with 60,000 keys, items of 30 MB and templates of many parts are omitted or bounded, each with a fault that names it, and delay no
/// other backend. A read of another backend's URI of 2 KB is answered. The process ends on SIGTERM.
#[test]
fn hostile_lists_cost_other_backends_nothing() -> anyhow::Result<()> {
    let good = TestServer::start(&[])?;
    let hostile = Hostile::start(|method, params, _| match method {
        "initialize" => initialize_result(),
        "tools/list" if params["cursor"].is_null() => {
            let keys: Vec<_> = (0..60_000).map(|number| format!(r#""k{number}":0"#)).collect();
            let keys = keys.join(",");
            let small_keys: Vec<_> = (0..5_000).map(|number| format!(r#""k{number}":0"#)).collect();
            let tools: Vec<_> = (0..10)
                .map(|number| format!(r#"{{"name":"keys_{number}",{keys}}}"#))
                .chain([format!(r#"{{"name":"fewer_keys",{}}}"#, small_keys.join(","))])
                .collect();
            Some(format!(
                r#"{{"tools":[{}],"nextCursor":"more"}}"#,
                tools.join(",")
            ))
        }
        "tools/list" => {
            let description = "x".repeat(30 << 20);
            Some(format!(
                r#"{{"tools":[{{"name":"huge","description":"{description}"}},{{"name":"small"}}]}}"#
            ))
        }
        "resources/templates/list" => {
            let templates: Vec<_> = (0..2_000)
                .map(|number| {
                    format!(
                        r#"{{"name":"t","uriTemplate":"fixture://{}y{number}"}}"#,
                        "{a}x".repeat(16 - number % 2)
                    )
                })
                .chain([format!(
                    r#"{{"name":"t","uriTemplate":"{}"}}"#,
                    "{+a}x".repeat(1_000)
                )])
                .collect();
            Some(format!(r#"{{"resourceTemplates":[{}]}}"#, templates.join(",")))
        }
        "resources/list" => Some(r#"{"resources":[]}"#.to_owned()),
        _ => None,
    })?;
    let mut running = gateway(&good, &hostile)?;
    let session = Session::open(running.1.mcp)?;
    everybody_else_is_served(&running.1, &session, Duration::from_secs(3))?;
    faults_say(
        &running,
        &[
            r#"the tool "keys_0" of backend hostile is not offered: it has"#,
            r#"the tool "fewer_keys" of backend hostile is not offered: what the backend says of it cannot be read: more than 4096 keys"#,
            r#"the tool "huge" of backend hostile is not offered: it has 31457"#,
            "resource templates of backend hostile are listed, but not used to find resources: the most are 1000",
        ],
    )?;
    let names = session.names(running.1.mcp, "tools/list")?;
    assert!(names.contains(&"hostile_small".to_owned()), "{names:?}");
    assert!(!names.contains(&"hostile_huge".to_owned()), "{names:?}");

    let began = Instant::now();
    for uri in [
        format!("fixture://{}", "x".repeat(2_000)),
        "fixture://x/".repeat(170),
    ] {
        let read = json!({"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {"uri": uri}});
        session.post(running.1.mcp, &read)?;
    }
    assert!(began.elapsed() < PROMPT, "{:?}", began.elapsed());
    everybody_else_is_served(&running.1, &session, Duration::from_secs(1))?;

    running.1.signal(Signal::TERM)?;
    assert!(running.1.wait_until_ended(Duration::from_secs(20))?);
    Ok(())
}

/// A backend that changes 20,000 tools at each discovery, and sends `list_changed` all the time, is listed ever less often, and clients get few
/// notifications.
#[test]
fn ever_changing_backend_uses_few_resources() -> anyhow::Result<()> {
    let good = TestServer::start(&[])?;
    let hostile = Hostile::start(|method, _, look| match method {
        "initialize" => initialize_result(),
        "tools/list" => {
            let tools: Vec<_> = (0..20_000)
                .map(|number| format!(r#"{{"name":"t{number}","description":"{look}"}}"#))
                .collect();
            Some(format!(r#"{{"tools":[{}]}}"#, tools.join(",")))
        }
        _ => Some(r#"{"resources":[],"resourceTemplates":[]}"#.to_owned()),
    })?;
    let mut recipe = Recipe::new(&[("good", &good.url), ("hostile", &hostile.url)])?;
    recipe.hot().aggregation.refresh = vmcp_crds::config::Duration::from_millis(1_000);
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    let mut stream = Stream::get(gateway.mcp, &session, None)?;
    let told = Arc::new(AtomicUsize::new(0));
    let heard = Arc::clone(&told);
    std::thread::spawn(move || {
        while stream.message().is_ok() {
            heard.fetch_add(1, Ordering::SeqCst);
        }
    });
    let window = Duration::from_secs(10);
    let (before, cpu) = (hostile.looks.load(Ordering::SeqCst), gateway.processor_time()?);
    everybody_else_is_served(&gateway, &session, window)?;
    let took = gateway.processor_time()?.saturating_sub(cpu);
    let looks = hostile.looks.load(Ordering::SeqCst) - before;
    // With a discovery per second it would be far more than half, in a build without optimisations.
    assert!(took < window / 2, "{took:?} for {looks} looks");
    let told = told.load(Ordering::SeqCst);
    assert!(told <= 6, "{told} notifications");
    Ok(())
}

/// Texts of a backend are truncated in errors and log lines.
#[test]
fn revision_of_three_megabytes_is_cut_where_it_is_shown() -> anyhow::Result<()> {
    let hostile = Hostile::start(|method, _, _| {
        (method == "initialize").then(|| {
            let revision = "9".repeat(3 << 20);
            format!(r#"{{"protocolVersion":"{revision}","capabilities":{{}},"serverInfo":{{"name":"a","version":"1"}}}}"#)
        })
    })?;
    let recipe = Recipe::new(&[("hostile", &hostile.url)])?;
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    let error = wait::until("the fault of the backend", PATIENCE, || {
        let status = gateway.status(&recipe)?;
        let Some(error) = status.backends[0].error.clone() else {
            anyhow::bail!("no error");
        };
        Ok(error)
    })?;
    assert!(error.contains("9999") && error.len() < 1_000, "{}", error.len());
    let answer = session.call(gateway.mcp, "hostile_x", &json!({}))?;
    assert!(answer.body.len() < 4_000, "{}", answer.body.len());
    let longest = gateway.log()?.lines().map(str::len).max().unwrap_or_default();
    assert!(longest < 16 * 1024, "{longest}");
    Ok(())
}
