//! A TCP proxy that injects network faults: delays and broken connections.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

/// How many chunks are on their way in one direction before the sender has to wait.
const ON_THE_WAY: usize = 1024;

/// The command, as it stands on the wire.
const SUBSCRIBE: &[u8] = b"\r\nSUBSCRIBE\r\n";

/// A running proxy. Its tasks end with the runtime.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Where clients connect.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    fault: Mutex<Fault>,
    /// Counts how often the connections were cut.
    cuts: watch::Sender<u64>,
}

/// A fault in the direction from the target. It applies to every later chunk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fault {
    /// The delay.
    pub late: Duration,
    /// Whether only connections are affected whose client has sent SUBSCRIBE.
    pub subscribers_only: bool,
}

impl Proxy {
    /// Starts a proxy in front of `target`.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn start(target: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let shared = Shared {
            target,
            fault: Mutex::default(),
            cuts: watch::Sender::new(0),
        };
        let proxy = Self {
            address: listener.local_addr()?,
            shared: Arc::new(shared),
        };
        let serving = Arc::clone(&proxy.shared);
        let tasks = TaskTracker::new();
        tasks.clone().spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tasks.spawn(pass(Arc::clone(&serving), client));
            }
        });
        Ok(proxy)
    }

    /// Replaces the fault.
    pub fn set(&self, fault: Fault) {
        *self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// Breaks every connection, and accepts new ones.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn pass(shared: Arc<Shared>, client: TcpStream) {
    let mut cut = shared.cuts.subscribe();
    let passing = async {
        let target = TcpStream::connect(shared.target).await?;
        client.set_nodelay(true)?;
        target.set_nodelay(true)?;
        let ((from_client, to_client), (from_target, to_target)) = (client.into_split(), target.into_split());
        let subscriber = watch::Sender::new(false);
        let subscribed = subscriber.subscribe();
        tokio::try_join!(
            forward(from_client, to_target, subscriber),
            delay(&shared, from_target, to_client, subscribed),
        )
    };
    tokio::select! {
        // Either side that breaks off ends the connection.
        outcome = passing => drop(outcome),
        changed = cut.changed() => drop(changed),
    }
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    subscriber: watch::Sender<bool>,
) -> std::io::Result<()> {
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut chunk).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        // As a separate word: scripts contain it, too.
        if chunk[..read]
            .windows(SUBSCRIBE.len())
            .any(|window| window == SUBSCRIBE)
        {
            subscriber.send_replace(true);
        }
        to.write_all(&chunk[..read]).await?;
    }
}

async fn delay(
    shared: &Shared,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    subscribed: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
    let reading = async move {
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let read = from.read(&mut chunk).await?;
            let fault = *shared.fault.lock().unwrap_or_else(PoisonError::into_inner);
            let suffers = !fault.subscribers_only || *subscribed.borrow();
            let due = Instant::now() + if suffers { fault.late } else { Duration::ZERO };
            if read == 0 || sender.send((due, chunk[..read].to_vec())).await.is_err() {
                return Ok::<_, std::io::Error>(());
            }
        }
    };
    let writing = async move {
        while let Some((due, bytes)) = receiver.recv().await {
            tokio::time::sleep_until(due).await;
            to.write_all(&bytes).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(reading, writing).map(drop)
}
