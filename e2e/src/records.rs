//! Session records for tests of the session store.

use vmcp_gateway::backend::UpstreamSession;
use vmcp_gateway::config::SessionLimits;
use vmcp_gateway::mcp::revision::Revision;
use vmcp_gateway::session::record::{Binding, Lifetimes, NewRecord, PrincipalTag, Record, RecordKey};
use vmcp_gateway::session::store::redis::RedisStore;
use vmcp_gateway::session::store::{CreateOutcome, LoadOutcome, SessionStore};

use crate::providers::{patient, server};
use crate::redis::Redis;

/// Limits that no test reaches.
pub const MANY: SessionLimits = SessionLimits {
    server: u32::MAX,
    principal: u32::MAX,
};

/// A store of its own for the virtual server `name`, with patience.
///
/// # Errors
/// When it cannot be made.
pub fn redis_store(redis: &Redis, name: &str, lifetimes: Lifetimes) -> anyhow::Result<RedisStore> {
    Ok(RedisStore::new(
        &patient(redis.address),
        &server(name),
        lifetimes,
    )?)
}

/// A new record, with texts that have to stay as they are.
#[must_use]
pub fn new_record() -> NewRecord {
    NewRecord {
        principal_tag: PrincipalTag([3; 16]),
        other_tags: Vec::new(),
        revision: Revision::V2025_06_18,
        capabilities: r#"{"roots":{"listChanged":true},"x":1.0}"#.into(),
        client_info: r#"{"name":"ü \"quoted\" \\ /slash","version":"1"}"#.into(),
    }
}

/// A binding to the upstream session `id`.
#[must_use]
pub fn binding(id: &str, generation: u64) -> Binding {
    let session = UpstreamSession {
        id: http::HeaderValue::from_str(id).ok(),
        revision: Revision::V2025_03_26,
        address: "10.0.0.7".parse().ok(),
        cookies: serde_json::from_str(r#"[{"name":"lb","value":"1","until":1}]"#).unwrap_or_default(),
    };
    Binding {
        origin: "origin".to_owned(),
        session,
        generation,
    }
}

/// The key of a session that was created just now.
///
/// # Errors
/// When there is none.
pub async fn created(store: &dyn SessionStore) -> anyhow::Result<RecordKey> {
    created_record(store).await.map(|(key, _)| key)
}

/// The key of a session that was created just now, and its record.
///
/// # Errors
/// When there is none.
pub async fn created_record(store: &dyn SessionStore) -> anyhow::Result<(RecordKey, Record)> {
    let key = RecordKey::random();
    match store.create(&key, &new_record(), MANY).await? {
        CreateOutcome::Created { record, .. } => Ok((key, record)),
        refused => anyhow::bail!("{refused:?}"),
    }
}

/// The record of a session that lives.
///
/// # Errors
/// When it is gone, or the store does not answer.
pub async fn found(store: &dyn SessionStore, key: &RecordKey) -> anyhow::Result<Record> {
    match store.load(key).await? {
        LoadOutcome::Found(record) => Ok(record),
        LoadOutcome::Gone => anyhow::bail!("the record is gone"),
    }
}
