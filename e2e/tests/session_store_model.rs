//! Whatever three processes do to the sessions in a real Redis, in whatever order, and whenever Redis loses its data: the outcome of
//! each operation is that of a model that fits on a page.

use std::collections::BTreeMap;

use anyhow::Context as _;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use vmcp_e2e::providers::{patient, server};
use vmcp_e2e::redis::Redis;
use vmcp_gateway::backend::UpstreamSession;
use vmcp_gateway::config::SessionLimits;
use vmcp_gateway::session::record::{Binding, Lifetimes, NewRecord, PrincipalTag, Record, RecordKey};
use vmcp_gateway::session::store::redis::RedisStore;
use vmcp_gateway::session::store::{
    Bound, Created, Incarnation, Life, Loaded, Recovered, SessionStore, SetOutcome, Setting, Terminated,
    Touched,
};
use vmcp_gateway::wire::revision::Revision;

const CLIENTS: usize = 3;
const SESSIONS: usize = 4;
const BACKENDS: [&str; 2] = ["x", "y"];
const RESOURCES: [&str; 2] = ["a://b", "c://d"];

/// One step of one process, or of fate.
#[derive(Clone, Debug)]
enum Step {
    Create(usize),
    Load(usize),
    /// Binds at a backend; whether the generation is expected that is there.
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

fn step() -> impl Strategy<Value = (usize, Step)> {
    let session = || 0..SESSIONS;
    let step = prop_oneof![
        4 => session().prop_map(Step::Create),
        4 => session().prop_map(Step::Load),
        4 => (session(), 0..BACKENDS.len(), any::<bool>()).prop_map(|(s, b, right)| Step::Bind(s, b, right)),
        2 => (session(), any::<bool>()).prop_map(|(s, high)| Step::LogLevel(s, high)),
        2 => (session(), 0..RESOURCES.len(), 0..BACKENDS.len()).prop_map(|(s, r, b)| Step::Watch(s, r, b)),
        1 => (session(), 0..RESOURCES.len()).prop_map(|(s, r)| Step::Unwatch(s, r)),
        2 => proptest::collection::vec(session(), 0..SESSIONS).prop_map(Step::Touch),
        3 => session().prop_map(Step::Terminate),
        4 => session().prop_map(Step::Recover),
        2 => Just(Step::Lose),
    ];
    (0..CLIENTS, step)
}

/// What a session is in the model.
#[derive(Clone, Debug)]
struct Session {
    key: RecordKey,
    life: Life,
    /// The record, if it lives: what it holds beside what it was created with.
    alive: Option<Held>,
    /// Whether the store remembers that it was terminated, or brought back.
    marked: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Held {
    level: Option<String>,
    watched: BTreeMap<String, String>,
    bindings: BTreeMap<String, Box<Binding>>,
}

#[derive(Debug, Default)]
struct Model {
    sessions: BTreeMap<usize, Session>,
    /// The life of the data, once a step has begun one.
    incarnation: Option<Incarnation>,
    past: Vec<Incarnation>,
    bound: u32,
}

fn new_record() -> NewRecord {
    NewRecord {
        principal_tag: PrincipalTag([3; 16]),
        revision: Revision::V2025_06_18,
        capabilities: r#"{"roots":{}}"#.to_owned(),
        client_info: r#"{"name":"model"}"#.to_owned(),
    }
}

/// The record is what the model says.
fn same(record: &Record, session: &Session, held: &Held) -> anyhow::Result<()> {
    let new = new_record();
    let found = Held {
        level: record.log_level.clone(),
        watched: record.subscriptions.clone(),
        bindings: record.bindings.clone(),
    };
    anyhow::ensure!(found == *held, "{found:?} instead of {held:?}");
    anyhow::ensure!(
        record.life == session.life,
        "{:?} instead of {:?}",
        record.life,
        session.life
    );
    let created = (
        record.principal_tag,
        record.revision,
        &record.capabilities,
        &record.client_info,
    );
    anyhow::ensure!(
        created
            == (
                new.principal_tag,
                new.revision,
                &new.capabilities,
                &new.client_info
            )
    );
    Ok(())
}

impl Model {
    /// The first step that asks for the life of the data begins one, which nobody has seen before.
    fn seen(&mut self, incarnation: Incarnation) -> anyhow::Result<()> {
        match self.incarnation {
            Some(current) => anyhow::ensure!(current == incarnation, "the life of the data changed"),
            None => {
                anyhow::ensure!(!self.past.contains(&incarnation), "a life of the data came back");
                self.past.push(incarnation);
                self.incarnation = Some(incarnation);
            }
        }
        Ok(())
    }

