//! The catalog with a scripted backend: which requests discovery sends, and how often.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use vmcp_gateway::backend::HttpClient;
use vmcp_gateway::catalog::CatalogSnapshot;
use vmcp_gateway::config::{BackendName, HotSettings};
use vmcp_gateway::core::{CallError, CallSubject, Core};
use vmcp_gateway::mcp::jsonrpc::Message;
use vmcp_gateway::runtime::readiness::Readiness;
use vmcp_gateway::runtime::tasks::Tasks;
use vmcp_gateway::telemetry::Metrics;

/// Longer than the pause between two discoveries that streams cause.
const LIMIT: Duration = Duration::from_secs(20);

/// A scripted backend.
#[derive(Clone)]
struct Backend {
    requests: Arc<Mutex<Vec<(String, Value)>>>,
    answer: Arc<Mutex<Answer>>,
    stream: Option<Arc<Stream>>,
    streams: Arc<AtomicUsize>,
    with_session: bool,
    /// Further settings of the backend in the configuration.
    settings: &'static str,
}

/// The result or error of a method, given its parameters.
type Answer = Box<dyn FnMut(&str, &Value) -> Value + Send>;
/// The content of a whole stream, given the number of streams that were opened before it.
type Stream = dyn Fn(usize) -> BoxFuture<'static, &'static str> + Send + Sync;

impl Backend {
    fn new(answer: impl FnMut(&str, &Value) -> Value + Send + 'static) -> Self {
        Self {
            requests: Arc::default(),
            answer: Arc::new(Mutex::new(Box::new(answer))),
            stream: None,
            streams: Arc::default(),
            with_session: true,
            settings: "",
        }
    }

    /// Starts a core with this backend, named `a`. Also returns the tasks of both.
    async fn start_core(&self) -> anyhow::Result<(Core, Tasks)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let tasks = Tasks::default();
        tasks.spawn_until_drain(self.clone().serve(listener, tasks.clone()));
        let directory = std::env::temp_dir().join(format!("vmcp-catalog-{}", address.port()));
        let text = format!(
            "backends: [{{name: a, url: 'http://{address}/mcp'{}}}]",
            self.settings
        );
        std::fs::write(&directory, text)?;
        let hot = HotSettings::load(&directory)?;
        std::fs::remove_file(&directory)?;
        let core = Core::new(
            hot,
            HttpClient::new(tasks.clone()),
            tasks.clone(),
            &Readiness::default(),
            Metrics::new(),
        );
        Ok((core, tasks))
    }

    async fn serve(self, listener: TcpListener, tasks: Tasks) {
        while let Ok((stream, _)) = listener.accept().await {
            let backend = self.clone();
            let service = service_fn(move |request| {
                let backend = backend.clone();
                async move { backend.respond(request).await }
            });
            tasks.spawn_until_drain(async move {
                let connection = hyper::server::conn::http1::Builder::new();
                connection
                    .serve_connection(TokioIo::new(stream), service)
                    .await
                    .ok();
            });
        }
    }

    async fn respond(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        if request.method() == http::Method::GET {
            return Ok(self.open_stream().await);
        }
        let body = request.into_body().collect().await?.to_bytes();
        let message: Value = serde_json::from_slice(&body).unwrap_or_default();
        let method = message["method"].as_str().unwrap_or_default();
        let params = message["params"].clone();
        self.requests
            .lock()
            .unwrap()
            .push((method.to_owned(), params.clone()));
        let Some(id) = message.get("id") else {
            return Ok(Response::builder().status(202).body(Full::default()).unwrap());
        };
        let mut answer = (self.answer.lock().unwrap())(method, &params);
        answer["jsonrpc"] = json!("2.0");
        answer["id"] = id.clone();
        let mut response = Response::new(Full::from(answer.to_string()));
        let headers = response.headers_mut();
        headers.insert("content-type", "application/json".parse().unwrap());
        if self.with_session {
            headers.insert("mcp-session-id", "s".parse().unwrap());
        }
        Ok(response)
    }

    async fn open_stream(&self) -> Response<Full<Bytes>> {
        let Some(stream) = &self.stream else {
            return Response::builder().status(405).body(Full::default()).unwrap();
        };
        let before = self.streams.fetch_add(1, Ordering::Relaxed);
        let content = stream(before).await;
        let response = Response::builder().header("content-type", "text/event-stream");
        response.body(Full::from(content)).unwrap()
    }

    /// The methods of the received messages in their order.
    fn methods(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        requests.iter().map(|(method, _)| method.clone()).collect()
    }
}

