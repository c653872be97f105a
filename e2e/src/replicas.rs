//! Interchangeable gateways on one Redis, behind the balancer: what the stories about sessions happen to.

use std::net::SocketAddr;

use vmcp_crds::config::{SessionStorage, SessionStorageProvider};

use crate::balancer::Balancer;
use crate::fixture::Fixture;
use crate::gateway::{Gateway, Recipe};
use crate::ports;
use crate::redis::Redis;

/// Gateways, their Redis and their backend. All end when this value is dropped.
#[derive(Debug)]
pub struct Replicas {
    /// The backend, by the name `fixture`.
    pub fixture: Fixture,
    /// Where the sessions are.
    pub redis: Redis,
    /// How the gateways are started.
    pub recipe: Recipe,
    /// The gateways.
    pub gateways: Vec<Gateway>,
    /// In front of them; it changes the gateway with every request.
    pub balancer: Balancer,
}

impl Replicas {
    /// Starts `replicas` gateways in front of one fixture.
    ///
    /// # Errors
    /// When one of the programs does not start.
    pub async fn start(replicas: usize) -> anyhow::Result<Self> {
        Self::start_with(replicas, |_| {}).await
    }

    /// Starts `replicas` gateways whose recipe `change` has changed.
    ///
    /// # Errors
    /// When one of the programs does not start.
    pub async fn start_with(replicas: usize, change: impl FnOnce(&mut Recipe)) -> anyhow::Result<Self> {
        Self::start_on(Redis::start(None)?, replicas, change).await
    }

    /// Starts `replicas` gateways whose recipe `change` has changed, with their sessions in `redis`.
    ///
    /// # Errors
    /// When one of the programs does not start.
    pub async fn start_on(
        redis: Redis,
        replicas: usize,
        change: impl FnOnce(&mut Recipe),
    ) -> anyhow::Result<Self> {
        let fixture = Fixture::start(&[])?;
        let mut recipe = Recipe::new(&[("fixture", &fixture.url)])?;
        recipe.config.session_storage = SessionStorage {
            provider: SessionStorageProvider::Redis,
            address: Some(redis.address.to_string()),
            ..SessionStorage::default()
        };
        change(&mut recipe);
        let gateways: Vec<Gateway> = (0..replicas)
            .map(|_| recipe.start())
            .collect::<anyhow::Result<_>>()?;
        let balancer = Balancer::start(&addresses(&gateways)).await?;
        Ok(Self {
            fixture,
            redis,
            recipe,
            gateways,
            balancer,
        })
    }

    /// Where clients connect: behind the balancer.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.balancer.address
    }

    /// The MCP endpoints of the gateways.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        addresses(&self.gateways)
    }

    /// Kills every gateway, without a goodbye.
    ///
    /// # Errors
    /// When one cannot be killed.
    pub fn kill_all(&mut self) -> anyhow::Result<()> {
        self.gateways.iter_mut().try_for_each(Gateway::kill)
    }

    /// Starts as many gateways as there were, at addresses of their own, and sends the balancer's requests to them.
    ///
    /// # Errors
    /// When one does not start.
    pub fn start_all_anew(&mut self) -> anyhow::Result<()> {
        let fresh = self
            .gateways
            .iter()
            .map(|_| self.recipe.start_unready(ports::free()?));
        let mut fresh: Vec<Gateway> = fresh.collect::<anyhow::Result<_>>()?;
        fresh.iter_mut().try_for_each(Gateway::wait_until_ready)?;
        self.gateways = fresh;
        self.balancer.set_replicas(&self.addresses());
        Ok(())
    }
}

fn addresses(gateways: &[Gateway]) -> Vec<SocketAddr> {
    gateways.iter().map(|gateway| gateway.mcp).collect()
}