    async fn check(&mut self, step: &Step, store: &RedisStore, redis: &Redis) -> anyhow::Result<()> {
        match step {
            Step::Create(place) => {
                let key = self
                    .sessions
                    .get(place)
                    .map_or_else(RecordKey::random, |session| session.key);
                let limits = SessionLimits {
                    server: u32::MAX,
                    principal: u32::MAX,
                };
                let alive = self
                    .sessions
                    .get(place)
                    .is_some_and(|session| session.alive.is_some());
                // A key is random, so that one that is gone never comes again.
                let key = if alive { key } else { RecordKey::random() };
                match store.create(&key, &new_record(), limits).await? {
                    Created::Taken => anyhow::ensure!(alive, "taken by nobody"),
                    Created::Created { record, .. } => {
                        anyhow::ensure!(!alive, "overwritten");
                        self.seen(record.life.incarnation)?;
                        let session = Session {
                            key,
                            life: record.life,
                            alive: Some(Held::default()),
                            marked: false,
                        };
                        same(&record, &session, &Held::default())?;
                        self.sessions.insert(*place, session);
                    }
                    Created::Limit(of) => anyhow::bail!("{of:?}"),
                }
            }
            Step::Touch(places) => {
                let known = places.iter().filter_map(|place| self.sessions.get(place));
                let (keys, alive): (Vec<_>, Vec<_>) = known.map(|one| (one.key, one.alive.is_some())).unzip();
                let touched = store.touch(&keys).await?;
                let outcome: Vec<bool> = touched
                    .iter()
                    .map(|one| matches!(one, Touched::Alive { .. }))
                    .collect();
                anyhow::ensure!(outcome == alive, "{outcome:?} instead of {alive:?}");
            }
            Step::Lose => {
                self.incarnation = None;
                for session in self.sessions.values_mut() {
                    (session.alive, session.marked) = (None, false);
                }
                redis.command::<()>(&["FLUSHALL"])?;
            }
            Step::Load(place)
            | Step::Bind(place, ..)
            | Step::LogLevel(place, _)
            | Step::Watch(place, ..)
            | Step::Unwatch(place, _)
            | Step::Terminate(place)
            | Step::Recover(place) => {
                if let Some(mut session) = self.sessions.remove(place) {
                    let checked = self.check_session(step, &mut session, store, redis).await;
                    self.sessions.insert(*place, session);
                    checked?;
                }
            }
        }
        Ok(())
    }

