//! Third-party servers and the test server behind one gateway, to compare their responses with and without it.

pub mod scripted_client;
pub mod story;

use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, ScopedJoinHandle};
use std::{fs, iter};

use anyhow::{Context as _, anyhow, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use vmcp_external::server::{self, Server};

use crate::gateway::{Gateway, Recipe};
use crate::http_client::{self, Session};
use crate::test_server::TestServer;
use story::Request;

/// The methods that list something, the field with the name of an item, and whether it has a prefix at the gateway.
pub const LISTS: [(&str, &str, bool); 4] = [
    ("tools/list", "name", true),
    ("prompts/list", "name", true),
    ("resources/list", "uri", false),
    ("resources/templates/list", "uriTemplate", false),
];

/// The servers, and the gateway in front of them.
#[derive(Debug)]
pub struct ThirdPartyServers {
    /// The gateway, which puts the name of its backend before each name of a tool or prompt.
    pub gateway: Gateway,
    /// How the gateway was started.
    pub recipe: Recipe,
    /// The servers, in the gateway's order.
    pub backends: Vec<Backend>,
    /// The folder that the filesystem server gives access to; the memory server's file stands beside it.
    directory: TempDir,
    turn: Mutex<()>,
    _servers: Vec<Server>,
    _test_server: TestServer,
}

/// A server behind the gateway.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Its name at the gateway.
    pub name: &'static str,
    /// Its endpoint.
    pub url: String,
    /// The address of that.
    pub address: SocketAddr,
}

/// The requests of a client in one session.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// The endpoint.
    pub url: String,
    /// What it asks there, one after the other: method and params.
    pub requests: Vec<(&'static str, Value)>,
}

impl ThirdPartyServers {
    /// The servers that the tests of this process share; they end with the last test that uses them.
    ///
    /// # Errors
    /// When a server or the gateway cannot be started.
    pub fn shared() -> anyhow::Result<Arc<Self>> {
        static SHARED: Mutex<Weak<ThirdPartyServers>> = Mutex::new(Weak::new());
        let mut shared = locked(&SHARED);
        if let Some(servers) = shared.upgrade() {
            return Ok(servers);
        }
        let servers = Arc::new(Self::start()?);
        *shared = Arc::downgrade(&servers);
        Ok(servers)
    }

    fn start() -> anyhow::Result<Self> {
        let directory = TempDir::new()?;
        let (files, memory) = (files_in(directory.path()), memory_in(directory.path()));
        reset(directory.path())?;
        fs::write(files.join(story::STILL), "Nobody writes here\n")?;
        // At the same time, because the slowest one takes seconds.
        let (servers, test_server) = thread::scope(|scope| {
            let servers = [
                scope.spawn(server::everything),
                scope.spawn(|| server::filesystem(&files)),
                scope.spawn(|| server::memory(&memory)),
                scope.spawn(server::time),
                scope.spawn(server::sessionless),
            ];
            let test_server = scope.spawn(|| TestServer::start(&["--page-size", "3"]));
            let servers = servers
                .into_iter()
                .map(joined)
                .collect::<anyhow::Result<Vec<_>>>()?;
            anyhow::Ok((servers, joined(test_server)?))
        })?;
        let names = [
            "everything",
            "filesystem",
            "memory",
            "time",
            "sessionless",
            "fixture",
        ];
        let urls = servers.iter().map(|server| &server.url).chain([&test_server.url]);
        let backends = names
            .into_iter()
            .zip(urls)
            .map(|(name, url)| Backend::new(name, url))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let named: Vec<_> = backends
            .iter()
            .map(|backend| (backend.name, backend.url.as_str()))
            .collect();
        let recipe = Recipe::new(&named)?;
        Ok(Self {
            gateway: recipe.start()?,
            recipe,
            backends,
            directory,
            turn: Mutex::default(),
            _servers: servers,
            _test_server: test_server,
        })
    }

    /// The folder that the filesystem server gives access to.
    #[must_use]
    pub fn files(&self) -> String {
        files_in(self.directory.path()).display().to_string()
    }

