//! Whatever three processes do at the same moment to the sessions in a real Redis, and whenever Redis loses its data: there is an order
//! of what they did in which each outcome is that of a model that fits on a page.
//!
//! Each round some operations are begun together, each by a client with a connection of its own, and are waited for. Which one Redis did
//! first nobody has seen, so that every order is tried: the round is right if the model explains all outcomes in one of them. Where it does
//! so in several, all the states in which they end are kept, and the next round may follow from any. Between rounds everybody reads every
//! session, which leaves one state as a rule.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::future::join_all;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::task::JoinSet;
use vmcp_e2e::providers::{patient, server};
use vmcp_e2e::redis::Redis;
use vmcp_gateway::backend::UpstreamSession;
use vmcp_gateway::config::SessionLimits;
use vmcp_gateway::session::bindings::Bindings;
use vmcp_gateway::session::record::{Binding, Lifetimes, NewRecord, PrincipalTag, Record, RecordKey};
use vmcp_gateway::session::store::redis::RedisStore;
use vmcp_gateway::session::store::redis::connection::Connection;
use vmcp_gateway::session::store::{
    Bound, Created, Incarnation, Life, LimitOf, Loaded, Missing, Owner, Recovered, SessionStore, SetOutcome,
    Setting, StreamOwned, Terminated, Touched, Unavailable,
};
use vmcp_gateway::wire::revision::Revision;

const CLIENTS: usize = 3;
const SESSIONS: usize = 3;
const BACKENDS: [&str; 2] = ["x", "y"];
const RESOURCES: [&str; 2] = ["a://b", "c://d"];
const TAG: &str = "{vmcp:tests/model}";
const INCARNATION: &str = "{vmcp:tests/model}:incarnation";
/// How many sessions there may be for those who ask whether there is room.
const ROOM: u32 = 2;
/// How long whoever claims an expired session has to end it.
const CLAIMED_FOR: Duration = Duration::from_secs(60);
/// Lets a session expire, twice as long ago.
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
  end
end
return 1";
/// In so many of the rounds Redis is killed, because it takes a while until it is back.
const KILLED: f64 = 0.01;
/// No test waits longer for something that has to happen.
const LIMIT: Duration = Duration::from_secs(20);

/// One step of one process, or of fate. Sessions are named by their places.
#[derive(Clone, Debug)]
enum Step {
    /// Creates; whether only where there is room.
    Create(usize, bool),
    Load(usize),
    /// Binds at a backend; whether the generation is expected that was there before the round.
    Bind(usize, usize, bool),
    LogLevel(usize, bool),
    Watch(usize, usize, usize),
    Unwatch(usize, usize),
    Touch(Vec<usize>),
    Terminate(usize),
    Recover(usize),
    /// Writes back what was known some rounds ago; whether as lost, or as expired.
    Restore(usize, bool),
    OwnStream(usize),
    /// Takes on what has expired.
    Claim,
    /// Removes what has expired of these.
    Remove(Vec<usize>),
    /// The session is not used for long.
    Expire(usize),
    /// Redis loses its data.
    Lose,
}

/// What happens together.
#[derive(Clone, Debug)]
struct Round {
    steps: Vec<(usize, Step)>,
    /// Whether Redis is killed meanwhile, when so many of the outcomes are there, and started again empty.
    killed: Option<usize>,
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let session = || 0..SESSIONS;
    let step = prop_oneof![
        4 => (session(), prop::bool::weighted(0.3)).prop_map(|(s, limited)| Step::Create(s, limited)),
        2 => session().prop_map(Step::Load),
        6 => (session(), 0..BACKENDS.len(), prop::bool::weighted(0.8)).prop_map(|(s, b, right)| Step::Bind(s, b, right)),
        2 => (session(), any::<bool>()).prop_map(|(s, high)| Step::LogLevel(s, high)),
        2 => (session(), 0..RESOURCES.len(), 0..BACKENDS.len()).prop_map(|(s, r, b)| Step::Watch(s, r, b)),
        1 => (session(), 0..RESOURCES.len()).prop_map(|(s, r)| Step::Unwatch(s, r)),
        2 => proptest::collection::vec(session(), 1..SESSIONS).prop_map(Step::Touch),
        3 => session().prop_map(Step::Terminate),
        4 => session().prop_map(Step::Recover),
        5 => (session(), any::<bool>()).prop_map(|(s, lost)| Step::Restore(s, lost)),
        2 => session().prop_map(Step::OwnStream),
        2 => Just(Step::Claim),
        2 => proptest::collection::vec(session(), 1..SESSIONS).prop_map(Step::Remove),
        3 => session().prop_map(Step::Expire),
        1 => Just(Step::Lose),
    ];
    (0..CLIENTS, step)
}

