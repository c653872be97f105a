//! The catalogue against a backend of which every answer is chosen by the test: what it is asked, and how often.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

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

/// Longer than the pause between two looks for which streams are the reason.
const LIMIT: Duration = Duration::from_secs(20);

/// A backend that answers as the test says.
#[derive(Clone)]
struct Backend {
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    answer: Arc<Mutex<Answer>>,
    stream: Option<Arc<Stream>>,
    streams: Arc<AtomicUsize>,
    with_session: bool,
    /// Of its configuration.
    settings: &'static str,
}

/// The result or error of a method, given its parameters.
type Answer = Box<dyn FnMut(&str, &Value) -> Value + Send>;
/// What a stream says until it ends, given how many were opened before it.
type Stream = dyn Fn(usize) -> BoxFuture<'static, &'static str> + Send + Sync;

impl Backend {
    fn new(answer: impl FnMut(&str, &Value) -> Value + Send + 'static) -> Self {
        Self {
            asked: Arc::default(),
            answer: Arc::new(Mutex::new(Box::new(answer))),
            stream: None,
            streams: Arc::default(),
            with_session: true,
            settings: "",
        }
    }

    /// A core with this backend, named `a`, and the tasks that it runs.
    async fn behind_a_core(&self) -> anyhow::Result<(Core, Tasks)> {
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
            return Ok(self.listened_to().await);
        }
        let body = request.into_body().collect().await?.to_bytes();
        let message: Value = serde_json::from_slice(&body).unwrap_or_default();
        let method = message["method"].as_str().unwrap_or_default();
        let params = message["params"].clone();
        self.asked
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

    async fn listened_to(&self) -> Response<Full<Bytes>> {
        let Some(stream) = &self.stream else {
            return Response::builder().status(405).body(Full::default()).unwrap();
        };
        let before = self.streams.fetch_add(1, Ordering::Relaxed);
        let said = stream(before).await;
        let response = Response::builder().header("content-type", "text/event-stream");
        response.body(Full::from(said)).unwrap()
    }

    /// The methods that it was asked for, in their order.
    fn methods(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        asked.iter().map(|(method, _)| method.clone()).collect()
    }
}

fn hello(capabilities: &Value) -> Value {
    json!({"result": {
        "protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": {"name": "t", "version": "1"},
    }})
}

fn tools(names: &[&str]) -> Value {
    let tools: Vec<_> = names.iter().map(|name| json!({"name": name})).collect();
    json!({"result": {"tools": tools}})
}

