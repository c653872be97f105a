//! Every metric changes with the event that it counts, and the documentation names each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use vmcp_crds::config::{
    BreakerConfig, ConcurrencyConfig, ConflictStrategy, Duration as ConfigDuration, HotConfig, NameRule,
};
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::http_client::{self, Session};
use vmcp_e2e::mount::Mount;
use vmcp_e2e::redis::Redis;
use vmcp_e2e::stream::Stream;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;
use vmcp_external::process::Signal;
use vmcp_gateway::telemetry::metrics::ENTRIES;

/// Metrics that need a token issuer. `incoming_auth/` tests them.
const OF_ISSUERS: [&str; 2] = ["vmcp_authentications_total", "vmcp_token_issuer_fetches_total"];
/// Metrics that `store_outage.rs`, `store_loss.rs` and `slow_readers.rs` test.
const ELSEWHERE: [&str; 3] = [
    "vmcp_sessions_recovered_total",
    "vmcp_sessions_served_without_store_total",
    "vmcp_unread_answers_closed_total",
];

const PATIENCE: Duration = Duration::from_secs(20);

/// Reads the metrics of a gateway, and remembers their values.
struct MetricReader {
    gateway: Gateway,
    seen: BTreeMap<String, BTreeSet<String>>,
}

impl MetricReader {
    fn new(gateway: Gateway) -> Self {
        Self {
            gateway,
            seen: BTreeMap::new(),
        }
    }

    /// Waits until the metric has this value.
    fn is(&mut self, name: &str, labels: &str, value: f64) -> anyhow::Result<()> {
        wait::until(name, PATIENCE, || {
            let found = self.gateway.metric(name, labels)?;
            anyhow::ensure!(
                (found - value).abs() < 0.5,
                "{name}{{{labels}}} is {found}, not {value}"
            );
            Ok(())
        })?;
        let series = format!("{name} {labels}");
        self.seen.entry(series).or_default().insert(value.to_string());
        Ok(())
    }

    /// Does something, and waits until the metric has grown by one.
    fn counts<T>(
        &mut self,
        name: &str,
        labels: &str,
        act: impl FnOnce(&Gateway) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let before = self.gateway.metric(name, labels)?;
        self.is(name, labels, before)?;
        let done = act(&self.gateway)?;
        self.is(name, labels, before + 1.0)?;
        Ok(done)
    }

    /// Waits until the metric has a value that fits.
    fn fits(&mut self, name: &str, labels: &str, fits: impl Fn(f64) -> bool) -> anyhow::Result<()> {
        let found = wait::until(name, PATIENCE, || {
            let found = self.gateway.metric(name, labels)?;
            anyhow::ensure!(fits(found), "{name}{{{labels}}} is {found}");
            Ok(found)
        })?;
        let series = format!("{name} {labels}");
        self.seen.entry(series).or_default().insert(found.to_string());
        Ok(())
    }

    /// The names of those that were seen at two values.
    fn moved(&self) -> BTreeSet<String> {
        let moved = self.seen.iter().filter(|(_, values)| values.len() > 1);
        moved
            .map(|(series, _)| series.split(' ').next().unwrap_or_default().to_owned())
            .collect()
    }
}

fn echo(gateway: &Gateway, session: &Session, backend: &str) -> anyhow::Result<http_client::Answer> {
    session.call(gateway.mcp, &format!("{backend}_echo"), &json!({"message": "hi"}))
}

/// Sends a call, and does not wait for its answer.
fn begin(gateway: &Gateway, session: &Session, tool: &str, arguments: &Value) -> anyhow::Result<TcpStream> {
    let params = json!({"name": tool, "arguments": arguments});
    let body = json!({"jsonrpc": "2.0", "id": "begun", "method": "tools/call", "params": params}).to_string();
    let mut stream = TcpStream::connect(gateway.mcp)?;
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\naccept: application/json, \
         text/event-stream\r\nmcp-session-id: {}\r\ncontent-length: {}\r\n\r\n",
        gateway.mcp,
        session.id,
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes())?;
    Ok(stream)
}

