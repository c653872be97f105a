//! Tests of retries after HTTP/2 refusals (RFC 9113), frame by frame, and of trusted certificates.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use http::Request;
use http_body_util::Full;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::BackendError;
use super::tls_files::TlsFiles;
use crate::backend::host_addresses::HostAddresses;
use crate::backend::http_client::{ConnectionPool, HttpClient, SendError};
use crate::config::UpstreamTls;
use crate::runtime::tasks::Tasks;

const GOAWAY: u8 = 7;
const RST_STREAM: u8 = 3;
const HEADERS: u8 = 1;

/// A self-signed certificate, as `openssl req -x509` creates it.
struct SelfSigned {
    pem: String,
    acceptor: TlsAcceptor,
}

fn self_signed(name: &str) -> SelfSigned {
    self_signed_for(name, b"h2")
}

/// As [`self_signed`], for a server with `protocol` only.
fn self_signed_for(name: &str, protocol: &[u8]) -> SelfSigned {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![protocol.to_vec()];
    SelfSigned {
        pem: certificate.pem(),
        acceptor: TlsAcceptor::from(Arc::new(config)),
    }
}

fn tls_files(ca_file: &Path) -> TlsFiles {
    let files = UpstreamTls {
        ca_file: Some(ca_file.to_owned()),
        identity: None,
    };
    TlsFiles::new(&files).unwrap()
}

fn pool(address: SocketAddr, ca_file: &Path) -> (ConnectionPool, http::Uri) {
    let uri: http::Uri = format!("https://{address}/mcp").parse().unwrap();
    let host = Arc::new(HostAddresses::new(&uri, &[]));
    let files = Arc::new(tls_files(ca_file));
    let transport = HttpClient::new(Tasks::default());
    (
        transport.pool(Duration::from_secs(5), &host, None, Some(&files)),
        uri,
    )
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Accepts a connection, reads the head of a request, and returns its stream. `None` when the client rejects the server.
async fn accept_request(
    listener: &TcpListener,
    acceptor: &TlsAcceptor,
) -> Option<(TlsStream<TcpStream>, u32)> {
    let (connection, _) = listener.accept().await.unwrap();
    let mut connection = acceptor.accept(connection).await.ok()?;
    let mut preface = [0; 24];
    connection.read_exact(&mut preface).await.ok()?;
    connection.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    loop {
        let mut head = [0; 9];
        connection.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        connection.read_exact(&mut payload).await.unwrap();
        if head[3] == HEADERS {
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            return Some((connection, stream));
        }
    }
}

/// Sends a request to a server that refuses it with `refusals` on its first connections.
async fn sent(refusals: &[(u8, Vec<u8>)]) -> (Result<u16, SendError>, usize) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = self_signed("127.0.0.1");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.crt");
    std::fs::write(&file, &server.pem).unwrap();
    let (pool, uri) = pool(listener.local_addr().unwrap(), &file);
    let mut connections = 0;
    let serving = async {
        let mut open = Vec::new();
        loop {
            let (mut connection, stream) = accept_request(&listener, &server.acceptor).await.unwrap();
            let answer = match refusals.get(connections) {
                Some((GOAWAY, payload)) => frame(GOAWAY, 0, 0, payload),
                Some((kind, payload)) => frame(*kind, 0, stream, payload),
                // `:status: 200`, the end of the headers and of the stream.
                None => frame(HEADERS, 5, stream, &[0x88]),
            };
            connections += 1;
            connection.write_all(&answer).await.unwrap();
            open.push(connection);
        }
    };
    let mut request = Request::new(Full::new(Bytes::from_static(b"{}")));
    *request.uri_mut() = uri;
    let outcome = tokio::select! {
        () = serving => unreachable!("the server never ends"),
        outcome = pool.send(request, Some(Duration::from_secs(10))) => outcome,
    };
    (outcome.map(|response| response.status().as_u16()), connections)
}

/// A request that the server reports as not processed is sent once more on another connection, but not a third time.
#[tokio::test]
async fn unprocessed_request_is_sent_once_more() {
    let goaway = (GOAWAY, [0_u32.to_be_bytes(), 0_u32.to_be_bytes()].concat());
    let refused = (RST_STREAM, 7_u32.to_be_bytes().to_vec());
    for refusal in [&goaway, &refused] {
        let (outcome, connections) = sent(std::slice::from_ref(refusal)).await;
        assert_eq!((outcome.unwrap(), connections), (200, 2), "{refusal:?}");
    }
    let (outcome, connections) = sent(&[goaway, refused.clone(), refused]).await;
    let Err(SendError::Other(error @ BackendError::NotProcessed(_))) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(error.is_retry_safe() && !error.is_backend_failure());
    assert_eq!(connections, 2);
}

/// A stream that the server resets for another reason may have been executed, so the request is not sent again.
#[tokio::test]
async fn request_that_may_be_executed_is_not_sent_again() {
    let internal_error = (RST_STREAM, 2_u32.to_be_bytes().to_vec());
    let (outcome, connections) = sent(&[internal_error]).await;
    let is_broken = matches!(outcome, Err(SendError::Other(BackendError::Broken(_))));
    assert!(is_broken, "{outcome:?}");
    assert_eq!(connections, 1);
}