/// Waits until `question` says yes of the catalogue, which tells when it has changed.
async fn until(core: &Core, question: impl Fn(&CatalogSnapshot) -> bool) -> anyhow::Result<()> {
    let mut changes = core.catalog().changes();
    let waiting = async {
        while !question(&core.catalog().snapshot()) {
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
async fn a_backend_is_asked_only_for_the_lists_that_it_declares() -> anyhow::Result<()> {
    let backend = Backend::new(|method, _| match method {
        "initialize" => hello(&json!({"tools": {}})),
        _ => tools(&["x"]),
    });
    let (core, tasks) = backend.behind_a_core().await?;
    until(&core, |snapshot| snapshot.tools.len() == 1).await?;
    tasks.finish().await;
    let expected = ["initialize", "notifications/initialized", "tools/list"];
    assert_eq!(backend.methods(), expected);
    Ok(())
}

#[tokio::test]
async fn a_backend_that_completes_nothing_is_not_asked_to() -> anyhow::Result<()> {
    let backend = Backend::new(|method, _| match method {
        "initialize" => hello(&json!({"tools": {}, "prompts": {}})),
        "tools/list" => tools(&["x"]),
        _ => json!({"result": {"prompts": [{"name": "p"}]}}),
    });
    let (core, tasks) = backend.behind_a_core().await?;
    until(&core, |snapshot| snapshot.prompts.len() == 1).await?;
    assert!(!core.catalog().capabilities(&name(&core)).unwrap().completions);
    let body = Bytes::from_static(
        br#"{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"a_p"}}}"#,
    );
    let Ok(Message::Request(request)) = Message::parse(&body) else {
        panic!("no request")
    };
    let refused = core
        .route(
            &core.catalog().snapshot(),
            CallSubject::Completion,
            &body,
            &request,
        )
        .unwrap_err();
    assert!(matches!(refused, CallError::NoCompletion(_)), "{refused}");
    tasks.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_list_that_a_backend_declares_and_does_not_know_is_empty() -> anyhow::Result<()> {
    let backend = Backend::new(|method, _| match method {
        "initialize" => hello(&json!({"tools": {}, "resources": {}})),
        "tools/list" => tools(&["x"]),
        "resources/list" => json!({"result": {"resources": [{"uri": "x://y", "name": "y"}]}}),
        _ => json!({"error": {"code": -32601, "message": "what?"}}),
    });
    let (core, tasks) = backend.behind_a_core().await?;
    until(&core, |snapshot| snapshot.resources.len() == 1).await?;
    let snapshot = core.catalog().snapshot();
    assert!(snapshot.templates.is_empty() && snapshot.faults.count() == 0);
    tasks.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_backend_that_says_that_it_changed_is_looked_at_once_however_often_it_says_so() -> anyhow::Result<()>
{
    let mut lists = VecDeque::from([tools(&["x"]), tools(&["x", "y"])]);
    let backend = Backend::new(move |method, _| match method {
        "initialize" => hello(&json!({"tools": {}})),
        _ if lists.len() > 1 => lists.pop_front().unwrap(),
        _ => lists[0].clone(),
    });
    let (core, tasks) = backend.behind_a_core().await?;
    until(&core, |snapshot| snapshot.tools.len() == 1).await?;
    let changes = core.catalog().changes();
    let before = *changes.borrow();
    for _ in 0..100 {
        core.catalog().refresh(&name(&core));
    }
    until(&core, |snapshot| snapshot.tools.len() == 2).await?;
    let told = changes.borrow().notifications_since(&before);
    assert_eq!(told, ["notifications/tools/list_changed"]);
    tasks.finish().await;
    let looks = backend
        .methods()
        .iter()
        .filter(|method| *method == "tools/list")
        .count();
    assert!(looks <= 3, "{looks} looks");
    let greetings = backend
        .methods()
        .iter()
        .filter(|method| *method == "initialize")
        .count();
    assert_eq!(greetings, 1, "the upstream session is kept");
    Ok(())
}

const CHANGED: &str = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n\n";

/// A backend that is probed often, counts that in `probes`, and has a second tool when it `has_changed`.
fn changing(has_changed: Arc<AtomicBool>, probes: watch::Sender<u32>) -> Backend {
    let mut backend = Backend::new(move |method, _| match method {
        "initialize" => hello(&json!({"tools": {}})),
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

#[tokio::test]
async fn a_stream_that_ended_is_opened_again_though_the_backend_is_probed_meanwhile() -> anyhow::Result<()> {
    let has_changed = Arc::new(AtomicBool::new(false));
    let mut backend = changing(Arc::clone(&has_changed), watch::Sender::default());
    backend.stream = Some(Arc::new(move |before| {
        has_changed.store(before > 0, Ordering::Relaxed);
        let said = if before == 0 {
            "retry: 500\ndata:\n\n"
        } else {
            CHANGED
        };
        async move { said }.boxed()
    }));
    let (core, tasks) = backend.behind_a_core().await?;
    until(&core, |snapshot| snapshot.tools.len() == 2).await?;
    tasks.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_stream_may_take_longer_to_open_than_until_the_next_probe() -> anyhow::Result<()> {
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
    let (core, tasks) = backend.behind_a_core().await?;
    until(&core, |snapshot| snapshot.tools.len() == 2).await?;
    tasks.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_stream_that_was_opened_again_is_a_reason_to_look_although_nothing_is_said_on_it()
-> anyhow::Result<()> {
    let opened = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&opened);
    let mut backend = Backend::new(move |method, _| match method {
        "initialize" => hello(&json!({"tools": {}})),
        _ => tools(&["x", "y", "z"][..seen.load(Ordering::Relaxed).clamp(1, 3)]),
    });
    backend.stream = Some(Arc::new(move |before| {
        opened.store(before + 1, Ordering::Relaxed);
        async { "" }.boxed()
    }));
    let (core, tasks) = backend.behind_a_core().await?;
    until(&core, |snapshot| snapshot.tools.len() >= 2).await?;
    // The next one comes too soon behind this look for another, which is made later.
    until(&core, |snapshot| snapshot.tools.len() == 3).await?;
    tasks.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_new_backend_is_looked_at_once() -> anyhow::Result<()> {
    let (probed, mut probes) = watch::channel(0);
    let backend = changing(Arc::default(), probed);
    let (core, tasks) = backend.behind_a_core().await?;
    let probed = tokio::time::timeout(LIMIT, probes.wait_for(|probes| *probes >= 3));
    assert!(probed.await.is_ok_and(|probed| probed.is_ok()));
    tasks.finish().await;
    drop(core);
    let looks = backend.methods();
    let looks = looks.iter().filter(|method| *method == "tools/list").count();
    assert_eq!(looks, 1);
    Ok(())
}

#[tokio::test]
async fn pages_are_followed_with_the_backends_own_cursors_and_not_in_a_circle() -> anyhow::Result<()> {
    let backend = Backend::new(|method, params| {
        let page =
            |name: &str, next: &str| json!({"result": {"tools": [{"name": name}], "nextCursor": next}});
        match (method, params["cursor"].as_str()) {
            ("initialize", _) => hello(&json!({"tools": {}})),
            // An empty cursor is a cursor.
            (_, None) => page("a", ""),
            (_, Some("")) => page("b", "ü\"2"),
            (_, Some("ü\"2")) => page("c", "ü\"2"),
            (_, Some(other)) => json!({"error": {"code": -32602, "message": other}}),
        }
    });
    let (core, tasks) = backend.behind_a_core().await?;
    until(&core, |snapshot| snapshot.tools.len() == 3).await?;
    tasks.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_backend_that_says_that_it_is_at_its_end_with_an_empty_cursor_lists_nothing_twice()
-> anyhow::Result<()> {
    let backend = Backend::new(|method, params| match (method, params["cursor"].as_str()) {
        ("initialize", _) => hello(&json!({"tools": {}})),
        (_, None | Some("")) => json!({"result": {"tools": [{"name": "x"}], "nextCursor": "2"}}),
        _ => json!({"result": {"tools": [{"name": "y"}], "nextCursor": ""}}),
    });
    let (core, tasks) = backend.behind_a_core().await?;
    until(&core, |snapshot| snapshot.tools.len() == 2).await?;
    assert_eq!(core.catalog().snapshot().faults.count(), 0);
    tasks.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_list_is_read_whatever_stands_beside_it() -> anyhow::Result<()> {
    let backend = Backend::new(|method, _| match method {
        "initialize" => hello(&json!({"tools": {}})),
        _ => json!({"result": {"tools": [{"name": "x"}], "resources": "none"}}),
    });
    let (core, tasks) = backend.behind_a_core().await?;
    until(&core, |snapshot| snapshot.tools.len() == 1).await?;
    tasks.finish().await;
    Ok(())
}

#[tokio::test]
async fn an_item_without_a_name_costs_only_itself() -> anyhow::Result<()> {
    let backend = Backend::new(|method, _| match method {
        "initialize" => hello(&json!({"tools": {}})),
        _ => json!({"result": {"tools": [{"title": "?"}, {"name": 5}, ["x"], {"name": ""}, {"name": "x"}]}}),
    });
    let (core, tasks) = backend.behind_a_core().await?;
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
async fn a_backend_without_sessions_is_greeted_at_every_look() -> anyhow::Result<()> {
    let mut greetings = 0;
    let mut backend = Backend::new(move |method, _| {
        if method == "initialize" {
            greetings += 1;
            return hello(&json!({"tools": {}}));
        }
        tools(&["x", "y", "z"][..greetings.min(3)])
    });
    backend.with_session = false;
    let (core, tasks) = backend.behind_a_core().await?;
    until(&core, |snapshot| snapshot.tools.len() == 1).await?;
    core.catalog().refresh(&name(&core));
    until(&core, |snapshot| snapshot.tools.len() == 2).await?;
    tasks.finish().await;
    Ok(())
}
