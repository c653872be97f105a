//! The memory of a session in Redis.

use vmcp_e2e::providers::{patient, server};
use vmcp_e2e::redis::Redis;
use vmcp_external::requires;
use vmcp_gateway::backend::UpstreamSession;
use vmcp_gateway::config::SessionLimits;
use vmcp_gateway::mcp::revision::Revision;
use vmcp_gateway::session::record::{Binding, Lifetimes, NewRecord, PrincipalTag, RecordKey};
use vmcp_gateway::session::store::redis::RedisStore;
use vmcp_gateway::session::store::{BindOutcome, CreateOutcome, SessionStore};

const SESSIONS: u64 = 2_000;
/// Bytes. The documented limit is 1.5 KiB.
const MOST: u64 = 1_300;

async fn used_by_sessions_of(principal: impl Fn(u64) -> PrincipalTag) -> anyhow::Result<u64> {
    let redis = Redis::start(None)?;
    let store = RedisStore::new(&patient(redis.address), &server("weather"), Lifetimes::default())?;
    let limits = SessionLimits {
        server: u32::MAX,
        principal: u32::MAX,
    };
    let mut before = 0;
    // The first makes Redis learn the scripts and the gateway's connections.
    for number in 0..=SESSIONS {
        if number == 1 {
            before = used(&redis)?;
        }
        let key = RecordKey::random();
        let new = NewRecord {
            principal_tag: principal(number),
            other_tags: Vec::new(),
            revision: Revision::V2025_06_18,
            capabilities: r#"{"roots":{"listChanged":true},"sampling":{},"elicitation":{}}"#.into(),
            client_info: r#"{"name":"claude-code","title":"Claude Code","version":"2.0.76 (stable)"}"#.into(),
        };
        let created = store.create(&key, &new, limits).await?;
        anyhow::ensure!(matches!(created, CreateOutcome::Created { .. }), "{created:?}");
        let binding = Binding {
            origin: "gXV4mPL2w0s1kqZb".to_owned(),
            session: UpstreamSession {
                id: http::HeaderValue::from_str(&format!("5f0c2a6e-1d5b-4a37-9c3f-{number:012}")).ok(),
                revision: Revision::V2025_06_18,
                address: "10.244.12.34".parse().ok(),
                cookies: vmcp_gateway::backend::Cookies::default(),
            },
            generation: 1,
        };
        let bound = store.bind_backend(&key, "weather", 0, &binding).await?;
        anyhow::ensure!(matches!(bound, BindOutcome::Bound(_)), "{bound:?}");
    }
    Ok((used(&redis)? - before) / SESSIONS)
}

fn used(redis: &Redis) -> anyhow::Result<u64> {
    let info: String = redis.command(&["INFO", "memory"])?;
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    Ok(used.unwrap_or_default().trim().parse()?)
}

/// A session with one binding takes less memory than documented.
#[requires(redis)]
#[tokio::test]
async fn bound_session_fits_its_share_of_redis_memory() -> anyhow::Result<()> {
    let of_one = used_by_sessions_of(|_| PrincipalTag([3; 16])).await?;
    let of_many = used_by_sessions_of(|number| PrincipalTag(u128::from(number).to_be_bytes())).await?;
    assert!(
        of_one < MOST && of_many < MOST,
        "{of_one} bytes of one principal, {of_many} of many"
    );
    Ok(())
}