fn round() -> impl Strategy<Value = Round> {
    let steps = proptest::collection::vec(step(), 1..5);
    let killed = prop::option::weighted(KILLED, 0..4_usize);
    (steps, killed).prop_map(|(steps, killed)| Round { steps, killed })
}

/// A step with everything that it takes.
#[derive(Clone, Debug)]
enum Operation {
    Create(RecordKey, bool),
    Load(RecordKey),
    Bind(RecordKey, &'static str, u64, Box<Binding>),
    Set(RecordKey, Setting),
    Touch(Vec<RecordKey>),
    Terminate(RecordKey, Life),
    Recover(RecordKey, Life),
    Restore(RecordKey, Box<Held>, Missing),
    OwnStream(RecordKey),
    Claim,
    Remove(Vec<RecordKey>),
    Expire(RecordKey),
    Lose,
}

/// What came of an operation.
#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    Taken,
    Created(Held),
    Found(Held),
    Gone,
    Bound(Held),
    Lost(Held),
    Set(Held),
    /// Which of them live.
    Touched(Vec<bool>),
    Terminated(Option<Held>),
    Wait,
    /// There is no room.
    Full,
    Owned(u64),
    Claimed(Vec<(RecordKey, Held)>),
    Done,
}

/// What a record says that can change, and its life.
#[derive(Clone, Debug, PartialEq)]
struct Held {
    life: Life,
    version: u64,
    level: Option<String>,
    watched: BTreeMap<String, String>,
    bindings: Bindings,
}

impl Held {
    fn new(life: Life) -> Self {
        Self {
            life,
            version: 1,
            level: None,
            watched: BTreeMap::new(),
            bindings: Bindings::default(),
        }
    }

    /// Takes over what `known` says and this one has lost.
    fn write_what_is_lost(&mut self, known: &Self) {
        let behind = self.version < known.version;
        let mut is_changed = behind;
        for (backend, binding) in known.bindings.iter() {
            let there = self.bindings.get(backend).map_or(0, |bound| bound.generation);
            if there < binding.generation {
                self.bindings.insert(backend, binding.clone());
                is_changed = true;
            }
        }
        if behind {
            (self.level, self.watched) = (known.level.clone(), known.watched.clone());
            self.version = known.version;
        }
        self.version += u64::from(is_changed);
    }

    fn record(&self) -> Record {
        let new = new_record();
        Record {
            principal_tag: new.principal_tag,
            revision: new.revision,
            capabilities: new.capabilities,
            client_info: new.client_info,
            life: self.life,
            version: self.version,
            untouched: Duration::ZERO,
            left: Duration::ZERO,
            remaining: Duration::ZERO,
            log_level: self.level.clone(),
            subscriptions: self.watched.clone(),
            bindings: self.bindings.clone(),
        }
    }
}

fn new_record() -> NewRecord {
    NewRecord {
        principal_tag: PrincipalTag([3; 16]),
        other_tags: Vec::new(),
        revision: Revision::V2025_06_18,
        capabilities: r#"{"roots":{}}"#.into(),
        client_info: r#"{"name":"model"}"#.into(),
    }
}

fn held(record: Record) -> Held {
    let created = NewRecord {
        principal_tag: record.principal_tag,
        other_tags: Vec::new(),
        revision: record.revision,
        capabilities: record.capabilities,
        client_info: record.client_info,
    };
    assert_eq!(created, new_record(), "what a session began with never changes");
    Held {
        life: record.life,
        version: record.version,
        level: record.log_level,
        watched: record.subscriptions,
        bindings: record.bindings,
    }
}

