//! Runs the rounds of the model test against a real Redis, and keeps the possible states of the model.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::future::join_all;
use tokio::task::JoinSet;
use vmcp_e2e::providers::{patient, server};
use vmcp_e2e::redis::Redis;
use vmcp_gateway::session::record::{Lifetimes, RecordKey};
use vmcp_gateway::session::store::redis::RedisStore;
use vmcp_gateway::session::store::redis::connection::RedisConnection;
use vmcp_gateway::session::store::{SessionLimit, SessionStore as _};

use crate::client::{Client, perform};
use crate::held::Held;
use crate::model::{Model, orders};
use crate::operation::{Operation, Outcome};
use crate::step::Round;
use crate::{CLIENTS, SESSIONS};

const INCARNATION: &str = "{vmcp:tests/model}:incarnation";
/// The longest wait for an expected event.
const LIMIT: Duration = Duration::from_secs(20);

/// Redis, its clients, and the possible states.
pub(crate) struct Runner {
    pub(crate) redis: Redis,
    pub(crate) clients: Vec<Client>,
    /// Every possible state of the store.
    pub(crate) models: Vec<Model>,
    /// The key of each session.
    pub(crate) keys: [RecordKey; SESSIONS],
    /// The cached sessions of the processes: their states some rounds ago.
    pub(crate) remembered: BTreeMap<RecordKey, Held>,
    pub(crate) bound: u32,
    pub(crate) kills: u32,
    /// The limits by which sessions were refused.
    pub(crate) limits: Vec<SessionLimit>,
}

impl Runner {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let redis = Redis::start(None)?;
        let storage = patient(redis.address);
        let client = |_| {
            anyhow::Ok(Client {
                store: Arc::new(RedisStore::new(&storage, &server("model"), Lifetimes::default())?),
                direct: RedisConnection::new(&storage, INCARNATION)?,
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
            limits: Vec::new(),
        })
    }

    /// Runs the rounds on fresh session keys.
    pub(crate) async fn play(&mut self, rounds: &[Round]) -> anyhow::Result<()> {
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
            if let Ok(Outcome::Limit(of)) = outcome
                && !self.limits.contains(&of)
            {
                self.limits.push(of);
            }
            done.push(match outcome {
                Err(_) if round.killed.is_some() => (operation, None),
                outcome => (operation, Some(outcome?)),
            });
        }
        // First, so that proptest can look for a smaller input after a wrong round.
        if round.killed.is_some() {
            self.start_again().await?;
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
            self.models.iter_mut().for_each(Model::lose);
        }
        self.settle()?;
        self.check_reads().await
    }

    /// Restarts Redis without data, and waits until every client has reconnected.
    async fn start_again(&mut self) -> anyhow::Result<()> {
        // The round may have ended before the kill.
        self.redis.kill()?;
        self.redis.start_again()?;
        self.kills += 1;
        let began = Instant::now();
        for client in &self.clients {
            while client.store.probe_writes().await.is_err()
                || client.direct.command::<()>(&redis::cmd("PING")).await.is_err()
            {
                anyhow::ensure!(began.elapsed() < LIMIT, "Redis is not found again");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Ok(())
    }

    /// Lets the time pass in which processes may restore a lost session.
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

    async fn check_reads(&mut self) -> anyhow::Result<()> {
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
