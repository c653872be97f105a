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
    Bound, Created, Incarnation, Life, Loaded, Recovered, SessionStore, SetOutcome, Setting, Terminated,
    Touched, Unavailable,
};
use vmcp_gateway::wire::revision::Revision;

const CLIENTS: usize = 3;
const SESSIONS: usize = 3;
const BACKENDS: [&str; 2] = ["x", "y"];
const RESOURCES: [&str; 2] = ["a://b", "c://d"];
const INCARNATION: &str = "{vmcp:tests/model}:incarnation";
/// In so many of the rounds Redis is killed, because it takes a while until it is back.
const KILLED: f64 = 0.01;
/// No test waits longer for something that has to happen.
const LIMIT: Duration = Duration::from_secs(20);

/// One step of one process, or of fate. Sessions are named by their places.
#[derive(Clone, Debug)]
enum Step {
    Create(usize),
    Load(usize),
    /// Binds at a backend; whether the generation is expected that was there before the round.
    Bind(usize, usize, bool),
    LogLevel(usize, bool),
    Watch(usize, usize, usize),
    Unwatch(usize, usize),
    Touch(Vec<usize>),
    Terminate(usize),
    Recover(usize),
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
        4 => session().prop_map(Step::Create),
        2 => session().prop_map(Step::Load),
        6 => (session(), 0..BACKENDS.len(), prop::bool::weighted(0.8)).prop_map(|(s, b, right)| Step::Bind(s, b, right)),
        2 => (session(), any::<bool>()).prop_map(|(s, high)| Step::LogLevel(s, high)),
        2 => (session(), 0..RESOURCES.len(), 0..BACKENDS.len()).prop_map(|(s, r, b)| Step::Watch(s, r, b)),
        1 => (session(), 0..RESOURCES.len()).prop_map(|(s, r)| Step::Unwatch(s, r)),
        2 => proptest::collection::vec(session(), 1..SESSIONS).prop_map(Step::Touch),
        3 => session().prop_map(Step::Terminate),
        4 => session().prop_map(Step::Recover),
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
    Create(RecordKey),
    Load(RecordKey),
    Bind(RecordKey, &'static str, u64, Box<Binding>),
    Set(RecordKey, Setting),
    Touch(Vec<RecordKey>),
    Terminate(RecordKey, Life),
    Recover(RecordKey, Life),
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
    Done,
}

/// What a record says that can change, and its life.
#[derive(Clone, Debug, PartialEq)]
struct Held {
    life: Life,
    level: Option<String>,
    watched: BTreeMap<String, String>,
    bindings: Bindings,
}

impl Held {
    fn new(life: Life) -> Self {
        Self {
            life,
            level: None,
            watched: BTreeMap::new(),
            bindings: Bindings::default(),
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
    /// Whether the store remembers that it was terminated, or brought back.
    marked: bool,
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
            (session.alive, session.marked) = (None, false);
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
            Operation::Create(key) => {
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
                let new = Held::new(created.life);
                let session = Session {
                    life: created.life,
                    born: self.losses,
                    alive: Some(new.clone()),
                    marked: false,
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
    Outcome::Set(held.clone())
}

impl Session {
    fn end_or_return(
        &mut self,
        operation: &Operation,
        losses: usize,
        settled: bool,
        outcome: &Outcome,
    ) -> Outcome {
        let lost = self.alive.is_none() && self.born != losses && !self.marked;
        match (operation, self.alive.take()) {
            (Operation::Terminate(..), Some(held)) => {
                self.marked = true;
                Outcome::Terminated(Some(held))
            }
            (Operation::Terminate(..), None) if lost => {
                self.marked = true;
                Outcome::Terminated(None)
            }
            (Operation::Recover(..), Some(held)) => {
                self.alive = Some(held.clone());
                Outcome::Found(held)
            }
            (Operation::Recover(..), None) if lost && !settled && *outcome == Outcome::Wait => Outcome::Wait,
            (Operation::Recover(..), None) if lost => {
                self.marked = true;
                self.alive = Some(Held::new(self.life));
                Outcome::Found(Held::new(self.life))
            }
            _ => Outcome::Gone,
        }
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
    let limits = SessionLimits {
        server: u32::MAX,
        principal: u32::MAX,
    };
    let store = &client.store;
    Ok(match operation {
        Operation::Create(key) => match store.create(key, &new_record(), limits).await? {
            Created::Created { record, .. } => Outcome::Created(held(record)),
            Created::Taken => Outcome::Taken,
            Created::Limit(of) => return Err(Unavailable::new(format!("{of:?}"))),
        },
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
            bound: 0,
            kills: 0,
        })
    }

    /// Lets the rounds happen, to sessions that nobody has opened yet.
    async fn play(&mut self, rounds: &[Round]) -> anyhow::Result<()> {
        self.redis.command::<()>(&["FLUSHALL"])?;
        (self.models, self.keys) = (vec![Model::default()], new_keys());
        for (number, round) in rounds.iter().enumerate() {
            let checked = self.check(round).await;
            checked.with_context(|| format!("round {number}: {round:?}"))?;
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
            let creates = |(_, step): &(usize, Step)| matches!(step, Step::Create(at) if *at == place);
            let session = model.sessions.get(key);
            // A key is random, so that one that is gone never comes again; but two may try the same new one at once.
            if round.steps.iter().any(creates) && session.is_none_or(|session| session.alive.is_none()) {
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
                Step::Create(place) if killed => {
                    self.keys[*place] = RecordKey::random();
                    Some(Operation::Create(self.keys[*place]))
                }
                Step::Create(place) => Some(Operation::Create(now[*place])),
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
            while client.store.ping().await.is_err()
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