/// What a session is in the model.
#[derive(Clone, Debug, PartialEq)]
struct Session {
    life: Life,
    /// In which life of the data it was created.
    born: usize,
    /// The record, if it lives.
    alive: Option<Held>,
    /// The record, if it has expired and is still there, and whether somebody has claimed it.
    expired: Option<(Held, bool)>,
    /// What the store remembers of its end, or of its return.
    marked: Option<Marked>,
    /// The largest number that its own stream has got, and whether the next one is known.
    streams: (u64, bool),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Marked {
    Terminated,
    BroughtBack,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    sessions: BTreeMap<RecordKey, Session>,
    /// The lives of the data are counted by its losses.
    losses: usize,
    /// What sessions said that each life is called.
    names: BTreeMap<usize, Incarnation>,
    /// Whether those who know more of a lost session have had the time to write it back.
    settled: bool,
}

impl Model {
    fn lose(&mut self) {
        self.losses += 1;
        self.settled = false;
        for session in self.sessions.values_mut() {
            (session.alive, session.expired, session.marked) = (None, None, None);
            session.streams.1 = false;
        }
    }

    /// The model after `operation`, if that can have had `outcome`.
    fn after(&self, operation: &Operation, outcome: &Outcome) -> Option<Self> {
        let mut model = self.clone();
        let expected = model.apply(operation, outcome);
        (expected == *outcome).then_some(model)
    }

    /// What comes of `operation`. `outcome` is what did: only names and times are believed of it.
    fn apply(&mut self, operation: &Operation, outcome: &Outcome) -> Outcome {
        let alive = |model: &Self, key: &RecordKey| model.sessions.get(key)?.alive.clone();
        match operation {
            Operation::Lose => {
                self.lose();
                Outcome::Done
            }
            Operation::Create(key, limited) => {
                let living = self.sessions.values().filter(|session| session.alive.is_some());
                let room = usize::try_from(ROOM).unwrap_or(usize::MAX);
                if *limited && living.count() >= room && alive(self, key).is_none() {
                    return Outcome::Full;
                }
                let (None, Outcome::Created(created)) = (alive(self, key), outcome) else {
                    return Outcome::Taken;
                };
                let name = created.life.incarnation;
                let of_another =
                    |(losses, other): (&usize, &Incarnation)| (*losses == self.losses) != (*other == name);
                if self.names.iter().any(of_another) {
                    return Outcome::Taken;
                }
                self.names.insert(self.losses, name);
                let new = Held {
                    version: created.version,
                    ..Held::new(created.life)
                };
                let session = Session {
                    life: created.life,
                    born: self.losses,
                    alive: Some(new.clone()),
                    expired: None,
                    marked: None,
                    streams: (0, true),
                };
                self.sessions.insert(*key, session);
                Outcome::Created(new)
            }
            Operation::Load(key) => alive(self, key).map_or(Outcome::Gone, Outcome::Found),
            Operation::Touch(keys) => {
                Outcome::Touched(keys.iter().map(|key| alive(self, key).is_some()).collect())
            }
            Operation::Bind(key, ..) | Operation::Set(key, _) => {
                let Some(held) = self
                    .sessions
                    .get_mut(key)
                    .and_then(|session| session.alive.as_mut())
                else {
                    return Outcome::Gone;
                };
                change(held, operation)
            }
            Operation::Claim => {
                let sessions = self.sessions.iter_mut();
                let claimed = sessions.filter_map(|(key, session)| {
                    let (held, claimed) = session.expired.as_mut()?;
                    let is_new = !std::mem::replace(claimed, true);
                    is_new.then(|| (*key, held.clone()))
                });
                Outcome::Claimed(claimed.collect())
            }
            Operation::Remove(keys) => {
                for key in keys {
                    if let Some(session) = self.sessions.get_mut(key) {
                        session.expired = None;
                    }
                }
                Outcome::Done
            }
            Operation::Expire(key) => {
                if let Some(session) = self.sessions.get_mut(key)
                    && let Some(held) = session.alive.take()
                {
                    session.expired = Some((held, false));
                }
                Outcome::Done
            }
            Operation::OwnStream(key) => match self.sessions.get_mut(key) {
                Some(session) if session.alive.is_some() => session.own_stream(outcome),
                _ => Outcome::Gone,
            },
            Operation::Restore(key, known, missing) => {
                let losses = self.losses;
                match self.sessions.get_mut(key) {
                    Some(session) => session.restore(known, *missing, losses, outcome),
                    None => Outcome::Gone,
                }
            }
            Operation::Terminate(key, _) | Operation::Recover(key, _) => {
                let (losses, settled) = (self.losses, self.settled);
                match self.sessions.get_mut(key) {
                    Some(session) => session.end_or_return(operation, losses, settled, outcome),
                    None => Outcome::Gone,
                }
            }
        }
    }
}

/// What a binding or a setting does to a record that lives.
fn change(held: &mut Held, operation: &Operation) -> Outcome {
    match operation {
        Operation::Bind(_, backend, expected, binding) => {
            let bound = held.bindings.get(backend).map_or(0, |bound| bound.generation);
            if bound != *expected {
                return Outcome::Lost(held.clone());
            }
            held.bindings.insert(backend, (**binding).clone());
            held.version += 1;
            return Outcome::Bound(held.clone());
        }
        Operation::Set(_, Setting::LogLevel(level)) => held.level = Some(level.clone()),
        Operation::Set(_, Setting::Subscribe { uri, backend }) => {
            held.watched.insert(uri.clone(), backend.clone());
        }
        Operation::Set(_, Setting::Unsubscribe { uri }) => {
            held.watched.remove(uri);
        }
        _ => {}
    }
    held.version += 1;
    Outcome::Set(held.clone())
}

/// The version of a record that was brought back: a time, larger than every version before.
fn version_of(outcome: &Outcome, before: u64) -> u64 {
    match outcome {
        Outcome::Found(held) if held.version > before => held.version,
        _ => 0,
    }
}

impl Session {
    fn end_or_return(
        &mut self,
        operation: &Operation,
        losses: usize,
        settled: bool,
        outcome: &Outcome,
    ) -> Outcome {
        let lost = self.alive.is_none() && self.born != losses && self.marked.is_none();
        match (operation, self.alive.take()) {
            (Operation::Terminate(..), Some(held)) => {
                self.marked = Some(Marked::Terminated);
                Outcome::Terminated(Some(held))
            }
            (Operation::Terminate(..), None) if lost => {
                self.marked = Some(Marked::Terminated);
                Outcome::Terminated(None)
            }
            (Operation::Recover(..), Some(held)) => {
                self.alive = Some(held.clone());
                Outcome::Found(held)
            }
            (Operation::Recover(..), None) if lost && !settled && *outcome == Outcome::Wait => Outcome::Wait,
            (Operation::Recover(..), None) if lost => {
                self.marked = Some(Marked::BroughtBack);
                self.streams.1 = false;
                let new = Held {
                    version: version_of(outcome, 1),
                    ..Held::new(self.life)
                };
                self.alive = Some(new.clone());
                Outcome::Found(new)
            }
            _ => Outcome::Gone,
        }
    }

