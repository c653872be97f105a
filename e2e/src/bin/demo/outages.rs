//! Shows that conversations go on while replicas, Redis and a stateful backend fail one after the other.
//!
//! Every session calls its counter, and each count is checked: a count that repeats or skips an answered call is a failure, and so is every
//! error. The balancer never repeats a request. A call that runs in a killed replica gets no response, as with any server: it is counted as
//! *cut*, the client sends it again, and its count may then be one higher.

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::Session;
use vmcp_e2e::load::{Load, Turn};
use vmcp_e2e::redis::Redis;
use vmcp_external::step;

const REPLICAS: usize = 3;
const SESSIONS: usize = 12;
/// How often each session calls.
const EVERY: Duration = Duration::from_millis(100);
/// How long a client whose call was cut waits before it sends it again, and for how long it tries.
const PAUSE: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the current line is rewritten.
const LIVE: Duration = Duration::from_millis(200);

/// The results of the calls, in phases.
#[derive(Debug, Default)]
struct Book {
    rows: Mutex<Vec<Row>>,
    /// Whether replicas are being killed, so that calls may be cut.
    killing: AtomicBool,
    /// How often the backend has lost its sessions; their counters begin again then.
    forgotten: AtomicU64,
}

/// One line of the table.
#[derive(Clone, Debug, Default)]
struct Row {
    what: &'static str,
    cut: u64,
    failed: u64,
    lost: u64,
    took: Vec<Duration>,
    why: Option<String>,
}

/// One session and the expected next count.
struct Conversation {
    gateway: SocketAddr,
    session: Session,
    lowest: u64,
    highest: u64,
    forgotten: u64,
}

/// The outcome of one attempt of a call.
enum Sent {
    Answered(u64),
    /// There was no response, because the gateway was killed.
    Cut(String),
    Lost,
}

pub(crate) fn show(seconds: u64) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let mut harness = step("start three gateways, Redis, a backend and a balancer", || {
        runtime.block_on(Harness::replicated(REPLICAS))
    })?;
    let gateway = harness.address();
    let sessions: Vec<Session> = (0..SESSIONS)
        .map(|_| Session::open(gateway))
        .collect::<anyhow::Result<_>>()?;
    println!(
        "\n{SESSIONS} sessions call the counter of a stateful backend, {} times a second together, each request on the next of \
         {REPLICAS} replicas.\nA call that was under way in a replica when it was killed is cut, and sent again.\n",
        SESSIONS as u128 * 1000 / EVERY.as_millis()
    );
    let book = Arc::new(Book::default());
    book.begin("nothing yet");
    println!("{}", Row::HEAD);
    let load = Load::start(SESSIONS, EVERY, |worker| {
        let (book, mut conversation) = (
            Arc::clone(&book),
            Conversation::new(gateway, sessions[worker].clone()),
        );
        Box::new(move |_| {
            conversation.turn(&book);
            Ok(())
        }) as Turn
    });
    let phase = Duration::from_secs(seconds);
    book.watch(phase);
    book.go_on("one replica (SIGKILL)", phase, || {
        one_replica(&mut harness, &book, phase)
    })?;
    book.go_on("all replicas (SIGKILL)", phase, || {
        book.while_killing(|| {
            harness.kill_gateways()?;
            harness.replace_gateways()
        })
    })?;
    book.go_on("the backend's memory", phase, || {
        book.forgotten.fetch_add(1, Ordering::SeqCst);
        harness.server().admin(
            "POST",
            "/sessions/forget?style=404&between_calls=true",
            &json!({}),
        )
    })?;
    book.go_on("Redis, stopped for a while (SIGSTOP)", phase, || {
        harness.redis.pause()?;
        book.watch(phase);
        harness.redis.resume()
    })?;
    book.go_on("Redis (SIGKILL), back empty", phase, || {
        harness.redis.kill()?;
        book.watch(phase);
        harness.redis.start_again()
    })?;
    drop(load.finish());
    book.end();
    let ended = sessions.iter().filter(|session| {
        let answer = session.delete(gateway);
        answer.is_ok_and(|answer| answer.status == 200)
    });
    let ended = ended.count();
    let total = book.total();
    println!("{total}\n\n{ended} of {SESSIONS} sessions were there until their clients ended them.");
    if let Some(why) = &total.why {
        println!("The first failure: {why}");
    }
    ensure!(
        total.failed == 0 && total.lost == 0 && ended == SESSIONS,
        "calls failed, or sessions were lost"
    );
    Ok(())
}

/// Kills a replica, goes on without it for a while, and starts another in its place.
fn one_replica(harness: &mut Harness<Redis>, book: &Book, phase: Duration) -> anyhow::Result<()> {
    let left: Vec<_> = harness.addresses().split_off(1);
    book.while_killing(|| {
        harness.gateways[0].kill()?;
        harness.balancer()?.set_replicas(&left);
        Ok(())
    })?;
    book.watch(phase);
    harness.gateways[0] = harness.recipe.start()?;
    harness.balancer()?.set_replicas(&harness.addresses());
    Ok(())
}

