//! TLS of the MCP listener, with a certificate that is renewed without a restart.
//!
//! The files are looked at again at the first handshake of each second. A pair that cannot be used, for example while a renewal has
//! written one file but not yet the other, changes nothing: the last good pair stays in use.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::certificates::{CertificatePair, LastGood, PairText};

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
    last: LastGood<PairText, ServerConfig>,
}

impl ListenerTls {
    /// TLS with the certificate and the key in the files of `pair`.
    ///
    /// # Errors
    /// What is wrong with the files.
    pub(crate) fn new(pair: CertificatePair) -> Result<Self, String> {
        let last = LastGood::new("the listener");
        last.update(pair.read(), |text| server_config(&pair, text))?;
        Ok(Self(Arc::new(Shared { pair, last })))
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
            let acceptor = TlsAcceptor::from(self.server_config().await?);
            acceptor.accept(stream).await
        };
        let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await??;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(ALPN_HTTP2);
        Ok((stream, is_http2))
    }

    /// The configuration for the next connection.
    async fn server_config(&self) -> io::Result<Arc<ServerConfig>> {
        let Shared { pair, last } = &*self.0;
        if !last.is_due()
            && let Some(config) = last.made()
        {
            return Ok(config);
        }
        let files = pair.clone();
        let config = last
            .load(move || files.read(), |text| server_config(pair, text))
            .await;
        config.map_err(io::Error::other)
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