    fn restore(&mut self, known: &Held, missing: Missing, losses: usize, outcome: &Outcome) -> Outcome {
        if let Some(held) = &mut self.alive {
            held.write_what_is_lost(known);
            return Outcome::Found(held.clone());
        }
        if self.marked == Some(Marked::Terminated) {
            return Outcome::Gone;
        }
        let back = match (self.expired.take(), missing) {
            (Some((mut held, _)), _) => {
                held.version += 1;
                held
            }
            (None, Missing::Expired) => return Outcome::Gone,
            (None, Missing::Lost) => {
                self.streams.1 = false;
                if self.born != losses {
                    self.marked = Some(Marked::BroughtBack);
                }
                Held {
                    version: version_of(outcome, known.version),
                    ..known.clone()
                }
            }
        };
        self.alive = Some(back.clone());
        Outcome::Found(back)
    }

    /// The number grows by one; behind a loss by more, so that it is larger than any that was given.
    fn own_stream(&mut self, outcome: &Outcome) -> Outcome {
        let (given, exact) = self.streams;
        let number = match outcome {
            Outcome::Owned(number) if !exact && *number > given => *number,
            _ => given + 1,
        };
        self.streams = (number, true);
        Outcome::Owned(number)
    }
}

/// The states in which `model` can be when all of `done` was done in some order, added to `ends`. Of an operation without an outcome it is
/// not known whether it was done: Redis was killed behind it, so that nothing of it is left but what others saw.
fn orders(model: &Model, done: &[(Operation, Option<Outcome>)], ends: &mut Vec<Model>) {
    if done.iter().all(|(_, outcome)| outcome.is_none()) && !ends.contains(model) {
        ends.push(model.clone());
    }
    for (place, (operation, outcome)) in done.iter().enumerate() {
        let after = match outcome {
            Some(outcome) => model.after(operation, outcome),
            None => {
                let mut after = model.clone();
                after.apply(operation, &Outcome::Done);
                Some(after)
            }
        };
        if let Some(after) = after {
            let others = [&done[..place], &done[place + 1..]].concat();
            orders(&after, &others, ends);
        }
    }
}

async fn perform(client: &Client, operation: &Operation) -> Result<Outcome, Unavailable> {
    let limits = |limited| SessionLimits {
        server: if limited { ROOM } else { u32::MAX },
        principal: u32::MAX,
    };
    let store = &client.store;
    Ok(match operation {
        Operation::Create(key, limited) => match store.create(key, &new_record(), limits(*limited)).await? {
            Created::Created { record, .. } => Outcome::Created(held(record)),
            Created::Taken => Outcome::Taken,
            Created::Limit(LimitOf::Server) => Outcome::Full,
            Created::Limit(of) => return Err(Unavailable::new(format!("{of:?}"))),
        },
        Operation::Restore(key, known, missing) => {
            match store.restore(key, &known.record(), *missing).await? {
                Recovered::Found(record) => Outcome::Found(held(record)),
                Recovered::Gone => Outcome::Gone,
                Recovered::Wait(_) => Outcome::Wait,
            }
        }
        Operation::OwnStream(key) => match store.own_stream(key, Owner([7; 8])).await? {
            StreamOwned::Owned(number) => Outcome::Owned(number),
            StreamOwned::Gone => Outcome::Gone,
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
            expire.arg(EXPIRE).arg(2).arg(format!("{TAG}:s:{key}"));
            expire.arg(format!("{TAG}:sessions")).arg(key.to_string());
            client.fate.command::<()>(&expire).await?;
            Outcome::Done
        }
        Operation::Load(key) => match store.load(key).await? {
            Loaded::Found(record) => Outcome::Found(held(record)),
            Loaded::Gone => Outcome::Gone,
        },
        Operation::Bind(key, backend, expected, binding) => {
            match store.bind_backend(key, backend, *expected, binding).await? {
                Bound::Bound(record) => Outcome::Bound(held(record)),
                Bound::Lost(record) => Outcome::Lost(held(record)),
                Bound::Gone => Outcome::Gone,
            }
        }
        Operation::Set(key, setting) => match store.set(key, setting).await? {
            SetOutcome::Set(record) => Outcome::Set(held(record)),
            SetOutcome::Full => return Err(Unavailable::new("full")),
            SetOutcome::Gone => Outcome::Gone,
        },
        Operation::Touch(keys) => {
            let touched = store.touch(keys).await?;
            Outcome::Touched(
                touched
                    .iter()
                    .map(|one| matches!(one, Touched::Alive { .. }))
                    .collect(),
            )
        }
        Operation::Terminate(key, life) => match store.terminate(key, *life).await? {
            Terminated::Terminated(record) => Outcome::Terminated(record.map(held)),
            Terminated::Gone => Outcome::Gone,
        },
        Operation::Recover(key, life) => match store.recover(key, *life, &new_record()).await? {
            Recovered::Found(record) => Outcome::Found(held(record)),
            Recovered::Wait(_) => Outcome::Wait,
            Recovered::Gone => Outcome::Gone,
        },
        Operation::Lose => {
            client.fate.command::<()>(&redis::cmd("FLUSHALL")).await?;
            Outcome::Done
        }
    })
}

/// One process.
#[derive(Clone)]
struct Client {
    store: Arc<RedisStore>,
    /// What is not for a store to do goes this way.
    fate: Connection,
}

/// The world, and what is known of it.
struct World {
    redis: Redis,
    clients: Vec<Client>,
    /// Every state in which it can be.
    models: Vec<Model>,
    /// The key of the session at each place.
    keys: [RecordKey; SESSIONS],
    /// What processes remember of sessions: what each was some rounds ago.
    remembered: BTreeMap<RecordKey, Held>,
    bound: u32,
    kills: u32,
}

impl World {
    fn start() -> anyhow::Result<Self> {
        let redis = Redis::start(None)?;
        let storage = patient(redis.address);
        let client = |_| {
            anyhow::Ok(Client {
                store: Arc::new(RedisStore::new(&storage, &server("model"), Lifetimes::default())?),
                fate: Connection::new(&storage, INCARNATION)?,
            })
        };
        Ok(Self {
            clients: (0..CLIENTS).map(client).collect::<anyhow::Result<_>>()?,
            redis,
            models: Vec::new(),
            keys: new_keys(),
            remembered: BTreeMap::new(),
            bound: 0,
            kills: 0,
        })
    }

