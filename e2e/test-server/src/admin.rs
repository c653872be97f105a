//! The admin port: tests read statistics and change behaviour.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;
use rmcp::model::LoggingLevel;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::args::Refusal;
use crate::broadcast::Change;
use crate::faults::Rule;
use crate::framing::Choice;
use crate::list_edits::Edits;
use crate::server_requests::{Question, Reply};
use crate::session::Description;
use crate::stats::Counts;
use crate::test_server::Shared;

type TestServer = State<Arc<Shared>>;

/// The routes of the admin port.
pub(crate) fn router(shared: &Arc<Shared>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/stats", get(stats))
        .route("/reset-stats", post(reset_stats))
        .route("/faults", get(faults).post(set_faults).delete(clear_faults))
        .route("/framing", get(framing).put(set_framing).post(set_framing))
        .route("/sessions", get(sessions))
        .route("/sessions/forget", post(forget))
        .route("/streams/close", post(close_streams))
        .route("/tools-changed", post(tools_changed))
        .route("/prompts-changed", post(prompts_changed))
        .route("/resources-changed", post(resources_changed))
        .route("/resource-updated", post(resource_updated))
        .route("/log", post(log))
        .route("/ask", post(ask))
        .with_state(Arc::clone(shared))
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    counts: Counts,
    sessions_open: usize,
    sessions: Vec<String>,
    gets_open: usize,
}

async fn stats(State(shared): TestServer) -> Json<Report> {
    let sessions = shared.sessions.ids().await;
    Json(Report {
        counts: shared.stats.snapshot(),
        sessions_open: sessions.len(),
        sessions,
        gets_open: shared.streams.count(),
    })
}

async fn reset_stats(State(shared): TestServer) -> StatusCode {
    shared.stats.reset();
    StatusCode::NO_CONTENT
}

async fn faults(State(shared): TestServer) -> Json<Vec<Rule>> {
    Json(shared.faults.current())
}

/// Takes one rule or a list of rules, which replaces the earlier ones.
async fn set_faults(
    State(shared): TestServer,
    Json(body): Json<Value>,
) -> Result<StatusCode, (StatusCode, String)> {
    let rules = match body {
        Value::Array(_) => serde_json::from_value(body),
        rule => serde_json::from_value(rule).map(|rule| vec![rule]),
    };
    let rules = rules.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    shared.faults.set(rules);
    Ok(StatusCode::NO_CONTENT)
}

async fn clear_faults(State(shared): TestServer) -> StatusCode {
    shared.faults.set(Vec::new());
    StatusCode::NO_CONTENT
}

async fn framing(State(shared): TestServer) -> Json<Choice> {
    Json(shared.framing.current())
}

async fn set_framing(State(shared): TestServer, Json(choice): Json<Choice>) -> StatusCode {
    shared.framing.set(choice);
    StatusCode::NO_CONTENT
}

async fn sessions(State(shared): TestServer) -> Json<Vec<Description>> {
    Json(
        shared
            .audience
            .sessions()
            .iter()
            .map(|session| session.describe())
            .collect(),
    )
}

#[derive(Deserialize)]
struct Forget {
    #[serde(default)]
    style: Refusal,
    id: Option<String>,
    /// Whether running calls end before the session is removed, and new calls wait. rmcp responds with 500 to a call whose session is removed.
    #[serde(default)]
    between_calls: bool,
}

/// Forgets one session, or all of them.
async fn forget(State(shared): TestServer, Query(forget): Query<Forget>) -> Json<Value> {
    let Forget {
        style,
        id,
        between_calls,
    } = forget;
    let _between = if between_calls {
        Some(shared.calls.write().await)
    } else {
        None
    };
    let ids = match id {
        Some(id) => vec![id],
        None => shared.sessions.ids().await,
    };
    for id in &ids {
        shared.forget(id, style).await;
    }
    Json(json!({"forgotten": ids.len()}))
}

#[derive(Deserialize)]
struct Close {
    #[serde(default)]
    reset: bool,
}

/// Ends every GET stream that is open.
async fn close_streams(State(shared): TestServer, Query(Close { reset }): Query<Close>) -> Json<Value> {
    Json(json!({"closed": shared.streams.close(reset)}))
}

/// Names to add to a list and names to remove from it, each separated by commas.
#[derive(Deserialize)]
struct Edit {
    #[serde(default)]
    add: String,
    #[serde(default)]
    remove: String,
}

impl Edit {
    fn apply(&self, edits: &Edits) {
        self.remove
            .split(',')
            .filter(|name| !name.is_empty())
            .for_each(|name| edits.remove(name));
        self.add
            .split(',')
            .filter(|name| !name.is_empty())
            .for_each(|name| edits.add(name));
    }
}

async fn tools_changed(State(shared): TestServer, Query(edit): Query<Edit>) -> Json<Value> {
    edit.apply(&shared.list_edits.tools);
    tell(&shared, &Change::Tools).await
}

async fn prompts_changed(State(shared): TestServer, Query(edit): Query<Edit>) -> Json<Value> {
    edit.apply(&shared.list_edits.prompts);
    tell(&shared, &Change::Prompts).await
}

async fn resources_changed(State(shared): TestServer, Query(edit): Query<Edit>) -> Json<Value> {
    edit.apply(&shared.list_edits.resources);
    tell(&shared, &Change::Resources).await
}

#[derive(Deserialize)]
struct Updated {
    uri: String,
}

async fn resource_updated(State(shared): TestServer, Query(Updated { uri }): Query<Updated>) -> Json<Value> {
    tell(&shared, &Change::Updated(uri)).await
}

#[derive(Deserialize)]
struct Log {
    level: LoggingLevel,
    text: String,
}

/// Sends a log message to every session that wants its level.
async fn log(State(shared): TestServer, Query(Log { level, text }): Query<Log>) -> Json<Value> {
    tell(&shared, &Change::Log(level, text.into())).await
}

#[derive(Deserialize)]
struct Ask {
    what: Question,
    id: Option<String>,
}

/// Asks one session, or all of them, and gives what they answered.
async fn ask(State(shared): TestServer, Query(Ask { what, id }): Query<Ask>) -> Json<Vec<Reply>> {
    let mut sessions = shared.audience.sessions();
    sessions.retain(|session| id.is_none() || session.id() == id.as_deref());
    Json(what.ask(&sessions).await)
}

async fn tell(shared: &Shared, change: &Change) -> Json<Value> {
    Json(json!({"notified": shared.audience.tell(change).await}))
}