    async fn check_session(
        &mut self,
        step: &Step,
        session: &mut Session,
        store: &RedisStore,
        redis: &Redis,
    ) -> anyhow::Result<()> {
        let (key, life) = (session.key, session.life);
        match step {
            Step::Bind(_, backend, right) => {
                let name = BACKENDS[*backend];
                let held = session.alive.clone().unwrap_or_default();
                let bound = held.bindings.get(name).map_or(0, |binding| binding.generation);
                let expected = if *right { bound } else { bound + 1 };
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
                let outcome = store.bind_backend(&key, name, expected, &binding).await?;
                match (outcome, session.alive.clone()) {
                    (Bound::Gone, None) => {}
                    (Bound::Bound(record), Some(mut held)) if *right => {
                        held.bindings.insert(name.to_owned(), Box::new(binding));
                        same(&record, session, &held)?;
                        session.alive = Some(held);
                    }
                    (Bound::Lost(record), Some(held)) if !*right => same(&record, session, &held)?,
                    (outcome, alive) => anyhow::bail!("{outcome:?}, and the model says {alive:?}"),
                }
            }
            Step::LogLevel(..) | Step::Watch(..) | Step::Unwatch(..) => {
                let setting = setting(step);
                match (store.set(&key, &setting).await?, session.alive.clone()) {
                    (SetOutcome::Gone, None) => {}
                    (SetOutcome::Set(record), Some(mut held)) => {
                        match setting {
                            Setting::LogLevel(level) => held.level = Some(level),
                            Setting::Subscribe { uri, backend } => drop(held.watched.insert(uri, backend)),
                            Setting::Unsubscribe { uri } => drop(held.watched.remove(&uri)),
                        }
                        same(&record, session, &held)?;
                        session.alive = Some(held);
                    }
                    (outcome, alive) => anyhow::bail!("{outcome:?}, and the model says {alive:?}"),
                }
            }
            Step::Terminate(_) => {
                let outcome = store.terminate(&key, life).await?;
                self.seen(store.incarnation().await?)?;
                let lost = self.incarnation != Some(life.incarnation) && !session.marked;
                match (outcome, session.alive.take()) {
                    (Terminated::Terminated(Some(record)), Some(held)) => {
                        same(&record, session, &held)?;
                        session.marked = true;
                    }
                    (Terminated::Terminated(None), None) if lost => session.marked = true,
                    (Terminated::Gone, None) if !lost => {}
                    (outcome, alive) => anyhow::bail!("{outcome:?}, and the model says {alive:?}"),
                }
            }
            Step::Recover(_) => {
                let mut outcome = store.recover(&key, life, &new_record()).await?;
                if let Recovered::Wait(_) = outcome {
                    // Time passes for those who know more of it.
                    let name = "{vmcp:tests/model}:incarnation";
                    let value: String = redis.command(&["GET", name])?;
                    let (incarnation, born) = value.split_once(' ').context("no time")?;
                    let earlier = born.parse::<u64>()? - 2000;
                    redis.command::<()>(&["SET", name, &format!("{incarnation} {earlier}")])?;
                    outcome = store.recover(&key, life, &new_record()).await?;
                }
                if session.alive.is_none() {
                    self.seen(store.incarnation().await?)?;
                }
                let lost = self.incarnation != Some(life.incarnation) && !session.marked;
                match (outcome, &session.alive) {
                    (Recovered::Found(record), Some(held)) => same(&record, session, &held.clone())?,
                    (Recovered::Found(record), None) if lost => {
                        same(&record, session, &Held::default())?;
                        session.alive = Some(Held::default());
                        session.marked = true;
                    }
                    (Recovered::Gone, None) if !lost => {}
                    (outcome, alive) => anyhow::bail!("{outcome:?}, and the model says {alive:?}"),
                }
            }
            Step::Load(_) | Step::Create(_) | Step::Touch(_) | Step::Lose => {}
        }
        // Whatever has happened, everybody reads the same.
        match (store.load(&key).await?, &session.alive) {
            (Loaded::Found(record), Some(held)) => same(&record, session, held),
            (Loaded::Gone, None) => Ok(()),
            (outcome, alive) => anyhow::bail!("{outcome:?} is read, and the model says {alive:?}"),
        }
    }
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
fn three_processes_and_losses_of_the_data_in_any_order_do_what_the_model_says() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let redis = Redis::start(None)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let entered = runtime.enter();
    let clients = (0..CLIENTS)
        .map(|_| {
            Ok(RedisStore::new(
                &patient(redis.address),
                &server("model"),
                Lifetimes::default(),
            )?)
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    drop(entered);
    let config = Config {
        cases: 200,
        failure_persistence: None,
        ..Config::default()
    };
    let steps = proptest::collection::vec(step(), 1..60);
    TestRunner::new(config).run(&steps, |steps| {
        let outcome = runtime.block_on(async {
            let mut model = Model::default();
            model.check(&Step::Lose, &clients[0], &redis).await?;
            for (number, (client, step)) in steps.iter().enumerate() {
                let checked = model.check(step, &clients[*client], &redis).await;
                checked.with_context(|| format!("step {number}: {step:?} of client {client}"))?;
            }
            anyhow::Ok(())
        });
        outcome.map_err(|error| TestCaseError::fail(format!("{error:#}")))
    })?;
    Ok(())
}