    /// The endpoint of the gateway.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.gateway.mcp)
    }

    /// Lets a client list everything at each server and at the gateway. There it has to find what the servers list, in the order of the names,
    /// the same but for the prefix. `ask` gives `{"result": [...]}` or `{"error": ...}` for each list; a server without it gives an error.
    ///
    /// # Errors
    /// When lists differ, or are not given.
    pub fn compare_lists(
        &self,
        ask: impl Fn(&[Conversation]) -> anyhow::Result<Vec<Value>>,
    ) -> anyhow::Result<()> {
        let lists = |url: String| Conversation {
            url,
            requests: LISTS.map(|(method, ..)| (method, json!({}))).into(),
        };
        let direct: Vec<_> = self
            .backends
            .iter()
            .map(|backend| lists(backend.url.clone()))
            .collect();
        let direct = ask(&direct).context("asked directly")?;
        let through = ask(&[lists(self.url())]).context("asked through the gateway")?;
        ensure!(direct.len() == self.backends.len() * LISTS.len() && through.len() == LISTS.len());
        for (index, (method, key, prefixed)) in LISTS.into_iter().enumerate() {
            let mut expected = Vec::new();
            for (backend, answers) in iter::zip(&self.backends, direct.chunks(LISTS.len())) {
                for item in answers[index]["result"].as_array().into_iter().flatten() {
                    let mut item = item.clone();
                    let mut name = item[key].as_str().context("an item without a name")?.to_owned();
                    if prefixed {
                        name = format!("{}_{name}", backend.name);
                        item[key] = json!(name);
                    }
                    expected.push((name, item));
                }
            }
            ensure!(!expected.is_empty(), "{method}: nobody lists anything");
            expected.sort_by(|one, other| one.0.cmp(&other.0));
            let listed = through[index]["result"]
                .as_array()
                .with_context(|| format!("{}", through[index]))?;
            ensure!(listed.len() == expected.len(), "{method}: {listed:?}");
            for (listed, (name, expected)) in iter::zip(listed, &expected) {
                ensure!(
                    listed == expected,
                    "{method}: {name} is listed as\n{listed}\nand not as\n{expected}"
                );
            }
        }
        Ok(())
    }

    /// Asks the servers directly, each in a session of its own, and then the gateway in one session, and compares the answers one by one.
    /// What the servers keep is the same each time it begins. `ask` gives one answer for each request, in their order.
    ///
    /// # Errors
    /// When answers differ, or are not given.
    pub fn compare<A: PartialEq + Debug>(
        &self,
        requests: &[Request],
        ask: impl Fn(&[Conversation]) -> anyhow::Result<Vec<A>>,
    ) -> anyhow::Result<()> {
        let _turn = locked(&self.turn);
        let in_order: Vec<_> = self
            .backends
            .iter()
            .flat_map(|backend| requests.iter().filter(|request| request.backend == backend.name))
            .collect();
        ensure!(
            in_order.len() == requests.len(),
            "a request is for nobody: {requests:?}"
        );
        let direct = self.backends.iter().map(|backend| {
            let requests = requests.iter().filter(|request| request.backend == backend.name);
            Conversation {
                url: backend.url.clone(),
                requests: requests
                    .map(|request| (request.method, request.params.clone()))
                    .collect(),
            }
        });
        let through = in_order.iter().map(|request| (request.method, request.renamed()));
        let through = Conversation {
            url: self.url(),
            requests: through.collect(),
        };
        reset(self.directory.path())?;
        let direct = ask(&direct.collect::<Vec<_>>()).context("asked directly")?;
        reset(self.directory.path())?;
        let through = ask(&[through]).context("asked through the gateway")?;
        ensure!(
            direct.len() == requests.len() && through.len() == requests.len(),
            "{} requests have {} answers directly and {} through the gateway",
            requests.len(),
            direct.len(),
            through.len()
        );
        for ((request, direct), through) in iter::zip(in_order, direct).zip(through) {
            ensure!(
                direct == through,
                "{request:?} is answered directly with\n{direct:?}\nand through the gateway with\n{through:?}"
            );
        }
        Ok(())
    }
}

impl Backend {
    fn new(name: &'static str, url: &str) -> anyhow::Result<Self> {
        let address = url.trim_start_matches("http://").trim_end_matches("/mcp");
        Ok(Self {
            name,
            url: url.to_owned(),
            address: address.parse().with_context(|| url.to_owned())?,
        })
    }
}

/// Opens a session of a client that declares all that the gateway declares when it looks: some servers list tools only to clients that could
/// answer what those tools ask.
///
/// # Errors
/// When the server refuses.
pub fn session(server: SocketAddr) -> anyhow::Result<Session> {
    let capabilities = json!({"roots": {}, "sampling": {}, "elicitation": {"form": {}, "url": {}}});
    let answer = http_client::initialize_with(server, "2025-11-25", &capabilities)?;
    ensure!(answer.status == 200, "{answer:?}");
    // A server without sessions gives no id, and ignores what stands in its place.
    let session = Session {
        id: answer.header("mcp-session-id").unwrap_or_default().to_owned(),
    };
    let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let accepted = session.post(server, &initialized)?;
    ensure!(accepted.status == 202, "notifications/initialized: {accepted:?}");
    Ok(session)
}

fn joined<T>(thread: ScopedJoinHandle<'_, anyhow::Result<T>>) -> anyhow::Result<T> {
    thread.join().map_err(|_| anyhow!("a thread has panicked"))?
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn files_in(directory: &Path) -> std::path::PathBuf {
    directory.join("files")
}

fn memory_in(directory: &Path) -> std::path::PathBuf {
    directory.join("memory.jsonl")
}

/// Resets the state of the servers.
fn reset(directory: &Path) -> anyhow::Result<()> {
    let work = files_in(directory).join(story::WORK);
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    fs::create_dir_all(&work)?;
    fs::write(work.join("a.txt"), "one\ntwo\nthree\n")?;
    fs::write(work.join("b.txt"), "ümläut \u{1F600}\n")?;
    fs::write(work.join("c.png"), [0x89, b'P', b'N', b'G', 0, 1, 2, 255])?;
    fs::write(memory_in(directory), "")?;
    Ok(())
}