    /// Lets the rounds happen, to sessions that nobody has opened yet.
    async fn play(&mut self, rounds: &[Round]) -> anyhow::Result<()> {
        self.redis.command::<()>(&["FLUSHALL"])?;
        (self.models, self.keys) = (vec![Model::default()], new_keys());
        self.remembered.clear();
        for (number, round) in rounds.iter().enumerate() {
            let checked = self.check(round).await;
            checked.with_context(|| format!("round {number}: {round:?}"))?;
            for (key, session) in &self.models[0].sessions {
                if let Some(held) = &session.alive
                    && (number % 3 == 0 || !self.remembered.contains_key(key))
                {
                    self.remembered.insert(*key, held.clone());
                }
            }
        }
        Ok(())
    }

    async fn check(&mut self, round: &Round) -> anyhow::Result<()> {
        let operations = self.operations(round);
        let mut running = JoinSet::new();
        for (client, operation) in operations {
            let client = self.clients[client].clone();
            running.spawn(async move {
                let outcome = perform(&client, &operation).await;
                (operation, outcome)
            });
        }
        let mut done = Vec::new();
        loop {
            if round.killed == Some(done.len()) {
                self.redis.kill()?;
            }
            let Some(ended) = running.join_next().await else {
                break;
            };
            let (operation, outcome) = ended?;
            done.push(match outcome {
                Err(_) if round.killed.is_some() => (operation, None),
                outcome => (operation, Some(outcome?)),
            });
        }
        let mut ends = Vec::new();
        for model in &self.models {
            orders(model, &done, &mut ends);
        }
        anyhow::ensure!(
            !ends.is_empty(),
            "no order explains {done:#?} after {:#?}",
            self.models
        );
        self.models = ends;
        if round.killed.is_some() {
            self.start_again().await?;
        }
        self.settle()?;
        self.everybody_reads_the_same().await
    }

