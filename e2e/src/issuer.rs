//! An issuer of tokens: real keys, a discovery document and a set of keys, served on loopback.
//!
//! Tokens are built by hand and signed with the cryptographic library, so that a test can make every kind of invalid token, and does not depend
//! on the library with which the gateway verifies them.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RSA_PSS_SHA256, RsaKeyPair, RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

/// How long a token of [`Issuer::token`] is good.
const LIFETIME_SECS: i64 = 300;

/// A running issuer. It ends when this value is dropped.
#[derive(Debug)]
pub struct Issuer {
    /// Its URL, as it stands in `iss`.
    pub url: String,
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    runtime: Option<Runtime>,
    ca: Option<TempDir>,
}

#[derive(Debug, Default)]
struct Shared {
    url: String,
    /// The path of the URL.
    path: String,
    keys: Vec<Arc<SigningKey>>,
    behaviour: Behaviour,
    discoveries: u64,
    fetches: u64,
}

/// The behaviour of an issuer.
#[derive(Clone, Debug, Default)]
pub enum Behaviour {
    /// It works.
    #[default]
    Good,
    /// It answers every request with this status, and where it redirects, to itself.
    Status(u16),
    /// It never answers.
    Hangs,
    /// Its documents are this.
    Says(String),
}

/// A key of the issuer.
#[derive(Debug)]
pub struct SigningKey {
    /// Its name.
    pub id: String,
    algorithm: &'static str,
    pair: Pair,
}

#[derive(Debug)]
enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl SigningKey {
    /// A new key for `RS256`, `PS256`, `ES256` or `EdDSA`. With an empty `id` it has no name, and its tokens name none.
    ///
    /// # Errors
    /// When there is no such key.
    pub fn generate(id: &str, algorithm: &'static str) -> anyhow::Result<Self> {
        let pair = match algorithm {
            "RS256" | "PS256" => Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048)?),
            "ES256" => Pair::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?),
            "EdDSA" => Pair::Ed(Ed25519KeyPair::generate()?),
            other => anyhow::bail!("no keys for {other}"),
        };
        Ok(Self {
            id: id.to_owned(),
            algorithm,
            pair,
        })
    }

    /// The public half, as the issuer publishes it.
    #[must_use]
    pub fn public(&self) -> Value {
        let mut public = match &self.pair {
            Pair::Rsa(pair) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({"kty": "RSA", "kid": self.id, "use": "sig", "alg": self.algorithm,
                       "n": base64(public.n), "e": base64(public.e)})
            }
            Pair::Ec(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "kid": self.id, "use": "sig", "x": base64(x), "y": base64(y)})
            }
            Pair::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": base64(pair.public_key())})
            }
        };
        self.without_a_name(&mut public);
        public
    }

    /// A token with the header that belongs to this key.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn token(&self, claims: &Value) -> anyhow::Result<String> {
        let mut header = json!({"alg": self.algorithm, "typ": "at+jwt", "kid": self.id});
        self.without_a_name(&mut header);
        self.sign(&header, claims)
    }

    fn without_a_name(&self, json: &mut Value) {
        if let Some(fields) = json.as_object_mut().filter(|_| self.id.is_empty()) {
            fields.remove("kid");
        }
    }

    /// A token with any header.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn sign(&self, header: &Value, claims: &Value) -> anyhow::Result<String> {
        let signed = unsigned(header, claims);
        let (message, random) = (signed.as_bytes(), SystemRandom::new());
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                if self.algorithm == "PS256" {
                    pair.sign(&RSA_PSS_SHA256, &random, message, &mut signature)?;
                } else {
                    pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)?;
                }
                signature
            }
            Pair::Ec(pair) => pair.sign(&random, message)?.as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        };
        Ok(format!("{signed}.{}", base64(signature)))
    }
}

/// Header and claims of a token, as they are signed.
#[must_use]
pub fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}", base64(header.to_string()), base64(claims.to_string()))
}

/// base64url without padding.
#[must_use]
pub fn base64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// Now, in seconds since 1970.
#[must_use]
pub fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

