//! TLS of the MCP listener, with a certificate that is renewed without a restart.
//!
//! The files are looked at again at the first handshake of each second. A pair that cannot be used, for example while a renewal has
//! written one file but not yet the other, changes nothing: the last good pair stays in use.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::certificates::{CertificatePair, PairText};

/// How long a look at the files counts.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The protocols that are offered, the preferred one first (RFC 7301).
const ALPN_HTTP2: &[u8] = b"h2";
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// What a client gets that sends plain HTTP.
const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 54\r\nconnection: close\r\n\r\nThis endpoint requires TLS: use https:// in the URL.\r\n";

/// TLS of a listener. A cheap-clone handle.
#[derive(Clone, Debug)]
pub(crate) struct ListenerTls(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pair: CertificatePair,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    text: PairText,
    config: Arc<ServerConfig>,
    checked: Instant,
    /// Why the newest files are not in use. Logged once.
    rejected: Option<String>,
}

impl ListenerTls {
    /// TLS with the certificate and the key in the files of `pair`.
    ///
    /// # Errors
    /// What is wrong with the files.
    pub(crate) fn new(pair: CertificatePair) -> Result<Self, String> {
        let text = pair.read()?;
        let config = Arc::new(server_config(&pair, &text)?);
        let current = Mutex::new(Current {
            text,
            config,
            checked: Instant::now(),
            rejected: None,
        });
        Ok(Self(Arc::new(Shared { pair, current })))
    }

    /// Performs the handshake over `stream`. Returns the connection, and whether it speaks HTTP/2.
    ///
    /// # Errors
    /// When the client gives up, speaks no TLS, or is too slow.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, bool)> {
        let handshake = async {
            let mut first = [0];
            stream.peek(&mut first).await?;
            // Every TLS connection begins with a record of type 22, every request of HTTP with a letter.
            if first[0].is_ascii_alphabetic() {
                return Err(reject_plain_http(stream).await);
            }
            let acceptor = TlsAcceptor::from(self.server_config().await);
            acceptor.accept(stream).await
        };
        let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await??;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(ALPN_HTTP2);
        Ok((stream, is_http2))
    }

    /// The configuration for the next connection.
    async fn server_config(&self) -> Arc<ServerConfig> {
        {
            let mut current = self.lock();
            if current.checked.elapsed() < RECHECK_INTERVAL {
                return Arc::clone(&current.config);
            }
            current.checked = Instant::now();
        }
        let shared = Arc::clone(&self.0);
        let read = tokio::task::spawn_blocking(move || shared.pair.read()).await;
        let read = read.unwrap_or_else(|error| Err(error.to_string()));
        let mut current = self.lock();
        let changed = match read {
            Ok(text) if text == current.text => Ok(None),
            Ok(text) => server_config(&self.0.pair, &text).map(|config| Some((text, config))),
            Err(reason) => Err(reason),
        };
        match changed {
            Ok(None) => current.rejected = None,
            Ok(Some((text, config))) => {
                tracing::info!("TLS certificate of the listener renewed");
                (current.text, current.config, current.rejected) = (text, Arc::new(config), None);
            }
            Err(reason) => {
                if current.rejected.as_ref() != Some(&reason) {
                    tracing::error!(reason, "new TLS certificate rejected; the last one stays in use");
                }
                current.rejected = Some(reason);
            }
        }
        Arc::clone(&current.config)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Current> {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn server_config(pair: &CertificatePair, text: &PairText) -> Result<ServerConfig, String> {
    let (chain, key) = pair.parse(text)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| pair.mismatch(&error))?;
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()];
    Ok(config)
}

/// Tells a client of plain HTTP what is wrong, which it would otherwise see as a broken connection.
async fn reject_plain_http(mut stream: TcpStream) -> io::Error {
    let sent = async {
        stream.write_all(PLAIN_HTTP).await?;
        stream.shutdown().await?;
        // Closing a connection with unread bytes resets it, and the client would lose the response.
        let mut rest = tokio::io::AsyncReadExt::take(&mut stream, 64 * 1024);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    match sent.await {
        Ok(_) => io::Error::new(io::ErrorKind::InvalidData, "the client speaks plain HTTP"),
        Err(error) => error,
    }
}
