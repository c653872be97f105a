//! A TCP proxy that records what clients send.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// A running proxy. Its threads end with the connections and with the process.
#[derive(Clone, Debug)]
pub struct Recorder {
    /// Where clients connect.
    pub address: SocketAddr,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Recorder {
    /// Starts a proxy in front of `upstream`.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn start(upstream: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let recorder = Self {
            address: listener.local_addr()?,
            said: Arc::default(),
        };
        let said = Arc::clone(&recorder.said);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A connection that cannot be passed on is closed, which the client sees.
                drop(pass(client, upstream, &said));
            }
        });
        Ok(recorder)
    }

    /// Everything that clients have sent so far, on all connections, as text.
    #[must_use]
    pub fn said(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&said).into_owned()
    }
}

fn pass(client: TcpStream, upstream: SocketAddr, said: &Arc<Mutex<Vec<u8>>>) -> std::io::Result<()> {
    let server = TcpStream::connect(upstream)?;
    let (back, forth) = ((server.try_clone()?, client.try_clone()?), (client, server));
    let said = Arc::clone(said);
    thread::spawn(move || {
        let see = |bytes: &[u8]| said.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
        copy(forth.0, forth.1, see);
    });
    thread::spawn(move || copy(back.0, back.1, |_| {}));
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream, mut see: impl FnMut(&[u8])) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        see(&buffer[..read]);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    // The other direction may have closed it already.
    drop(to.shutdown(Shutdown::Both));
}