impl Issuer {
    /// Starts an issuer with one RSA key, over plain HTTP.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_at("")
    }

    /// Starts an issuer as [`Self::start`], with this path in its URL, for example `/realms/tools`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_at(path: &str) -> anyhow::Result<Self> {
        Self::start_with(&[SigningKey::generate("first", "RS256")?.into()], None, path)
    }

    /// Starts an issuer with one EC key, over TLS with a certificate of an authority of its own.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_with_tls() -> anyhow::Result<Self> {
        let directory = TempDir::new()?;
        let key = rcgen::KeyPair::generate()?;
        let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
        std::fs::write(directory.path().join("ca.pem"), certificate.pem())?;
        // A second installation changes nothing.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let server = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)?;
        let keys = [SigningKey::generate("first", "ES256")?.into()];
        let mut issuer = Self::start_with(&keys, Some(Arc::new(server).into()), "")?;
        issuer.ca = Some(directory);
        Ok(issuer)
    }

    fn start_with(keys: &[Arc<SigningKey>], tls: Option<TlsAcceptor>, path: &str) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        let url = match &tls {
            None => format!("http://{address}{path}"),
            Some(_) => format!("https://localhost:{}{path}", address.port()),
        };
        let shared = Arc::new(Mutex::new(Shared {
            url: url.clone(),
            path: path.to_owned(),
            keys: keys.to_vec(),
            ..Shared::default()
        }));
        runtime.spawn(serve(listener, tls, Arc::clone(&shared)));
        Ok(Self {
            url,
            address,
            shared,
            runtime: Some(runtime),
            ca: None,
        })
    }

    /// The file with the authority of its certificate.
    ///
    /// # Errors
    /// When it has none.
    pub fn ca(&self) -> anyhow::Result<PathBuf> {
        let directory = self.ca.as_ref().context("this issuer speaks no TLS")?;
        Ok(directory.path().join("ca.pem"))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it does with requests from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.shared().behaviour = behaviour;
    }

    /// Publishes these keys from now on; the first signs.
    pub fn publish(&self, keys: &[Arc<SigningKey>]) {
        self.shared().keys = keys.to_vec();
    }

    /// The key that signs.
    ///
    /// # Errors
    /// When there is none.
    pub fn key(&self) -> anyhow::Result<Arc<SigningKey>> {
        self.shared().keys.first().cloned().context("no key")
    }

    /// How often it was asked for its keys.
    #[must_use]
    pub fn fetches(&self) -> u64 {
        self.shared().fetches
    }

    /// How often it was asked for its discovery document.
    #[must_use]
    pub fn discoveries(&self) -> u64 {
        self.shared().discoveries
    }

    /// The claims of a good token for `subject` and the audience `tools`.
    #[must_use]
    pub fn claims(&self, subject: &str) -> Value {
        let now = now();
        json!({
            "iss": self.url, "sub": subject, "aud": "tools", "client_id": "e2e",
            "iat": now, "nbf": now, "exp": now + LIFETIME_SECS, "jti": token_id(),
        })
    }

    /// A good token for `subject`. No two are the same.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn token(&self, subject: &str) -> anyhow::Result<String> {
        self.key()?.token(&self.claims(subject))
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn token_id() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Mutex<Shared>>) {
    let tasks = TaskTracker::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (shared, tls) = (Arc::clone(&shared), tls.clone());
        tasks.spawn(async move {
            match tls {
                None => connection(stream, shared).await,
                // A client may reject the certificate.
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        connection(stream, shared).await;
                    }
                }
            }
        });
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Mutex<Shared>>) {
    let service = service_fn(move |request| answer(Arc::clone(&shared), request));
    let connection = hyper::server::conn::http1::Builder::new();
    // A client may disconnect.
    drop(connection.serve_connection(TokioIo::new(stream), service).await);
}

async fn answer(
    shared: Arc<Mutex<Shared>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path();
    let (document, behaviour) = {
        let mut shared = lock(&shared);
        let document = match path.strip_prefix(&shared.path).unwrap_or_default() {
            "/.well-known/openid-configuration" => {
                shared.discoveries += 1;
                let keys = format!("{}/keys", shared.url);
                Some(
                    json!({"issuer": shared.url, "jwks_uri": keys, "token_endpoint": "http://unused.invalid"}),
                )
            }
            "/keys" => {
                shared.fetches += 1;
                let keys: Vec<_> = shared.keys.iter().map(|key| key.public()).collect();
                Some(json!({"keys": keys}))
            }
            _ => None,
        };
        (document, shared.behaviour.clone())
    };
    let status = |status| Response::builder().status(status).header(header::LOCATION, path);
    let answer = match (behaviour, document) {
        (Behaviour::Hangs, _) => std::future::pending().await,
        (Behaviour::Status(code), _) => status(code).body(Full::default()),
        (_, None) => status(404).body(Full::default()),
        (Behaviour::Says(text), _) => status(200).body(Full::from(text)),
        (Behaviour::Good, Some(document)) => status(200).body(Full::from(document.to_string())),
    };
    Ok(answer.unwrap_or_default())
}
