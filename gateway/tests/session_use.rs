//! A long request keeps its session from expiring.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use vmcp_gateway::backend::HttpClient;
use vmcp_gateway::config::{HotSettings, ServerName};
use vmcp_gateway::core::{Caller as _, Core, Principal};
use vmcp_gateway::mcp::revision::Revision;
use vmcp_gateway::runtime::readiness::Readiness;
use vmcp_gateway::runtime::tasks::Tasks;
use vmcp_gateway::session::id::signing_keys::SigningKeys;
use vmcp_gateway::session::record::{IDLE_TTL, Lifetimes};
use vmcp_gateway::session::store::memory::MemoryStore;
use vmcp_gateway::session::{ClientHandshake, SessionError, SessionOptions, Sessions};
use vmcp_gateway::telemetry::Metrics;

fn sessions(tasks: &Tasks) -> anyhow::Result<Sessions> {
    let core = Core::new(
        HotSettings::default(),
        HttpClient::new(tasks.clone()),
        tasks.clone(),
        &Readiness::default(),
        Metrics::new(),
    );
    let server = ServerName {
        namespace: "tests".to_owned(),
        name: "a".to_owned(),
    };
    let store = Arc::new(MemoryStore::new(Lifetimes::default()));
    let sessions = Sessions::new(
        server,
        store,
        SessionOptions::default(),
        SigningKeys::random()?,
        core,
        tasks.clone(),
        Metrics::new(),
    );
    let readiness = Readiness::default();
    sessions.run(
        readiness.wait_for("the persisted catalog"),
        readiness.wait_for("the session store"),
    );
    Ok(sessions)
}

#[tokio::test(start_paused = true)]
async fn request_of_an_hour_keeps_its_session() -> anyhow::Result<()> {
    let tasks = Tasks::default();
    let sessions = sessions(&tasks)?;
    let empty = RawValue::from_string("{}".to_owned())?;
    let client = ClientHandshake {
        revision: Revision::LATEST,
        capabilities: &empty,
        info: &empty,
    };
    let who = Principal::Anonymous;
    let limits = HotSettings::default().limits.sessions(true);
    let (used, unused) = (
        sessions.create(&who, &client, limits).await?,
        sessions.create(&who, &client, limits).await?,
    );
    let running = sessions.find(used.as_bytes(), &who).await?;
    let step = IDLE_TTL / 100;
    for _ in 0..200 {
        // As each keep-alive comment does while the backend is silent.
        running.record_use();
        tokio::time::sleep(step.min(Duration::from_secs(60))).await;
    }
    sessions.find(used.as_bytes(), &who).await?;
    let idle = sessions.find(unused.as_bytes(), &who).await;
    assert!(matches!(idle, Err(SessionError::NotFound)), "{idle:?}");
    Ok(())
}