fn initialize_result(capabilities: &Value) -> Value {
    json!({"result": {
        "protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": {"name": "t", "version": "1"},
    }})
}

fn tools(names: &[&str]) -> Value {
    let tools: Vec<_> = names.iter().map(|name| json!({"name": name})).collect();
    json!({"result": {"tools": tools}})
}

/// Waits until the catalog's snapshot meets `condition`.
async fn until(core: &Core, condition: impl Fn(&CatalogSnapshot) -> bool) -> anyhow::Result<()> {
    let mut changes = core.catalog().changes();
    let waiting = async {
        while !condition(&core.catalog().snapshot()) {
            changes.changed().await?;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(LIMIT, waiting).await?
}

fn name(core: &Core) -> BackendName {
    core.catalog().states()[0].0.clone()
}

#[tokio::test]
async fn only_declared_lists_are_requested() -> anyhow::Result<()> {
    let backend = Backend::new(|method, _| match method {
        "initialize" => initialize_result(&json!({"tools": {}})),
        _ => tools(&["x"]),
    });
    let (core, tasks) = backend.start_core().await?;
    until(&core, |snapshot| snapshot.tools.len() == 1).await?;
    tasks.finish().await;
    let expected = ["initialize", "notifications/initialized", "tools/list"];
    assert_eq!(backend.methods(), expected);
    Ok(())
}

#[tokio::test]
async fn completion_needs_the_declared_capability() -> anyhow::Result<()> {
    let backend = Backend::new(|method, _| match method {
        "initialize" => initialize_result(&json!({"tools": {}, "prompts": {}})),
        "tools/list" => tools(&["x"]),
        _ => json!({"result": {"prompts": [{"name": "p"}]}}),
    });
    let (core, tasks) = backend.start_core().await?;
    until(&core, |snapshot| snapshot.prompts.len() == 1).await?;
    assert!(!core.catalog().capabilities(&name(&core)).unwrap().completions);
    let body = Bytes::from_static(
        br#"{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"a_p"}}}"#,
    );
    let Ok(Message::Request(request)) = Message::parse(&body) else {
        panic!("not a request")
    };
    let error = core
        .route(
            &core.catalog().snapshot(),
            CallSubject::Completion,
            &body,
            &request,
        )
        .unwrap_err();
    assert!(matches!(error, CallError::NoCompletion(_)), "{error}");
    tasks.finish().await;
    Ok(())
}

#[tokio::test]
async fn declared_list_without_a_method_is_empty() -> anyhow::Result<()> {
    let backend = Backend::new(|method, _| match method {
        "initialize" => initialize_result(&json!({"tools": {}, "resources": {}})),
        "tools/list" => tools(&["x"]),
        "resources/list" => json!({"result": {"resources": [{"uri": "x://y", "name": "y"}]}}),
        _ => json!({"error": {"code": -32601, "message": "what?"}}),
    });
    let (core, tasks) = backend.start_core().await?;
    until(&core, |snapshot| snapshot.resources.len() == 1).await?;
    let snapshot = core.catalog().snapshot();
    assert!(snapshot.templates.is_empty() && snapshot.faults.count() == 0);
    tasks.finish().await;
    Ok(())
}

/// Many notifications of a change cause one discovery.
#[tokio::test]
async fn repeated_change_notifications_cause_one_discovery() -> anyhow::Result<()> {
    let mut lists = VecDeque::from([tools(&["x"]), tools(&["x", "y"])]);
    let backend = Backend::new(move |method, _| match method {
        "initialize" => initialize_result(&json!({"tools": {}})),
        _ if lists.len() > 1 => lists.pop_front().unwrap(),
        _ => lists[0].clone(),
    });
    let (core, tasks) = backend.start_core().await?;
    until(&core, |snapshot| snapshot.tools.len() == 1).await?;
    let changes = core.catalog().changes();
    let before = *changes.borrow();
    for _ in 0..100 {
        core.catalog().refresh(&name(&core));
    }
    until(&core, |snapshot| snapshot.tools.len() == 2).await?;
    let notifications = changes.borrow().notifications_since(&before);
    assert_eq!(notifications, ["notifications/tools/list_changed"]);
    tasks.finish().await;
    let discoveries = backend
        .methods()
        .iter()
        .filter(|method| *method == "tools/list")
        .count();
    assert!(discoveries <= 3, "{discoveries} discoveries");
    let handshakes = backend
        .methods()
        .iter()
        .filter(|method| *method == "initialize")
        .count();
    assert_eq!(handshakes, 1, "the upstream session is reused");
    Ok(())
}

const CHANGED: &str = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n\n";

/// A backend with frequent probes, which it counts in `probes`, and a second tool once it `has_changed`.
fn changing(has_changed: Arc<AtomicBool>, probes: watch::Sender<u32>) -> Backend {
    let mut backend = Backend::new(move |method, _| match method {
        "initialize" => initialize_result(&json!({"tools": {}})),
        "ping" => {
            probes.send_modify(|probes| *probes += 1);
            json!({"result": {}})
        }
        _ if has_changed.load(Ordering::Relaxed) => tools(&["x", "y"]),
        _ => tools(&["x"]),
    });
    backend.settings = ", health: {interval: 100ms}";
    backend
}

/// Probes do not keep the gateway from opening an ended stream again.
#[tokio::test]
async fn ended_stream_is_reopened_between_probes() -> anyhow::Result<()> {
    let has_changed = Arc::new(AtomicBool::new(false));
    let mut backend = changing(Arc::clone(&has_changed), watch::Sender::default());
    backend.stream = Some(Arc::new(move |before| {
        has_changed.store(before > 0, Ordering::Relaxed);
        let content = if before == 0 {
            "retry: 500\ndata:\n\n"
        } else {
            CHANGED
        };
        async move { content }.boxed()
    }));
    let (core, tasks) = backend.start_core().await?;
    until(&core, |snapshot| snapshot.tools.len() == 2).await?;
    tasks.finish().await;
    Ok(())
}

#[tokio::test]
async fn stream_may_open_slower_than_the_probe_interval() -> anyhow::Result<()> {
    let has_changed = Arc::new(AtomicBool::new(false));
    let (probed, probes) = watch::channel(0);
    let mut backend = changing(Arc::clone(&has_changed), probed);
    backend.stream = Some(Arc::new(move |_| {
        let (mut probes, has_changed) = (probes.clone(), Arc::clone(&has_changed));
        let before = *probes.borrow();
        async move {
            probes.wait_for(|probes| *probes >= before + 3).await.ok();
            has_changed.store(true, Ordering::Relaxed);
            CHANGED
        }
        .boxed()
    }));
    let (core, tasks) = backend.start_core().await?;
    until(&core, |snapshot| snapshot.tools.len() == 2).await?;
    tasks.finish().await;
    Ok(())
}

/// A change may have been missed between two streams, so a reopened stream causes a discovery even without an event.
#[tokio::test]
async fn reopened_stream_causes_a_discovery() -> anyhow::Result<()> {
    let opened = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&opened);
    let mut backend = Backend::new(move |method, _| match method {
        "initialize" => initialize_result(&json!({"tools": {}})),
        _ => tools(&["x", "y", "z"][..seen.load(Ordering::Relaxed).clamp(1, 3)]),
    });
    backend.stream = Some(Arc::new(move |before| {
        opened.store(before + 1, Ordering::Relaxed);
        async { "" }.boxed()
    }));
    let (core, tasks) = backend.start_core().await?;
    until(&core, |snapshot| snapshot.tools.len() >= 2).await?;
    // The next stream follows this discovery too soon for another one, which is made later.
    until(&core, |snapshot| snapshot.tools.len() == 3).await?;
    tasks.finish().await;
    Ok(())
}

#[tokio::test]
async fn new_backend_is_discovered_once() -> anyhow::Result<()> {
    let (probed, mut probes) = watch::channel(0);
    let backend = changing(Arc::default(), probed);
    let (core, tasks) = backend.start_core().await?;
    let probed = tokio::time::timeout(LIMIT, probes.wait_for(|probes| *probes >= 3));
    assert!(probed.await.is_ok_and(|probed| probed.is_ok()));
    tasks.finish().await;
    drop(core);
    let methods = backend.methods();
    let discoveries = methods.iter().filter(|method| *method == "tools/list").count();
    assert_eq!(discoveries, 1);
    Ok(())
}

/// Discovery follows the backend's cursors, and stops when a cursor repeats.
#[tokio::test]
async fn pages_are_followed_until_a_cursor_repeats() -> anyhow::Result<()> {
    let backend = Backend::new(|method, params| {
        let page =
            |name: &str, next: &str| json!({"result": {"tools": [{"name": name}], "nextCursor": next}});
        match (method, params["cursor"].as_str()) {
            ("initialize", _) => initialize_result(&json!({"tools": {}})),
            // An empty cursor is a cursor.
            (_, None) => page("a", ""),
            (_, Some("")) => page("b", "ü\"2"),
            (_, Some("ü\"2")) => page("c", "ü\"2"),
            (_, Some(other)) => json!({"error": {"code": -32602, "message": other}}),
        }
    });
    let (core, tasks) = backend.start_core().await?;
    until(&core, |snapshot| snapshot.tools.len() == 3).await?;
    tasks.finish().await;
    Ok(())
}

/// A backend may end its list with an empty cursor. Discovery then lists no item twice.
#[tokio::test]
async fn empty_last_cursor_does_not_duplicate_items() -> anyhow::Result<()> {
    let backend = Backend::new(|method, params| match (method, params["cursor"].as_str()) {
        ("initialize", _) => initialize_result(&json!({"tools": {}})),
        (_, None | Some("")) => json!({"result": {"tools": [{"name": "x"}], "nextCursor": "2"}}),
        _ => json!({"result": {"tools": [{"name": "y"}], "nextCursor": ""}}),
    });
    let (core, tasks) = backend.start_core().await?;
    until(&core, |snapshot| snapshot.tools.len() == 2).await?;
    assert_eq!(core.catalog().snapshot().faults.count(), 0);
    tasks.finish().await;
    Ok(())
}

#[tokio::test]
async fn unknown_fields_beside_a_list_are_ignored() -> anyhow::Result<()> {
    let backend = Backend::new(|method, _| match method {
        "initialize" => initialize_result(&json!({"tools": {}})),
        _ => json!({"result": {"tools": [{"name": "x"}], "resources": "none"}}),
    });
    let (core, tasks) = backend.start_core().await?;
    until(&core, |snapshot| snapshot.tools.len() == 1).await?;
    tasks.finish().await;
    Ok(())
}

#[tokio::test]
async fn items_without_a_name_are_skipped() -> anyhow::Result<()> {
    let backend = Backend::new(|method, _| match method {
        "initialize" => initialize_result(&json!({"tools": {}})),
        _ => json!({"result": {"tools": [{"title": "?"}, {"name": 5}, ["x"], {"name": ""}, {"name": "x"}]}}),
    });
    let (core, tasks) = backend.start_core().await?;
    until(&core, |snapshot| snapshot.tools.len() == 1).await?;
    let faults = core.catalog().snapshot().faults.to_lines();
    assert_eq!(
        faults,
        [
            "backend a lists 4 tools that cannot be called by anything: each needs a `name`, once and with no other key that differs from it in case only, that is a text of 1 to 8192 bytes"
        ]
    );
    tasks.finish().await;
    Ok(())
}

#[tokio::test]
async fn backend_without_sessions_is_initialized_each_time() -> anyhow::Result<()> {
    let mut handshakes = 0;
    let mut backend = Backend::new(move |method, _| {
        if method == "initialize" {
            handshakes += 1;
            return initialize_result(&json!({"tools": {}}));
        }
        tools(&["x", "y", "z"][..handshakes.min(3)])
    });
    backend.with_session = false;
    let (core, tasks) = backend.start_core().await?;
    until(&core, |snapshot| snapshot.tools.len() == 1).await?;
    core.catalog().refresh(&name(&core));
    until(&core, |snapshot| snapshot.tools.len() == 2).await?;
    tasks.finish().await;
    Ok(())
}
