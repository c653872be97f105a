//! The processes of a test: MCP servers, gateways in front of them, and the Redis that the gateways share.

use std::net::SocketAddr;

use anyhow::Context as _;

use crate::balancer::Balancer;
use crate::gateway::{Gateway, Recipe};
use crate::ports;
use crate::redis::Redis;
use crate::test_server::TestServer;

/// Gateways, their backends, and their session store, which is in `redis` or in memory. All processes end when this value is dropped.
///
/// ```no_run
/// use vmcp_e2e::harness::Harness;
/// use vmcp_e2e::redis::Redis;
///
/// # fn main() -> anyhow::Result<()> {
/// let mut harness = Harness::builder()
///     .test_server("fixture", &["--json-response"])
///     .redis(Redis::start(None)?)
///     .configure(|recipe| recipe.config.session_storage.ttl = vmcp_crds::config::Duration::from_secs(2))
///     .replicas(2)
///     .start()?;
/// harness.redis.kill()?;
/// harness.gateways[0].kill()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Harness<R = ()> {
    /// The gateways.
    pub gateways: Vec<Gateway>,
    /// How the gateways are started.
    pub recipe: Recipe,
    /// The session store of the gateways; `()` if each gateway has its sessions in memory.
    pub redis: R,
    /// The test servers, in the order in which the builder named them.
    pub servers: Vec<TestServer>,
    balancer: Option<Balancer>,
}

impl Harness {
    /// Begins a harness of one gateway without backends, with its sessions in memory.
    pub fn builder<'a>() -> Builder<'a> {
        Builder {
            backends: Vec::new(),
            redis: (),
            storage: None,
            changes: Vec::new(),
            replicas: 1,
            has_session_keys: true,
        }
    }
}

impl Harness<Redis> {
    /// Starts the test server as the backend `fixture`, Redis, `replicas` gateways, and a balancer.
    ///
    /// # Errors
    /// If a program does not start.
    pub async fn replicated(replicas: usize) -> anyhow::Result<Self> {
        let builder = Harness::builder().test_server("fixture", &[]);
        let builder = builder.redis(Redis::start(None)?).replicas(replicas);
        builder.start_balanced().await
    }
}

impl<R> Harness<R> {
    /// The first gateway.
    #[must_use]
    pub fn gateway(&self) -> &Gateway {
        &self.gateways[0]
    }

    /// The first test server.
    #[must_use]
    pub fn server(&self) -> &TestServer {
        &self.servers[0]
    }

    /// The MCP endpoint of the balancer, or of the first gateway where there is no balancer.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.balancer
            .as_ref()
            .map_or_else(|| self.gateway().mcp, |balancer| balancer.address)
    }

    /// The MCP endpoints of the gateways.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.gateways.iter().map(|gateway| gateway.mcp).collect()
    }

    /// The balancer in front of the gateways.
    ///
    /// # Errors
    /// If the harness was started without one.
    pub fn balancer(&self) -> anyhow::Result<&Balancer> {
        self.balancer.as_ref().context("this harness has no balancer")
    }

    /// All gateways, to give each a name: `let [one, two] = harness.all()?`.
    ///
    /// # Errors
    /// If there are not `N` gateways.
    pub fn all<const N: usize>(&self) -> anyhow::Result<&[Gateway; N]> {
        let count = self.gateways.len();
        let gateways = self.gateways.as_slice().try_into();
        gateways.map_err(|_| anyhow::anyhow!("there are {count} gateways, not {N}"))
    }

    /// Moves the gateways out of the harness, into variables of their own.
    ///
    /// # Errors
    /// If there are not `N` gateways.
    pub fn take_gateways<const N: usize>(&mut self) -> anyhow::Result<[Gateway; N]> {
        let gateways = std::mem::take(&mut self.gateways);
        let count = gateways.len();
        gateways
            .try_into()
            .map_err(|_| anyhow::anyhow!("there are {count} gateways, not {N}"))
    }

    /// Kills every gateway.
    ///
    /// # Errors
    /// If one cannot be killed.
    pub fn kill_gateways(&mut self) -> anyhow::Result<()> {
        self.gateways.iter_mut().try_for_each(Gateway::kill)
    }

    /// Replaces every gateway with a new one at another address. The balancer sends requests to the new ones.
    ///
    /// # Errors
    /// If one does not become ready.
    pub fn replace_gateways(&mut self) -> anyhow::Result<()> {
        let fresh = self
            .gateways
            .iter()
            .map(|_| self.recipe.start_unready(ports::free()?));
        let mut fresh: Vec<Gateway> = fresh.collect::<anyhow::Result<_>>()?;
        fresh.iter_mut().try_for_each(Gateway::wait_until_ready)?;
        self.gateways = fresh;
        if let Some(balancer) = &self.balancer {
            balancer.set_replicas(&self.addresses());
        }
        Ok(())
    }
}

