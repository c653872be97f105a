//! The attack, in a process of its own: the hostile backend and the hostile clients.
//!
//! The process runs only when no other one wants its core, so that the figures do not say how much of their own core it took from the
//! honest sessions. As threads of their process the attackers would share locks with them (of the allocator, of the address space), and a
//! thread that gives way keeps such a lock for many milliseconds.
//!
//! Both processes speak in lines over a connection: the attacker first sends the address of its backend; `attack ADDRESS` starts the clients
//! and makes the backend hostile; `end` ends both, and is answered with the number of requests and of those that were refused.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use vmcp_external::confined;
use vmcp_external::process::Process;

use super::backend::Hostile;
use super::{Attack, clients};
use crate::{binaries, wait};

/// How long the process has to start, and how long the attack may take to end.
const LIMIT: Duration = Duration::from_secs(30);

/// The running process. It is killed when this value is dropped.
#[derive(Debug)]
pub(super) struct Attacker {
    control: BufReader<TcpStream>,
    backend: SocketAddr,
    _process: Process,
}

impl Attacker {
    /// Starts the process; the attack begins later.
    pub(super) fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut command = confined::idle_command(&binaries::path("hostile")?);
        command.args(["--control", &listener.local_addr()?.to_string()]);
        let mut process = Process::start("attacker", &command)?;
        listener.set_nonblocking(true)?;
        let accepted = wait::until("the attacker starts", LIMIT, || Ok(listener.accept()?));
        let (control, _) = accepted.with_context(|| process.last_words())?;
        control.set_nonblocking(false)?;
        control.set_read_timeout(Some(LIMIT))?;
        let mut control = BufReader::new(control);
        let backend = read_line(&mut control)?
            .parse()
            .context("the backend's address")?;
        Ok(Self {
            control,
            backend,
            _process: process,
        })
    }

    /// The URL of the endpoint `name` of the hostile backend.
    pub(super) fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.backend)
    }

    /// Begins the attack on `gateway`.
    pub(super) fn begin(&mut self, gateway: SocketAddr) -> anyhow::Result<()> {
        writeln!(self.control.get_mut(), "attack {gateway}").context("the attacker has ended")
    }

    /// Ends the attack. Returns how many requests there were, and how many of them were refused.
    pub(super) fn end(&mut self) -> anyhow::Result<(u64, u64)> {
        writeln!(self.control.get_mut(), "end").context("the attacker has ended")?;
        let counts = read_line(&mut self.control)?;
        let (tried, refused) = counts.split_once(' ').context("two numbers")?;
        Ok((tried.parse()?, refused.parse()?))
    }
}

/// The main function of the process: serves the backend, and does what comes over the connection to `control`.
///
/// # Errors
/// When it cannot listen or connect.
pub fn attack_on_command(control: SocketAddr) -> anyhow::Result<()> {
    let backend = Hostile::start()?;
    let control = TcpStream::connect(control).context("cannot connect to the scenario")?;
    let mut control = BufReader::new(control);
    writeln!(control.get_mut(), "{}", backend.address())?;
    let gateway = read_line(&mut control)?;
    let gateway = gateway.strip_prefix("attack ").context("no attack")?.parse()?;
    backend.set_hostile(true);
    let attack = Arc::new(Attack::default());
    let threads = clients::start(gateway, &attack);
    // Also when the scenario has ended.
    drop(read_line(&mut control));
    attack.stop.store(true, Ordering::Relaxed);
    backend.set_hostile(false);
    for thread in threads {
        thread.join().ok().context("a hostile client panicked")?;
    }
    let count = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    let (tried, refused) = (count(&attack.tried), count(&attack.refused));
    writeln!(control.get_mut(), "{tried} {refused}")?;
    // The backend goes on until the scenario ends.
    drop(read_line(&mut control));
    Ok(())
}

fn read_line(from: &mut BufReader<TcpStream>) -> anyhow::Result<String> {
    let mut line = String::new();
    anyhow::ensure!(from.read_line(&mut line)? > 0, "the connection has ended");
    Ok(line.trim().to_owned())
}