    /// The operations of a round, by what is known before it.
    fn operations(&mut self, round: &Round) -> Vec<(usize, Operation)> {
        let (model, before) = (self.models[0].clone(), self.keys);
        for (place, key) in self.keys.iter_mut().enumerate() {
            let creates = |(_, step): &(usize, Step)| matches!(step, Step::Create(at, _) if *at == place);
            let ends = |(_, step): &(usize, Step)| match step {
                Step::Terminate(at) | Step::Expire(at) => *at == place,
                step => matches!(step, Step::Lose),
            };
            let session = model.sessions.get(key);
            let is_alive = session.is_some_and(|session| session.alive.is_some());
            // A key is random, so that one that is gone never comes again; but two may try the same new one at once.
            if round.steps.iter().any(creates) && (!is_alive || round.steps.iter().any(ends)) {
                *key = RecordKey::random();
            }
        }
        let killed = round.killed.is_some();
        let mut operations = Vec::new();
        for (client, step) in &round.steps {
            // Of a session that is created behind a kill nobody learns; so nobody else knows its key.
            let now = if killed { before } else { self.keys };
            let life = |place: &usize| model.sessions.get(&before[*place]).map(|session| session.life);
            let operation = match step {
                Step::Create(place, limited) if killed => {
                    self.keys[*place] = RecordKey::random();
                    Some(Operation::Create(self.keys[*place], *limited))
                }
                Step::Create(place, limited) => Some(Operation::Create(now[*place], *limited)),
                Step::Restore(place, lost) => {
                    let missing = if *lost { Missing::Lost } else { Missing::Expired };
                    let key = before[*place];
                    let known = self.remembered.get(&key).cloned();
                    known.map(|known| Operation::Restore(key, Box::new(known), missing))
                }
                Step::OwnStream(place) => Some(Operation::OwnStream(now[*place])),
                Step::Claim => Some(Operation::Claim),
                Step::Remove(places) => Some(Operation::Remove(
                    places.iter().map(|place| now[*place]).collect(),
                )),
                Step::Expire(place) => Some(Operation::Expire(now[*place])),
                Step::Load(place) => Some(Operation::Load(now[*place])),
                Step::Bind(place, backend, right) => {
                    Some(self.bind(&model, now[*place], BACKENDS[*backend], *right))
                }
                Step::LogLevel(place, _) | Step::Watch(place, ..) | Step::Unwatch(place, _) => {
                    Some(Operation::Set(now[*place], setting(step)))
                }
                Step::Touch(places) => {
                    Some(Operation::Touch(places.iter().map(|place| now[*place]).collect()))
                }
                Step::Terminate(place) => life(place).map(|life| Operation::Terminate(before[*place], life)),
                Step::Recover(place) => life(place).map(|life| Operation::Recover(before[*place], life)),
                Step::Lose => Some(Operation::Lose),
            };
            operations.extend(operation.map(|operation| (*client, operation)));
        }
        operations
    }