impl Conversation {
    fn new(gateway: SocketAddr, session: Session) -> Self {
        Self {
            gateway,
            session,
            lowest: 1,
            highest: 1,
            forgotten: 0,
        }
    }

    /// One call, with a retry each time it is cut.
    fn turn(&mut self, book: &Book) {
        let began = Instant::now();
        let mut may_be_cut = book.killing.load(Ordering::SeqCst);
        loop {
            let sent = self.send();
            may_be_cut |= book.killing.load(Ordering::SeqCst);
            match sent {
                Ok(Sent::Answered(count)) => match self.check(count, book) {
                    Ok(()) => return book.note(|row| row.took.push(began.elapsed())),
                    Err(error) => return book.fail(&error),
                },
                Ok(Sent::Cut(_)) if may_be_cut && began.elapsed() < PATIENCE => {
                    self.highest += 1;
                    book.note(|row| row.cut += 1);
                    std::thread::sleep(PAUSE);
                }
                Ok(Sent::Cut(why)) => return book.fail(&anyhow::anyhow!("no answer: {why}")),
                Ok(Sent::Lost) => return book.note(|row| row.lost += 1),
                Err(error) => {
                    self.highest += 1;
                    return book.fail(&error);
                }
            }
        }
    }

    fn send(&self) -> anyhow::Result<Sent> {
        let answer = match self.session.call(self.gateway, "fixture_counter", &json!({})) {
            Ok(answer) => answer,
            Err(error) => return Ok(Sent::Cut(format!("{error:#}"))),
        };
        match answer.status {
            200 => Ok(Sent::Answered(answer.tool_text()?.parse()?)),
            // The balancer's response if a replica did not respond.
            502 => Ok(Sent::Cut("status 502".to_owned())),
            404 => Ok(Sent::Lost),
            status => anyhow::bail!("status {status}: {}", answer.text()),
        }
    }

    fn check(&mut self, count: u64, book: &Book) -> anyhow::Result<()> {
        let expected = self.lowest..=self.highest;
        let forgotten = book.forgotten.load(Ordering::SeqCst);
        let begins_again = count == 1 && forgotten > self.forgotten;
        if begins_again {
            self.forgotten = forgotten;
        }
        (self.lowest, self.highest) = (count + 1, count + 1);
        ensure!(
            begins_again || expected.contains(&count),
            "the counter says {count}, and not {expected:?}"
        );
        Ok(())
    }
}

impl Book {
    fn rows(&self) -> MutexGuard<'_, Vec<Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, what: &'static str) {
        let row = Row {
            what,
            ..Row::default()
        };
        self.rows().push(row);
    }

    /// Begins a new line, does `what`, and watches the calls for a while.
    fn go_on(
        &self,
        what: &'static str,
        phase: Duration,
        act: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.end();
        self.begin(what);
        act().context(what)?;
        self.watch(phase);
        Ok(())
    }

    fn while_killing(&self, kill: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
        self.killing.store(true, Ordering::SeqCst);
        let killed = kill();
        // Earlier requests of the balancer have ended.
        self.watch(Duration::from_secs(1));
        self.killing.store(false, Ordering::SeqCst);
        killed
    }

    /// Lets the conversation go on, and rewrites its line on a terminal.
    fn watch(&self, phase: Duration) {
        let began = Instant::now();
        while began.elapsed() < phase {
            std::thread::sleep(LIVE.min(phase));
            if std::io::stdout().is_terminal() {
                let row = self.rows().last().cloned().unwrap_or_default();
                print!("\r{row}");
                // An interrupted write is repeated with the next line.
                drop(std::io::stdout().flush());
            }
        }
    }

    fn end(&self) {
        let row = self.rows().last().cloned().unwrap_or_default();
        let again = if std::io::stdout().is_terminal() { "\r" } else { "" };
        println!("{again}{row}");
    }

    fn note(&self, note: impl FnOnce(&mut Row)) {
        if let Some(row) = self.rows().last_mut() {
            note(row);
        }
    }

    fn fail(&self, error: &anyhow::Error) {
        self.note(|row| {
            row.failed += 1;
            row.why.get_or_insert_with(|| format!("{}: {error:#}", row.what));
        });
    }

    fn total(&self) -> Row {
        let mut total = Row {
            what: "together",
            ..Row::default()
        };
        for row in &*self.rows() {
            total.cut += row.cut;
            total.failed += row.failed;
            total.lost += row.lost;
            total.took.extend(&row.took);
            total.why = total.why.or_else(|| row.why.clone());
        }
        total
    }
}

impl Row {
    const HEAD: &str =
        "killed                                  calls    cut  failed  sessions lost       p50       p99";

    fn percentile(&self, percent: usize) -> f64 {
        let mut took = self.took.clone();
        took.sort_unstable();
        let index = (took.len() * percent / 100).min(took.len().saturating_sub(1));
        took.get(index).copied().unwrap_or_default().as_secs_f64() * 1000.0
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:38} {:>6} {:>6} {:>7} {:>14} {:>6.1} ms {:>6.0} ms",
            self.what,
            self.took.len() as u64 + self.failed + self.lost,
            self.cut,
            self.failed,
            self.lost,
            self.percentile(50),
            self.percentile(99)
        )
    }
}