/// Sends a body of so many bytes but for the last.
fn half_a_body(gateway: &Gateway, session: &Session, bytes: usize) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(gateway.mcp)?;
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\naccept: application/json, \
         text/event-stream\r\nmcp-session-id: {}\r\ncontent-length: {}\r\n\r\n",
        gateway.mcp,
        session.id,
        bytes + 1
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&vec![b' '; bytes])?;
    Ok(stream)
}

fn write(hot: &HotConfig) -> anyhow::Result<String> {
    Ok(serde_yaml::to_string(hot)?)
}

/// Every metric changes with its event, and the documentation names every metric.
#[test]
fn every_metric_changes_with_its_event() -> anyhow::Result<()> {
    let (a, b) = (TestServer::start(&[])?, TestServer::start(&["--json-response"])?);
    let mut recipe = Recipe::new(&[("a", &a.url), ("b", &b.url)])?;
    let mut hot = recipe.config.hot.take().unwrap();
    hot.backends[0].breaker = BreakerConfig {
        failures: 2,
        open_for: ConfigDuration::from_secs(3600),
    };
    hot.backends[1].concurrency = ConcurrencyConfig {
        limit: 1,
        queue: 0,
        wait: ConfigDuration::from_millis(1),
    };
    hot.backends[1].breaker.failures = 0;
    (hot.limits.request_bytes, hot.limits.request_bytes_in_flight) = (2_000_000, Some(2_000_000));
    let mount = Mount::new(&write(&hot)?)?;
    recipe.config.hot_file = Some(mount.file());
    recipe.config.drain_delay = ConfigDuration::from_secs(5);
    let mut redis = (!vmcp_external::is_unavailable("redis"))
        .then(|| Redis::start(None))
        .transpose()?;
    if let Some(redis) = &redis {
        recipe.use_redis(redis.address);
    }
    let mut metrics = MetricReader::new(recipe.start()?);

    // Each connection of a client has a task.
    let tasks = metrics.gateway.metric("vmcp_tasks", "")?;
    metrics.is("vmcp_tasks", "", tasks)?;
    let connection = TcpStream::connect(metrics.gateway.mcp)?;
    metrics.is("vmcp_tasks", "", tasks + 1.0)?;
    drop(connection);

    // A client comes, calls, listens, and goes.
    metrics.is("vmcp_ready", "", 1.0)?;
    metrics.is("vmcp_build_info", "version=", 1.0)?;
    let created = "method=\"initialize\",status=\"200\",outcome=\"ok\"";
    metrics.is("vmcp_sessions_created_total", "", 0.0)?;
    let session = metrics.counts("vmcp_requests_total", created, |gateway| {
        Session::open(gateway.mcp)
    })?;
    metrics.is("vmcp_sessions_created_total", "", 1.0)?;

    // A body whose last byte does not come is buffered, and leaves no room for another.
    let buffered = metrics.gateway.metric("vmcp_buffered_bytes", "")?;
    metrics.is("vmcp_buffered_bytes", "", buffered)?;
    let slow = half_a_body(&metrics.gateway, &session, 1_500_000)?;
    metrics.fits("vmcp_buffered_bytes", "", |now| now >= buffered + 1_500_000.0)?;
    metrics.counts("vmcp_buffer_refusals_total", "", |gateway| {
        let large =
            json!({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"x": "x".repeat(700_000)}});
        session.post(gateway.mcp, &large)
    })?;
    drop(slow);
    metrics.is("vmcp_buffered_bytes", "", buffered)?;

    metrics.counts(
        "vmcp_request_duration_seconds_count",
        "method=\"tools/list\"",
        |gateway| session.names(gateway.mcp, "tools/list"),
    )?;
    for backend in ["a", "b"] {
        let answered = format!("backend=\"{backend}\",outcome=\"answered\"");
        metrics.counts("vmcp_backend_requests_total", &answered, |gateway| {
            echo(gateway, &session, backend)?.tool_text()
        })?;
    }
    metrics.counts(
        "vmcp_backend_request_duration_seconds_count",
        "backend=\"a\"",
        |gateway| echo(gateway, &session, "a")?.tool_text(),
    )?;
    let quiet = |metrics: &mut MetricReader| -> anyhow::Result<()> {
        metrics.is("vmcp_requests_in_flight", "", 0.0)?;
        metrics.is("vmcp_backend_requests_in_flight", "backend=\"a\"", 0.0)?;
        metrics.is("vmcp_sessions{", "state=\"calling\"", 0.0)?;
        metrics.is("vmcp_sessions{", "state=\"listening\"", 0.0)?;
        metrics.is("vmcp_sessions{", "state=\"idle\"", 1.0)?;
        metrics.is("vmcp_sessions{", "state=\"provisional\"", 0.0)?;
        metrics.is("vmcp_streams_open", "kind=\"call\"", 0.0)?;
        metrics.is("vmcp_streams_open", "kind=\"session\"", 0.0)
    };
    quiet(&mut metrics)?;
    let own = Stream::get(metrics.gateway.mcp, &session, None)?;
    let running = begin(&metrics.gateway, &session, "a_sleep", &json!({"ms": 600_000}))?;
    metrics.is("vmcp_requests_in_flight", "", 1.0)?;
    metrics.is("vmcp_backend_requests_in_flight", "backend=\"a\"", 1.0)?;
    metrics.is("vmcp_sessions{", "state=\"calling\"", 1.0)?;
    metrics.is("vmcp_sessions{", "state=\"listening\"", 1.0)?;
    metrics.is("vmcp_sessions{", "state=\"idle\"", 0.0)?;
    metrics.is("vmcp_streams_open", "kind=\"call\"", 1.0)?;
    metrics.is("vmcp_streams_open", "kind=\"session\"", 1.0)?;
    let gone = "method=\"tools/call\",status=\"200\",outcome=\"gone\"";
    metrics.counts("vmcp_requests_total", gone, |_| {
        drop(running);
        Ok(())
    })?;
    own.abandon()?;
    quiet(&mut metrics)?;

    // Concurrent calls have a connection each, which is closed when it is no longer needed.
    let of_a = "backend=\"a\"";
    metrics.fits("vmcp_backend_connections", of_a, |open| {
        (1.0..4.0).contains(&open)
    })?;
    let callers = [(); 4].map(|()| Session::open(metrics.gateway.mcp));
    let callers: Vec<_> = callers.into_iter().collect::<anyhow::Result<_>>()?;
    let calls = callers
        .iter()
        .map(|caller| begin(&metrics.gateway, caller, "a_sleep", &json!({"ms": 600_000})));
    let calls: Vec<_> = calls.collect::<anyhow::Result<_>>()?;
    metrics.fits("vmcp_backend_connections", of_a, |open| open >= 4.0)?;
    drop(calls);
    metrics.fits("vmcp_backend_connections", of_a, |open| open < 4.0)?;
    for caller in callers {
        caller.delete(metrics.gateway.mcp)?;
    }
    quiet(&mut metrics)?;
    let rejected = "status=\"400\",outcome=\"rejected\"";
    metrics.counts("vmcp_requests_total", rejected, |gateway| {
        http_client::post(gateway.mcp, &[], &json!([]))
    })?;

    // A backend loses its session, gives no answer, a large one, and one that breaks off.
    let fault = |test_server: &TestServer, fault: Value| {
        let mut rule = fault;
        rule["only_method"] = json!("tools/call");
        test_server.set_faults(&rule)
    };
    b.admin("POST", "/sessions/forget", &json!({}))?;
    let handshakes = metrics
        .gateway
        .metric("vmcp_upstream_handshakes_total", "backend=\"b\"")?;
    metrics.is("vmcp_upstream_handshakes_total", "backend=\"b\"", handshakes)?;
    metrics.counts("vmcp_upstream_repairs_total", "backend=\"b\"", |gateway| {
        echo(gateway, &session, "b")?.tool_text()
    })?;
    wait::until("another handshake", PATIENCE, || {
        let now = metrics
            .gateway
            .metric("vmcp_upstream_handshakes_total", "backend=\"b\"")?;
        anyhow::ensure!(now > handshakes, "not yet");
        Ok(())
    })?;
    let handshakes = metrics
        .gateway
        .metric("vmcp_upstream_handshakes_total", "backend=\"b\"")?;
    metrics.is("vmcp_upstream_handshakes_total", "backend=\"b\"", handshakes)?;
    fault(&b, json!({"wrong_content_type": true}))?;
    let invalid = "backend=\"b\",outcome=\"invalid\"";
    metrics.counts("vmcp_backend_requests_total", invalid, |gateway| {
        echo(gateway, &session, "b")
    })?;
    b.clear_faults()?;
    let big = json!({"bytes": 1_000_000});
    metrics.counts("vmcp_answers_unchecked_total", "backend=\"b\"", |gateway| {
        session.call(gateway.mcp, "b_big", &big)?.tool_text()
    })?;
    fault(&b, json!({"truncate": true}))?;
    metrics.counts("vmcp_answers_aborted_total", "", |gateway| {
        assert!(
            session.call(gateway.mcp, "b_big", &big).is_err(),
            "a part is passed off as the whole"
        );
        Ok(())
    })?;

    // One has no place for a second call, and one is not asked any more.
    fault(&b, json!({"hang": true}))?;
    let hanging = begin(&metrics.gateway, &session, "b_echo", &json!({"message": "hi"}))?;
    metrics.is("vmcp_backend_requests_in_flight", "backend=\"b\"", 1.0)?;
    let overloaded = "backend=\"b\",outcome=\"overloaded\"";
    metrics.counts("vmcp_backend_requests_total", overloaded, |gateway| {
        let refused = echo(gateway, &session, "b")?;
        assert_eq!(refused.status, 503);
        Ok(())
    })?;
    let abandoned = "backend=\"b\",outcome=\"abandoned\"";
    metrics.counts("vmcp_backend_requests_total", abandoned, |_| {
        drop(hanging);
        Ok(())
    })?;
    b.clear_faults()?;
    let closed = "backend=\"a\",state=\"closed\"";
    let open = "backend=\"a\",state=\"open\"";
    metrics.is("vmcp_backend_breaker_state", closed, 1.0)?;
    metrics.is("vmcp_backend_breaker_state", open, 0.0)?;
    metrics.is("vmcp_backend_health", "backend=\"a\",state=\"healthy\"", 1.0)?;
    metrics.is("vmcp_backend_breaker_opened_total", "backend=\"a\"", 0.0)?;
    fault(&a, json!({"status": 500}))?;
    let failed = "method=\"tools/call\",status=\"200\",outcome=\"failed\"";
    let unreachable = "backend=\"a\",outcome=\"unreachable\"";
    metrics.counts("vmcp_backend_requests_total", unreachable, |gateway| {
        echo(gateway, &session, "a")
    })?;
    metrics.counts("vmcp_requests_total", failed, |gateway| {
        echo(gateway, &session, "a")
    })?;
    metrics.is("vmcp_backend_breaker_state", closed, 0.0)?;
    metrics.is("vmcp_backend_breaker_state", open, 1.0)?;
    metrics.is("vmcp_backend_breaker_opened_total", "backend=\"a\"", 1.0)?;
    metrics.is("vmcp_backend_health", "backend=\"a\",state=\"healthy\"", 0.0)?;
    metrics.is("vmcp_backend_health", "backend=\"a\",state=\"degraded\"", 1.0)?;
    let blocked = "backend=\"a\",outcome=\"blocked\"";
    metrics.counts("vmcp_backend_requests_total", blocked, |gateway| {
        echo(gateway, &session, "a")
    })?;
    a.clear_faults()?;

    // The store is unavailable for a while.
    metrics.is("vmcp_session_store_up", "", 1.0)?;
    let without_store = if let Some(redis) = &mut redis {
        let before = metrics
            .gateway
            .metric("vmcp_session_store_unavailable_total", "")?;
        metrics.is("vmcp_session_store_unavailable_total", "", before)?;
        redis.pause()?;
        metrics.is("vmcp_session_store_up", "", 0.0)?;
        let unavailable = "method=\"initialize\",status=\"503\",outcome=\"unavailable\"";
        metrics.counts("vmcp_requests_total", unavailable, |gateway| {
            http_client::initialize(gateway.mcp)
        })?;
        let after = metrics
            .gateway
            .metric("vmcp_session_store_unavailable_total", "")?;
        assert!(after > before, "{after}");
        metrics.is("vmcp_session_store_unavailable_total", "", after)?;
        redis.resume()?;
        metrics.is("vmcp_session_store_up", "", 1.0)?;
        BTreeSet::new()
    } else {
        BTreeSet::from(["vmcp_session_store_up", "vmcp_session_store_unavailable_total"])
    };
    metrics.counts("vmcp_sessions_terminated_total", "", |gateway| {
        session.delete(gateway.mcp)
    })?;

    // The configuration changes: a name of two backends is a conflict, and an unknown name a warning.
    for kind in ["tools", "prompts", "resources", "templates"] {
        let items = metrics
            .gateway
            .metric("vmcp_catalog_items", &format!("kind=\"{kind}\""))?;
        assert!(items > 0.0, "{kind}");
    }
    let tools = metrics.gateway.metric("vmcp_catalog_items", "kind=\"tools\"")?;
    metrics.is("vmcp_catalog_items", "kind=\"tools\"", tools)?;
    metrics.is("vmcp_catalog_warnings", "", 0.0)?;
    let conflicts = metrics.gateway.metric("vmcp_catalog_conflicts", "")?;
    metrics.is("vmcp_catalog_conflicts", "", conflicts)?;
    metrics.is("vmcp_catalog_faults", "", 0.0)?;
    hot.backends[0].prefix = Some("x".repeat(120));
    hot.aggregation.names = NameRule::Strict;
    mount.put(&write(&hot)?)?;
    let faults = wait::until("names that are too long are faults", PATIENCE, || {
        let faults = metrics.gateway.metric("vmcp_catalog_faults", "")?;
        anyhow::ensure!(faults > 0.0, "there are none");
        Ok(faults)
    })?;
    metrics.is("vmcp_catalog_faults", "", faults)?;
    hot.backends[0].prefix = None;
    hot.aggregation.names = NameRule::Lenient;
    mount.put(&write(&hot)?)?;
    metrics.is("vmcp_catalog_faults", "", 0.0)?;
    metrics.is("vmcp_catalog_items", "kind=\"tools\"", tools)?;
    hot.aggregation.strategy = ConflictStrategy::Priority;
    hot.aggregation.priority = vec!["b".to_owned(), "nobody".to_owned()];
    metrics.counts("vmcp_config_reloads_total", "outcome=\"accepted\"", |_| {
        mount.put(&write(&hot)?)
    })?;
    metrics.is("vmcp_catalog_items", "kind=\"tools\"", tools / 2.0)?;
    let more = metrics.gateway.metric("vmcp_catalog_conflicts", "")?;
    assert!(more > conflicts, "{more}");
    metrics.is("vmcp_catalog_conflicts", "", more)?;
    metrics.is("vmcp_catalog_warnings", "", 1.0)?;
    metrics.counts("vmcp_config_reloads_total", "outcome=\"refused\"", |_| {
        mount.put("backends: {}")
    })?;
    // The series of a removed backend are gone.
    hot.backends.remove(0);
    mount.put(&write(&hot)?)?;
    wait::until("the series are gone", PATIENCE, || {
        let page = http_client::get(metrics.gateway.admin, "/metrics", &[])?.text();
        let left: Vec<_> = page
            .lines()
            .filter(|line| line.contains("backend=\"a\""))
            .collect();
        anyhow::ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;

    // The scraped metrics are the documented ones.
    let page = http_client::get(metrics.gateway.admin, "/metrics", &[])?.text();
    let told: BTreeSet<(String, &str)> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| {
            (
                if kind == "counter" {
                    format!("{name}_total")
                } else {
                    name.to_owned()
                },
                kind,
            )
        })
        .collect();
    let documented: BTreeSet<(String, &str)> = ENTRIES
        .iter()
        .filter(|entry| !OF_ISSUERS.contains(&&*entry.query_name()))
        .map(|entry| (entry.query_name(), entry.kind()))
        .collect();
    assert_eq!(told, documented);
    metrics.gateway.signal(Signal::TERM)?;
    metrics.is("vmcp_ready", "", 0.0)?;
    let moved = metrics.moved();
    let still: Vec<_> = documented
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(|name| {
            *name != "vmcp_build_info" && !without_store.contains(name) && !ELSEWHERE.contains(name)
        })
        .filter(|name| {
            !moved
                .iter()
                .any(|moved| moved.trim_end_matches('{').trim_end_matches("_count") == *name)
        })
        .collect();
    assert!(still.is_empty(), "nothing moved {still:?}");
    Ok(())
}