    fn bind(&mut self, model: &Model, key: RecordKey, backend: &'static str, right: bool) -> Operation {
        let held = model
            .sessions
            .get(&key)
            .and_then(|session| session.alive.as_ref());
        let bound = held.and_then(|held| held.bindings.get(backend));
        let bound = bound.map_or(0, |binding| binding.generation);
        let expected = if right { bound } else { bound + 1 };
        self.bound += 1;
        let binding = Binding {
            origin: "origin".to_owned(),
            session: UpstreamSession {
                id: http::HeaderValue::from_str(&self.bound.to_string()).ok(),
                revision: Revision::V2025_03_26,
                address: None,
                cookies: vmcp_gateway::backend::Cookies::default(),
            },
            generation: expected + 1,
        };
        Operation::Bind(key, backend, expected, Box::new(binding))
    }

    /// Redis comes back with nothing, and every client finds it.
    async fn start_again(&mut self) -> anyhow::Result<()> {
        // The round may have ended before the kill's turn.
        self.redis.kill()?;
        self.redis.start_again()?;
        self.kills += 1;
        self.models.iter_mut().for_each(Model::lose);
        let began = Instant::now();
        for client in &self.clients {
            while client.store.probe_writes().await.is_err()
                || client.fate.command::<()>(&redis::cmd("PING")).await.is_err()
            {
                anyhow::ensure!(began.elapsed() < LIMIT, "Redis is not found again");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Ok(())
    }

    /// Time passes for those who know more of a lost session.
    fn settle(&mut self) -> anyhow::Result<()> {
        if self.models[0].settled {
            return Ok(());
        }
        let Some(value) = self.redis.command::<Option<String>>(&["GET", INCARNATION])? else {
            return Ok(());
        };
        let (incarnation, born) = value.split_once(' ').context("no time")?;
        let earlier = born.parse::<u64>()? - 2000;
        self.redis
            .command::<()>(&["SET", INCARNATION, &format!("{incarnation} {earlier}")])?;
        for model in &mut self.models {
            model.settled = true;
        }
        Ok(())
    }

    async fn everybody_reads_the_same(&mut self) -> anyhow::Result<()> {
        let keys = self.keys;
        let reads = self.clients.iter().flat_map(|client| {
            keys.map(|key| async move {
                let operation = Operation::Load(key);
                let outcome = perform(client, &operation).await?;
                anyhow::Ok((operation, outcome))
            })
        });
        for read in join_all(reads).await {
            let (operation, outcome) = read?;
            let before = self.models.clone();
            self.models
                .retain(|model| model.after(&operation, &outcome).is_some());
            anyhow::ensure!(
                !self.models.is_empty(),
                "{outcome:?} is read of {operation:?}, after {before:#?}"
            );
        }
        Ok(())
    }
}

fn new_keys() -> [RecordKey; SESSIONS] {
    [(); SESSIONS].map(|()| RecordKey::random())
}

fn setting(step: &Step) -> Setting {
    match step {
        Step::Watch(_, resource, backend) => Setting::Subscribe {
            uri: RESOURCES[*resource].to_owned(),
            backend: BACKENDS[*backend].to_owned(),
        },
        Step::Unwatch(_, resource) => Setting::Unsubscribe {
            uri: RESOURCES[*resource].to_owned(),
        },
        Step::LogLevel(_, true) => Setting::LogLevel("error".to_owned()),
        _ => Setting::LogLevel("debug".to_owned()),
    }
}

#[test]
fn what_three_processes_do_at_once_and_losses_of_the_data_in_between_are_explained_by_one_order()
-> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let entered = runtime.enter();
    let world = std::cell::RefCell::new(World::start()?);
    drop(entered);
    let config = Config {
        cases: 150,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config).run(&proptest::collection::vec(round(), 1..20), |rounds| {
        let outcome = runtime.block_on(world.borrow_mut().play(&rounds));
        outcome.map_err(|error| TestCaseError::fail(format!("{error:#}")))
    })?;
    let kills = world.borrow().kills;
    assert!(kills > 0, "Redis was never killed");
    Ok(())
}