/// What a [`Harness`] consists of.
#[must_use]
pub struct Builder<'a, R = ()> {
    backends: Vec<(String, Backend)>,
    redis: R,
    /// The address and the password of Redis.
    storage: Option<(SocketAddr, Option<String>)>,
    changes: Vec<Change<'a>>,
    replicas: usize,
    has_session_keys: bool,
}

/// A change of how the gateways are started.
type Change<'a> = Box<dyn FnOnce(&mut Recipe) + 'a>;

/// A server behind the gateways.
enum Backend {
    /// A test server with these arguments.
    TestServer(Vec<String>),
    /// A server that the test started.
    Url(String),
}

impl<'a, R> Builder<'a, R> {
    /// Adds a test server with these arguments, as the backend `name`.
    pub fn test_server(mut self, name: &str, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        self.backends
            .push((name.to_owned(), Backend::TestServer(arguments)));
        self
    }

    /// Adds the server at `url`, as the backend `name`.
    pub fn backend(mut self, name: &str, url: &str) -> Self {
        self.backends
            .push((name.to_owned(), Backend::Url(url.to_owned())));
        self
    }

    /// Shares `redis` among the gateways, as their session store.
    pub fn redis(self, redis: Redis) -> Builder<'a, Redis> {
        Builder {
            backends: self.backends,
            storage: Some((redis.address, redis.password().map(str::to_owned))),
            redis,
            changes: self.changes,
            replicas: self.replicas,
            has_session_keys: self.has_session_keys,
        }
    }

    /// Changes how the gateways are started, after everything else that the builder says.
    pub fn configure(mut self, change: impl FnOnce(&mut Recipe) + 'a) -> Self {
        self.changes.push(Box::new(change));
        self
    }

    /// The number of gateways, which is one by default.
    pub fn replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self
    }

    /// Gives the gateways no session key in their configuration: the least that a user writes.
    pub fn without_session_keys(mut self) -> Self {
        self.has_session_keys = false;
        self
    }

    /// Starts the test servers and the gateways, and waits until they are ready.
    ///
    /// # Errors
    /// If a program does not start.
    pub fn start(self) -> anyhow::Result<Harness<R>> {
        let (mut servers, mut backends) = (Vec::new(), Vec::new());
        for (name, backend) in self.backends {
            let url = match backend {
                Backend::Url(url) => url,
                Backend::TestServer(arguments) => {
                    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                    let server = TestServer::start(&arguments)?;
                    let url = server.url.clone();
                    servers.push(server);
                    url
                }
            };
            backends.push((name, url));
        }
        let backends: Vec<(&str, &str)> = backends.iter().map(|(name, url)| (&**name, &**url)).collect();
        let mut recipe = if self.has_session_keys {
            Recipe::new(&backends)?
        } else {
            Recipe::in_memory(&backends)?
        };
        if let Some((address, password)) = self.storage {
            recipe.use_redis(address);
            recipe.password = password;
        }
        for change in self.changes {
            change(&mut recipe);
        }
        let gateways = (0..self.replicas).map(|_| recipe.start());
        Ok(Harness {
            gateways: gateways.collect::<anyhow::Result<_>>()?,
            recipe,
            redis: self.redis,
            servers,
            balancer: None,
        })
    }

    /// Starts the test servers, the gateways, and a balancer that changes the gateway with every request.
    ///
    /// # Errors
    /// If a program does not start.
    pub async fn start_balanced(self) -> anyhow::Result<Harness<R>> {
        let mut harness = self.start()?;
        harness.balancer = Some(Balancer::start(&harness.addresses()).await?);
        Ok(harness)
    }
}
