//! The MCP endpoint with TLS: both versions of HTTP, renewed certificates, and what clients of plain HTTP see.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use vmcp_crds::config::{AggregationConfig, BackendConfig, HotConfig, ListenerTls};
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::http_client;
use vmcp_e2e::rendered;
use vmcp_e2e::test_server::TestServer;
use vmcp_operator::desired::Backend;

/// How soon a renewed certificate is in use.
const RENEWAL_LIMIT: Duration = Duration::from_secs(5);

/// A certificate for `localhost`, written to `directory`; returns it as clients trust it.
fn write_certificate(directory: &Path) -> anyhow::Result<CertificateDer<'static>> {
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
    std::fs::write(directory.join("tls.key"), key.serialize_pem())?;
    std::fs::write(directory.join("tls.crt"), certificate.pem())?;
    Ok(certificate.der().clone())
}

struct Endpoint {
    gateway: Gateway,
    directory: tempfile::TempDir,
    certificate: CertificateDer<'static>,
    _backend: TestServer,
}

fn endpoint() -> anyhow::Result<Endpoint> {
    let backend = TestServer::start(&[])?;
    let directory = tempfile::tempdir()?;
    let certificate = write_certificate(directory.path())?;
    let mut recipe = Recipe::in_memory(&[])?;
    recipe.config.listeners.tls = Some(ListenerTls {
        cert_file: directory.path().join("tls.crt"),
        key_file: directory.path().join("tls.key"),
    });
    recipe.config.hot = Some(HotConfig {
        backends: vec![BackendConfig {
            name: "one".to_owned(),
            url: backend.url.clone(),
            ..BackendConfig::default()
        }],
        ..HotConfig::default()
    });
    Ok(Endpoint {
        gateway: recipe.start()?,
        directory,
        certificate,
        _backend: backend,
    })
}

/// Connects, and trusts `certificate` alone.
async fn connect(
    server: SocketAddr,
    certificate: &CertificateDer<'static>,
    protocols: &[&str],
) -> anyhow::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.clone())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols
        .iter()
        .map(|protocol| protocol.as_bytes().to_vec())
        .collect();
    let stream = TcpStream::connect(server).await?;
    let name = ServerName::try_from("localhost")?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    Ok(connector.connect(name, stream).await?)
}

/// Opens a session and calls a tool in it, each over a connection of its own; returns the version of HTTP.
async fn call_over(endpoint: &Endpoint, protocols: &[&str]) -> anyhow::Result<Version> {
    let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}});
    let (version, session, _) = post(endpoint, protocols, None, &initialize).await?;
    let session = session.context("no session")?;
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call",
        "params": {"name": "one_echo", "arguments": {"message": "over TLS"}}});
    let (_, _, answer) = post(endpoint, protocols, Some(&session), &call).await?;
    ensure!(answer.contains("over TLS"), "{answer}");
    Ok(version)
}

#[expect(clippy::disallowed_methods, reason = "the connections end with the test")]
async fn post(
    endpoint: &Endpoint,
    protocols: &[&str],
    session: Option<&str>,
    message: &Value,
) -> anyhow::Result<(Version, Option<String>, String)> {
    let stream = connect(endpoint.gateway.mcp, &endpoint.certificate, protocols).await?;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let mut request = Request::post("https://localhost/mcp")
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream");
    if !is_http2 {
        request = request.header("host", "localhost");
    }
    if let Some(session) = session {
        request = request.header("mcp-session-id", session);
    }
    let request = request.body(Full::new(Bytes::from(message.to_string())))?;
    let io = TokioIo::new(stream);
    let response = if is_http2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        sender.send_request(request).await?
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        tokio::spawn(connection);
        sender.send_request(request).await?
    };
    let (head, body) = response.into_parts();
    let body = String::from_utf8(body.collect().await?.to_bytes().to_vec())?;
    ensure!(head.status.is_success(), "{head:?}: {body}");
    let session = head.headers.get("mcp-session-id");
    let session = session.and_then(|id| Some(id.to_str().ok()?.to_owned()));
    Ok((head.version, session, body))
}