/// Only HTTP/2 reports unprocessed requests. Over HTTP/1.1 no copy of a request is kept.
#[tokio::test]
async fn request_over_http1_is_not_kept() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = self_signed_for("127.0.0.1", b"http/1.1");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.crt");
    std::fs::write(&file, &server.pem).unwrap();
    let (pool, uri) = pool(listener.local_addr().unwrap(), &file);
    assert!(pool.can_send_again(&uri), "it is not known what is spoken");
    let serving = async {
        let (connection, _) = listener.accept().await.unwrap();
        let mut connection = server.acceptor.accept(connection).await.unwrap();
        connection.read_u8().await.unwrap();
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        connection.write_all(answer).await.unwrap();
        std::future::pending::<()>().await;
    };
    let mut request = Request::new(Full::new(Bytes::new()));
    *request.uri_mut() = uri.clone();
    let outcome = tokio::select! {
        () = serving => unreachable!("the client keeps the connection"),
        outcome = pool.send(request, Some(Duration::from_secs(10))) => outcome,
    };
    assert_eq!(outcome.unwrap().status().as_u16(), 200);
    assert!(!pool.can_send_again(&uri));
}

/// A self-signed certificate in the CA file is trusted whatever its name. The file is read again for each connection.
#[tokio::test]
async fn ca_file_certificates_are_trusted_and_reread() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (server, other) = (self_signed("another.test"), self_signed("127.0.0.1"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.crt");
    let (pool, uri) = pool(listener.local_addr().unwrap(), &file);
    let send = async || {
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = uri.clone();
        let serving = async {
            if let Some((mut connection, stream)) = accept_request(&listener, &server.acceptor).await {
                let answer = frame(HEADERS, 5, stream, &[0x88]);
                connection.write_all(&answer).await.unwrap();
                let _open = connection;
                std::future::pending::<()>().await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = serving => unreachable!("the client keeps the connection"),
            outcome = pool.send(request, Some(Duration::from_secs(10))) => outcome.map(|response| response.status().as_u16()),
        }
    };
    let reason = |outcome: Result<u16, SendError>| BackendError::from(outcome.unwrap_err()).to_string();
    let missing = reason(send().await);
    assert!(missing.contains("ca.crt cannot be read"), "{missing}");
    std::fs::write(&file, &other.pem).unwrap();
    let stranger = reason(send().await);
    assert!(stranger.contains("cannot be reached"), "{stranger}");
    std::fs::write(&file, format!("{}{}", other.pem, server.pem)).unwrap();
    assert_eq!(send().await.unwrap(), 200);
    let garbage = directory.path().join("garbage");
    std::fs::write(&garbage, "nothing").unwrap();
    let reason = tls_files(&garbage).client_config().await.unwrap_err();
    assert!(reason.contains("garbage has no certificate"), "{reason}");
}

/// Answers every request on every connection, and counts the connections.
async fn serve_http1(listener: &TcpListener, acceptor: &TlsAcceptor, count: &AtomicUsize) {
    let mut serving = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (connection, _) = accepted.unwrap();
                serving.push(async move {
                    let Ok(mut connection) = acceptor.accept(connection).await else { return };
                    count.fetch_add(1, Ordering::Relaxed);
                    let mut request = [0; 4096];
                    while connection.read(&mut request).await.is_ok_and(|read| read > 0) {
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                        if connection.write_all(answer).await.is_err() {
                            return;
                        }
                    }
                });
            }
            Some(()) = serving.next() => {}
        }
    }
}

/// A connection is used again while the files stay the same, and not after they have changed.
#[tokio::test]
async fn changed_tls_file_ends_reuse_of_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (server, other) = (self_signed_for("127.0.0.1", b"http/1.1"), self_signed("other"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.crt");
    std::fs::write(&file, &server.pem).unwrap();
    let (pool, uri) = pool(listener.local_addr().unwrap(), &file);
    let count = AtomicUsize::new(0);
    let send = async || {
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = uri.clone();
        let response = pool.send(request, Some(Duration::from_secs(10))).await;
        response.map(|response| response.status().as_u16())
    };
    let sending = async {
        for _ in 0..5 {
            assert_eq!(send().await.unwrap(), 200);
        }
        assert_eq!(count.load(Ordering::Relaxed), 1);
        std::fs::write(&file, format!("{}{}", other.pem, server.pem)).unwrap();
        while count.load(Ordering::Relaxed) == 1 {
            assert_eq!(send().await.unwrap(), 200);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // A server that is no longer trusted gets no request, although its connection is open.
        std::fs::write(&file, &other.pem).unwrap();
        while send().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(count.load(Ordering::Relaxed), 2);
    };
    let limited = tokio::time::timeout(Duration::from_secs(30), sending);
    tokio::select! {
        () = serve_http1(&listener, &server.acceptor, &count) => unreachable!("the server never ends"),
        done = limited => done.unwrap(),
    }
}
