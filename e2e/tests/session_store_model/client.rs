//! A process of the model test: executes operations on a real store.

use std::sync::Arc;
use std::time::Duration;

use vmcp_gateway::session::store::redis::RedisStore;
use vmcp_gateway::session::store::redis::connection::RedisConnection;
use vmcp_gateway::session::store::{
    BindOutcome, CreateOutcome, LoadOutcome, ProcessId, RecoverOutcome, SessionStore as _, SetOutcome,
    StoreError, StreamClaim, TerminateOutcome, TouchOutcome,
};

use crate::TAG;
use crate::held::{held, new_record};
use crate::operation::{Operation, Outcome};

/// How long a claim of an expired session is valid.
const CLAIMED_FOR: Duration = Duration::from_secs(60);
/// Makes a session expire in the past.
const EXPIRE: &str = "
local times = redis.call('HGET', KEYS[1], 'times')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local idle, rest = string.match(times or '', '^(%d+)(.*)$')
if not idle or tonumber(idle) <= now then
  return 0
end
local past = string.format('%.0f', now - 120000)
redis.call('HSET', KEYS[1], 'times', past .. rest)
for _, member in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  if string.sub(member, 1, #ARGV[1]) == ARGV[1] then
    redis.call('ZADD', KEYS[2], past, member)
    local principal = string.match(member, ' (%S*)$')
    redis.call('ZADD', KEYS[3] .. principal, 'XX', past, ARGV[1])
  end
end
return 1";

/// One process.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) store: Arc<RedisStore>,
    /// For commands that the store does not have.
    pub(crate) direct: RedisConnection,
}

pub(crate) async fn perform(client: &Client, operation: &Operation) -> Result<Outcome, StoreError> {
    let store = &client.store;
    Ok(match operation {
        Operation::Create(key, principal, limits) => {
            match store.create(key, &new_record(*principal), *limits).await? {
                CreateOutcome::Created { record, .. } => Outcome::Created(held(record)),
                CreateOutcome::AlreadyExists => Outcome::Taken,
                CreateOutcome::Limit(of) => Outcome::Limit(of),
            }
        }
        Operation::Restore(key, known, missing) => {
            match store.restore(key, &known.record(), *missing).await? {
                RecoverOutcome::Found(record) => Outcome::Found(held(record)),
                RecoverOutcome::Gone => Outcome::Gone,
                RecoverOutcome::Wait(_) => Outcome::Wait,
                RecoverOutcome::Vanished { .. } => Outcome::Vanished,
            }
        }
        Operation::OwnStream(key) => match store.claim_stream(key, ProcessId([7; 8])).await? {
            StreamClaim::Owned(number) => Outcome::Owned(number),
            StreamClaim::Gone => Outcome::Gone,
        },
        Operation::Claim => {
            let claimed = store.claim_expired(CLAIMED_FOR, 100).await?.into_iter();
            let mut claimed: Vec<_> = claimed.map(|(key, record)| (key, held(record))).collect();
            claimed.sort_by_key(|(key, _)| *key);
            Outcome::Claimed(claimed)
        }
        Operation::Remove(keys) => {
            store.remove_expired(keys).await?;
            Outcome::Done
        }
        Operation::Expire(key) => {
            let mut expire = redis::cmd("EVAL");
            expire.arg(EXPIRE).arg(3).arg(format!("{TAG}:s:{key}"));
            expire.arg(format!("{TAG}:sessions")).arg(format!("{TAG}:p:"));
            expire.arg(key.to_string());
            client.direct.command::<()>(&expire).await?;
            Outcome::Done
        }
        Operation::Load(key) => match store.load(key).await? {
            LoadOutcome::Found(record) => Outcome::Found(held(record)),
            LoadOutcome::Gone => Outcome::Gone,
        },
        Operation::Bind(key, backend, expected, binding) => {
            match store.bind_backend(key, backend, *expected, binding).await? {
                BindOutcome::Bound(record) => Outcome::Bound(held(record)),
                BindOutcome::Lost(record) => Outcome::Lost(held(record)),
                BindOutcome::Gone => Outcome::Gone,
            }
        }
        Operation::Set(key, setting) => match store.set(key, setting).await? {
            SetOutcome::Set(record) => Outcome::Set(held(record)),
            SetOutcome::Full => return Err(StoreError::unavailable("full")),
            SetOutcome::Gone => Outcome::Gone,
        },
        Operation::Touch(keys) => {
            let touched = store.touch(keys).await?;
            Outcome::Touched(
                touched
                    .iter()
                    .map(|one| matches!(one, TouchOutcome::Alive { .. }))
                    .collect(),
            )
        }
        Operation::Terminate(key, life) => match store.terminate(key, *life).await? {
            TerminateOutcome::Terminated(record) => Outcome::Terminated(record.map(held)),
            TerminateOutcome::Gone => Outcome::Gone,
        },
        Operation::Recover(key, life, principal) => {
            match store.recover(key, *life, &new_record(*principal)).await? {
                RecoverOutcome::Found(record) => Outcome::Found(held(record)),
                RecoverOutcome::Wait(_) => Outcome::Wait,
                RecoverOutcome::Vanished { .. } => Outcome::Vanished,
                RecoverOutcome::Gone => Outcome::Gone,
            }
        }
        Operation::Lose => {
            client.direct.command::<()>(&redis::cmd("FLUSHALL")).await?;
            Outcome::Done
        }
    })
}