/// A client with TLS chooses HTTP/2 or HTTP/1.1, and calls tools over either.
#[tokio::test(flavor = "multi_thread")]
async fn tls_client_calls_over_http2_and_http1() -> anyhow::Result<()> {
    let endpoint = endpoint()?;
    for (protocols, expected) in [
        (&["h2", "http/1.1"][..], Version::HTTP_2),
        (&["http/1.1"], Version::HTTP_11),
        (&[], Version::HTTP_11),
    ] {
        let version = call_over(&endpoint, protocols).await?;
        assert_eq!(version, expected, "{protocols:?}");
    }
    Ok(())
}

/// A renewed certificate is in use without a restart. Files that cannot be used change nothing.
#[tokio::test(flavor = "multi_thread")]
async fn renewed_certificate_is_used_without_restart() -> anyhow::Result<()> {
    let mut endpoint = endpoint()?;
    let before = endpoint.certificate.clone();
    let directory = endpoint.directory.path().to_owned();
    std::fs::write(directory.join("tls.crt"), "half written")?;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    call_over(&endpoint, &["h2"]).await?;
    endpoint.certificate = write_certificate(&directory)?;
    let renewed = async {
        while call_over(&endpoint, &["h2"]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(RENEWAL_LIMIT, renewed).await?;
    let refused = connect(endpoint.gateway.mcp, &before, &[]).await;
    assert!(refused.is_err(), "the old certificate is still in use");
    Ok(())
}

/// A client of plain HTTP learns that the endpoint requires TLS.
#[test]
fn plain_http_client_learns_that_tls_is_required() -> anyhow::Result<()> {
    let endpoint = endpoint()?;
    let answer = http_client::get(endpoint.gateway.mcp, "/mcp", &[])?;
    assert_eq!(answer.status, 400);
    let body = String::from_utf8(answer.body)?;
    assert!(body.contains("use https://"), "{body}");
    Ok(())
}

/// A configuration whose certificate cannot be used is rejected at the start, with the file and the reason.
#[test]
fn unusable_certificate_is_rejected_at_the_start() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    write_certificate(directory.path())?;
    let other = rcgen::KeyPair::generate()?;
    std::fs::write(directory.path().join("tls.key"), other.serialize_pem())?;
    let mut recipe = Recipe::in_memory(&[])?;
    recipe.config.listeners.tls = Some(ListenerTls {
        cert_file: directory.path().join("tls.crt"),
        key_file: directory.path().join("tls.key"),
    });
    let error = format!("{:#}", recipe.start().map(drop).unwrap_err());
    assert!(error.contains("at `listeners.tls`"), "{error}");
    assert!(error.contains("does not belong to the certificate"), "{error}");
    Ok(())
}

/// The certificate of the Secret in `spec.tls.certificateRef` is that of the endpoint.
#[tokio::test]
async fn certificate_of_a_resource_is_that_of_the_endpoint() -> anyhow::Result<()> {
    let backend = TestServer::start(&[])?;
    let directory = tempfile::tempdir()?;
    let certificate = write_certificate(directory.path())?;
    let resource = json!({
        "apiVersion": "vmcp.dev/v1alpha1", "kind": "VirtualMCPServer",
        "metadata": {"name": "everything", "namespace": "tools", "uid": "1"},
        "spec": {"groupRef": {"name": "tools"}, "tls": {"certificateRef": {"name": "tools-tls"}}},
    });
    let mut secret = BTreeMap::new();
    for key in ["tls.crt", "tls.key"] {
        let text = std::fs::read_to_string(directory.path().join(key))?;
        secret.insert(key.to_owned(), text);
    }
    let secrets = BTreeMap::from([("tools-tls".to_owned(), secret)]);
    let config = BackendConfig {
        name: "one".to_owned(),
        url: backend.url.clone(),
        ..BackendConfig::default()
    };
    let backend_of_group = Backend {
        config,
        ..Backend::default()
    };
    let backends = Backend::check_all(vec![backend_of_group], &AggregationConfig::default());
    let mut gateway = rendered::start(&serde_json::from_value(resource)?, &backends, secrets)?;
    gateway.wait_until_ready()?;
    let endpoint = Endpoint {
        gateway,
        directory,
        certificate,
        _backend: backend,
    };
    assert_eq!(call_over(&endpoint, &["h2"]).await?, Version::HTTP_2);
    Ok(())
}
