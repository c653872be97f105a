//! A hostile backend and hostile anonymous clients against a gateway with the memory of a pod and one core, while honest sessions call two other
//! backends. It checks the limits in section "What one client or backend can take" of `docs/OPERATIONS.md`.
//!
//! Everything is bounded: the number of clients, what each sends, and the time. Everything is on loopback.

mod attacker;
mod backend;
mod clients;
mod honest;
mod report;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use vmcp_crds::config::{BackendConfig, Duration as Span, HotConfig};
use vmcp_external::confined::Confined;

use crate::gateway::{Gateway, Recipe};
use crate::test_server::TestServer;
use crate::{http_client, wait};

use attacker::Attacker;
pub use attacker::attack_on_command;
pub use backend::Hostile;
pub use report::AttackReport;

/// The memory of the gateway, as the operator's default has it.
pub const MEMORY_BYTES: u64 = 512 * 1024 * 1024;
/// For how long, of the time of the attack, the honest sessions are measured before it: alone, and beside a busy neighbour.
const BASELINE_PART: u32 = 4;
/// More says no more about them.
const MAX_BASELINE: Duration = Duration::from_secs(30);
/// How long sessions without use live: so that what hostile clients have left behind ends soon afterwards.
const TTL_SECONDS: u64 = 10;
/// How long the gateway has to come to rest.
const REST_LIMIT: Duration = Duration::from_secs(60);

/// The state of all hostile threads.
#[derive(Debug, Default)]
struct Attack {
    stop: AtomicBool,
    /// How often each row was tried, and how often the gateway refused.
    tried: AtomicU64,
    refused: AtomicU64,
}

impl Attack {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Counts one request, which was answered with `status`.
    fn count(&self, status: Option<u16>) {
        self.tried.fetch_add(1, Ordering::Relaxed);
        if status.is_none_or(|status| status >= 400) {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Runs the scenario within `confined`, with an attack of `duration`.
///
/// # Errors
/// When it cannot be run. What the gateway did is in the report.
pub fn run(confined: &Confined, duration: Duration) -> anyhow::Result<AttackReport> {
    confined.move_this_process()?;
    let (first, second) = (TestServer::start(&[])?, TestServer::start(&[])?);
    let mut attacker = Attacker::start()?;
    let mut recipe = Recipe::in_memory(&[])?;
    recipe.wrapper = confined.wrapper();
    recipe.config.session_storage.ttl = Span::from_secs(TTL_SECONDS);
    let mut backends = vec![named("one", &first.url), named("two", &second.url)];
    backends.extend(backend::NAMES.map(|name| named(name, &attacker.url(name))));
    recipe.config.hot = Some(HotConfig {
        backends,
        ..HotConfig::default()
    });
    let mut gateway = recipe.start()?;
    let honest = honest::Honest::open(gateway.mcp)?;

    // The backend is quiet at first, so that the honest sessions are alone.
    let before = (duration / BASELINE_PART).min(MAX_BASELINE);
    let baseline = honest.run(before);
    let neighbour = confined.busy_neighbour()?;
    let shared = honest.run(before);
    drop(neighbour);
    let rest = Rest::of(&gateway)?;

    attacker.begin(gateway.mcp)?;
    let livez = Livez::start(gateway.admin);
    let under_attack = honest.run(duration);
    let (tried, refused) = attacker.end()?;
    let livez = livez.finish();
    let peak = gateway.peak_memory();
    let restarted = !gateway.is_running()?;
    let after = if restarted {
        None
    } else {
        Rest::wait(&gateway, &rest, &honest)
    };
    Ok(AttackReport {
        baseline,
        shared,
        under_attack,
        livez,
        peak: peak.unwrap_or(u64::MAX),
        restarted,
        before: rest,
        after,
        tried,
        refused,
    })
}

fn named(name: &str, url: &str) -> BackendConfig {
    BackendConfig {
        name: name.to_owned(),
        url: url.to_owned(),
        ..BackendConfig::default()
    }
}

/// What a gateway holds when it has no clients.
#[derive(Clone, Debug)]
pub struct Rest {
    /// Its memory.
    pub resident: u64,
    /// Gauges, by name.
    pub gauges: BTreeMap<&'static str, f64>,
}

/// What has to be as before.
const GAUGES: [&str; 4] = [
    "vmcp_streams_open",
    "vmcp_requests_in_flight",
    "vmcp_tasks",
    "vmcp_buffered_bytes",
];

impl Rest {
    fn of(gateway: &Gateway) -> anyhow::Result<Self> {
        let gauge = |name| Ok((name, gateway.metric(name, "")?));
        Ok(Self {
            resident: gateway.resident_bytes()?,
            gauges: GAUGES.into_iter().map(gauge).collect::<anyhow::Result<_>>()?,
        })
    }

    /// Whether its memory is nearly what it was `before`.
    fn holds_as_little_as(&self, before: &Self) -> bool {
        self.resident <= before.resident + report::REST_BYTES
    }

    /// Whether it is as idle as it was `before`: connections that are kept may differ.
    fn is_idle_as(&self, before: &Self) -> bool {
        let near = |name: &str, slack: f64| {
            self.gauges.get(name).copied().unwrap_or_default()
                <= before.gauges.get(name).copied().unwrap_or_default() + slack
        };
        near("vmcp_streams_open", 0.0)
            && near("vmcp_requests_in_flight", 1.0)
            && near("vmcp_tasks", 20.0)
            && near("vmcp_buffered_bytes", report::REST_BYTES as f64)
    }

    /// Waits until the gateway has come to rest; what it holds then, or at the end of the patience. The honest sessions go on meanwhile:
    /// the allocator gives back what a thread has freed while that thread works.
    fn wait(gateway: &Gateway, before: &Self, honest: &honest::Honest) -> Option<Self> {
        let rested = wait::until("the gateway comes to rest", REST_LIMIT, || {
            honest.run(Duration::from_secs(1)).without_failure()?;
            let now = Self::of(gateway)?;
            anyhow::ensure!(
                now.is_idle_as(before) && now.holds_as_little_as(before),
                "{now:?}"
            );
            Ok(now)
        });
        rested.ok().or_else(|| Self::of(gateway).ok())
    }
}

/// Asks `/livez` again and again.
struct Livez {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<Duration>>,
}

impl Livez {
    fn start(admin: std::net::SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut took = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                let well = http_client::get(admin, "/livez", &[]).is_ok_and(|answer| answer.status == 200);
                took.push(if well { began.elapsed() } else { Duration::MAX });
                std::thread::sleep(Duration::from_millis(100));
            }
            took
        });
        Self { stop, thread }
    }

    fn finish(self) -> Vec<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}
