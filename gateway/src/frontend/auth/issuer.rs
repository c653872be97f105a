//! Fetches the issuer's public keys and keeps them fresh.
//!
//! One task fetches the keys: at startup, every `keyRefresh`, and at once when the trusted certificate
//! authorities change or a token names an unknown key, which is how a key rotation is noticed. All requests
//! that wait for an unknown key share one fetch. Because any client can invent key ids, unknown ids cause at
//! most one fetch every 10 seconds; in between, unknown ids are rejected. A token that names no key, or whose
//! key id matches no key while some keys have no id, counts as one with an unknown key if no key verifies it.
//!
//! The last keys stay in use while the issuer cannot be reached: tokens expire by their own date. If the
//! issuer responds with an empty key set, it has withdrawn its keys, and no token is accepted until it
//! publishes new ones. While the issuer's keys are not known, a token with an unknown key gets 503 and not
//! 401: a client would discard a valid token after a 401.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::Uri;
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::IssuerState;
use super::token::TokenHeader;
use crate::config::OidcSettings as Settings;
use crate::frontend::auth::issuer_fetch::{FetchError, IssuerClient};
use crate::frontend::auth::jwks::KeySet;
use crate::runtime::readiness::Readiness;
use crate::runtime::tasks::Tasks;
use crate::telemetry::Metrics;

/// How long readiness waits for the first keys.
const READINESS_TIMEOUT: Duration = Duration::from_secs(3);
/// Time limit of one refresh: discovery document and keys.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request waits for a refresh. It may have to wait for the end of the running refresh before its
/// own begins.
const REFRESH_WAIT_TIMEOUT: Duration = Duration::from_secs(2 * REFRESH_TIMEOUT.as_secs() + 1);
/// Minimum interval between refreshes that unknown key ids cause.
const MIN_REFRESH_INTERVAL: Duration = Duration::from_secs(10);
/// Pause after a failed refresh: the first one, and the longest.
const FIRST_RETRY_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_RETRY_PAUSE: Duration = Duration::from_secs(30);

/// The keys of one token issuer. A cheap-clone handle.
#[derive(Clone, Debug)]
pub(super) struct Issuer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    jwks_url: Option<Uri>,
    refresh_interval: Duration,
    fetch: IssuerClient,
    metrics: Metrics,
    tasks: Tasks,
    keys: ArcSwap<KeySet>,
    error: ArcSwapOption<String>,
    rounds: watch::Sender<FetchRounds>,
    requested: Mutex<RefreshRequest>,
    refresh_wanted: Notify,
}

#[derive(Clone, Copy, Debug, Default)]
struct FetchRounds {
    begun: u64,
    ended: u64,
}

/// The last refresh that was requested for an unknown key.
#[derive(Debug, Default)]
struct RefreshRequest {
    at: Option<Instant>,
    /// The number of the refresh that answers the request.
    round: u64,
}

/// Why there is no key for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyLookupError {
    /// The issuer does not publish the key.
    Unpublished,
    /// The issuer's current keys are not known.
    Unavailable,
}

/// Why a refresh failed.
#[derive(Debug, thiserror::Error)]
enum RefreshError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("no answer within {} s", REFRESH_TIMEOUT.as_secs())]
    Deadline,
    #[error("{url} is not a discovery document: {reason}")]
    Discovery { url: Uri, reason: String },
    #[error("{url} holds {reason}")]
    Keys { url: Uri, reason: String },
}

#[derive(Deserialize)]
struct Discovered {
    issuer: String,
    jwks_uri: String,
}

impl Issuer {
    /// Creates the issuer that `settings` describe. It has no keys yet.
    ///
    /// # Errors
    /// Why the file of certificate authorities cannot be used.
    pub(super) fn new(settings: &Settings, metrics: Metrics, tasks: Tasks) -> Result<Self, String> {
        let inner = Inner {
            name: settings.issuer.clone(),
            jwks_url: settings.jwks_url.clone(),
            refresh_interval: settings.key_refresh,
            fetch: IssuerClient::new(settings.ca_bundle.as_deref(), settings.allow_http)?,
            metrics,
            tasks,
            keys: ArcSwap::default(),
            error: ArcSwapOption::empty(),
            rounds: watch::Sender::default(),
            requested: Mutex::default(),
            refresh_wanted: Notify::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Starts the task that refreshes the keys.
    pub(super) fn keep_fresh(&self, readiness: &Readiness) {
        let mut first = Some(readiness.wait_at_most("the keys of the token issuer", READINESS_TIMEOUT));
        let issuer = self.clone();
        let mut ca_bundle = self.inner.fetch.watch_ca_bundle();
        self.inner.tasks.spawn_until_drain(async move {
            let mut retry = FIRST_RETRY_PAUSE;
            loop {
                let pause = if issuer.refresh().await {
                    drop(first.take());
                    retry = FIRST_RETRY_PAUSE;
                    issuer.inner.refresh_interval
                } else {
                    let pause = retry.min(issuer.inner.refresh_interval);
                    retry = retry.saturating_mul(2).min(LONGEST_RETRY_PAUSE);
                    pause
                };
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = issuer.inner.refresh_wanted.notified() => {}
                    () = issuer.inner.fetch.ca_bundle_changed(&mut ca_bundle) => {
                        tracing::info!(issuer = issuer.inner.name, "certificate authorities of the token issuer reloaded");
                    }
                }
            }
        });
    }

    /// The current keys.
    pub(super) fn keys(&self) -> Arc<KeySet> {
        self.inner.keys.load_full()
    }

    pub(super) fn state(&self) -> IssuerState {
        let refresh_error = self.inner.error.load().as_deref().cloned();
        let errors: Vec<String> = refresh_error
            .into_iter()
            .chain(self.inner.fetch.ca_bundle_problem())
            .collect();
        IssuerState {
            issuer: self.inner.name.clone(),
            keys: self.inner.keys.load().len(),
            error: (!errors.is_empty()).then(|| errors.join("; ")),
        }
    }

    /// Key set that contains the key that `header` names; refreshes the keys if it is unknown.
    pub(super) async fn keys_for(&self, header: &TokenHeader) -> Result<Arc<KeySet>, KeyLookupError> {
        let name = header.key.as_deref();
        let known = self.keys();
        if known.has_candidate(name) {
            return Ok(known);
        }
        let is_conclusive = self.request_refresh().await;
        let known = self.keys();
        if known.has_candidate(name) {
            return Ok(known);
        }
        Err(self.missing(is_conclusive))
    }

    /// Key set that was published after `used`, for a token that no key in `used` verifies.
    pub(super) async fn keys_after(&self, used: &KeySet) -> Result<Arc<KeySet>, KeyLookupError> {
        let is_conclusive = self.request_refresh().await;
        let known = self.keys();
        if known.serial != used.serial {
            return Ok(known);
        }
        Err(self.missing(is_conclusive))
    }

    fn missing(&self, is_conclusive: bool) -> KeyLookupError {
        if is_conclusive && self.inner.error.load().is_none() {
            KeyLookupError::Unpublished
        } else {
            KeyLookupError::Unavailable
        }
    }

    /// Requests a refresh, unless one has just ended, and waits for it. Returns whether the keys are
    /// conclusive afterwards: the refresh may time out, and a draining process does not refresh.
    async fn request_refresh(&self) -> bool {
        let Some(round) = self.round_to_await() else {
            return true;
        };
        let mut rounds = self.inner.rounds.subscribe();
        let answered = rounds.wait_for(|rounds| rounds.ended >= round);
        tokio::select! {
            answered = tokio::time::timeout(REFRESH_WAIT_TIMEOUT, answered) => matches!(answered, Ok(Ok(_))),
            () = self.inner.tasks.drained() => false,
        }
    }

    /// The number of the refresh to wait for; `None` if a refresh could bring nothing new.
    fn round_to_await(&self) -> Option<u64> {
        let rounds = *self.inner.rounds.borrow();
        if rounds.ended == 0 {
            return Some(1);
        }
        // Failed refreshes are retried anyway.
        if self.inner.error.load().is_some() {
            return None;
        }
        let mut requested = self
            .inner
            .requested
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if requested.round > rounds.ended {
            return Some(requested.round);
        }
        if requested.at.is_some_and(|at| at.elapsed() < MIN_REFRESH_INTERVAL) {
            return None;
        }
        // A running refresh may have read the key set before this key was added.
        *requested = RefreshRequest {
            at: Some(Instant::now()),
            round: rounds.begun.saturating_add(1),
        };
        self.inner.refresh_wanted.notify_one();
        Some(requested.round)
    }

    /// Refreshes the keys once. Returns whether the issuer has usable keys.
    async fn refresh(&self) -> bool {
        let inner = &*self.inner;
        inner
            .rounds
            .send_modify(|rounds| rounds.begun = rounds.begun.saturating_add(1));
        let fetched = tokio::time::timeout(REFRESH_TIMEOUT, self.fetch()).await;
        let fetched = fetched.unwrap_or(Err(RefreshError::Deadline));
        inner
            .metrics
            .issuer_keys_fetched(if fetched.is_ok() { "succeeded" } else { "failed" });
        match &fetched {
            Ok(keys) => {
                let before = inner.keys.load();
                if keys.serial != before.serial || inner.error.load().is_some() {
                    tracing::info!(
                        issuer = inner.name,
                        keys = keys.len(),
                        "token issuer keys fetched"
                    );
                }
            }
            Err(error) => {
                let error = error.to_string();
                if inner.error.load().as_deref() != Some(&error) {
                    tracing::warn!(
                        issuer = inner.name,
                        error,
                        known = inner.keys.load().len(),
                        "the keys of the token issuer cannot be fetched; those that are known stay in use"
                    );
                }
            }
        }
        let ok = fetched.is_ok();
        match fetched {
            Ok(keys) => {
                inner.keys.store(Arc::new(keys));
                inner.error.store(None);
            }
            Err(error) => inner.error.store(Some(Arc::new(error.to_string()))),
        }
        inner.rounds.send_modify(|rounds| rounds.ended = rounds.begun);
        ok
    }

    async fn fetch(&self) -> Result<KeySet, RefreshError> {
        let inner = &*self.inner;
        let url = match &inner.jwks_url {
            Some(url) => url.clone(),
            None => self.discover().await?,
        };
        let json = inner.fetch.json(&url).await?;
        let keys = match KeySet::read(&json, &inner.keys.load()) {
            Ok(keys) => keys,
            Err(reason) => return Err(RefreshError::Keys { url, reason }),
        };
        if keys.len() == 0 {
            // The issuer has withdrawn all its keys. This is an error all the same: no client can be
            // authenticated.
            inner.keys.store(Arc::new(keys));
            let reason = "no key that signatures can be checked with".to_owned();
            return Err(RefreshError::Keys { url, reason });
        }
        Ok(keys)
    }

    /// Finds the URL of the key set in the issuer's metadata. Some issuers publish the metadata by one of the
    /// standards only.
    async fn discover(&self) -> Result<Uri, RefreshError> {
        let mut first_error = None;
        for url in metadata_urls(&self.inner.name) {
            let error = match self.discover_at(&url).await {
                // A connection failure would repeat at the other URLs of the same host.
                Err(error @ RefreshError::Fetch(FetchError::Status { .. })) => error,
                Err(error @ RefreshError::Discovery { .. }) => error,
                outcome => return outcome,
            };
            first_error.get_or_insert(error);
        }
        Err(first_error.unwrap_or_else(|| no_document(&Uri::default(), "the issuer is no URL".to_owned())))
    }

    async fn discover_at(&self, url: &str) -> Result<Uri, RefreshError> {
        let inner = &*self.inner;
        let url: Uri = url
            .parse()
            .map_err(|error: http::uri::InvalidUri| no_document(&Uri::default(), error.to_string()))?;
        let json = inner.fetch.json(&url).await?;
        let discovered: Discovered =
            serde_json::from_slice(&json).map_err(|error| no_document(&url, error.to_string()))?;
        if discovered.issuer != inner.name {
            let reason = format!(
                "it is that of the issuer {:?}, and {:?} is configured",
                discovered.issuer, inner.name
            );
            return Err(no_document(&url, reason));
        }
        vmcp_crds::config::rules::endpoint(&discovered.jwks_uri)
            .map_err(|reason| no_document(&url, format!("jwks_uri: {reason}")))
    }
}

fn no_document(url: &Uri, reason: String) -> RefreshError {
    let url = url.clone();
    RefreshError::Discovery { url, reason }
}

/// The possible URLs of an issuer's metadata: OpenID Connect Discovery 1.0, section 4; RFC 8414, section 3;
/// and OpenID Connect at the place of RFC 8414, section 5.
fn metadata_urls(issuer: &str) -> Vec<String> {
    const OPENID: &str = "/.well-known/openid-configuration";
    const OAUTH: &str = "/.well-known/oauth-authorization-server";
    let issuer = issuer.trim_end_matches('/');
    let mut urls = vec![format!("{issuer}{OPENID}")];
    let behind_scheme = issuer.split_once("://").map_or("", |(_, rest)| rest);
    let path = behind_scheme
        .find('/')
        .and_then(|start| behind_scheme.get(start..));
    let path = path.unwrap_or_default();
    let root = issuer.strip_suffix(path).unwrap_or(issuer);
    urls.push(format!("{root}{OAUTH}{path}"));
    if !path.is_empty() {
        urls.push(format!("{root}{OPENID}{path}"));
    }
    urls
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::Algorithm;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// An issuer that accepts connections and never responds.
    fn silent(tasks: &Tasks) -> (Issuer, std::net::TcpListener) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let settings = Settings {
            issuer: url.clone(),
            audiences: vec!["tools".to_owned()],
            resource: url.parse().unwrap(),
            jwks_url: None,
            scopes: Vec::new(),
            algorithms: Vec::new(),
            clock_leeway: Duration::ZERO,
            key_refresh: Duration::from_secs(3600),
            ca_bundle: None,
            allow_http: true,
        };
        let issuer = Issuer::new(&settings, Metrics::new(), tasks.clone()).unwrap();
        (issuer, listener)
    }

    fn header() -> TokenHeader {
        TokenHeader {
            key: Some("a".to_owned()),
            algorithm: Algorithm::ES256,
        }
    }

    /// A drain ends the wait for an unknown key at once.
    #[tokio::test(start_paused = true)]
    async fn drain_ends_the_wait_for_a_key() {
        let tasks = Tasks::default();
        let (issuer, _listener) = silent(&tasks);
        issuer.keep_fresh(&Readiness::default());
        let began = Instant::now();
        let header = header();
        let draining = async {
            tokio::task::yield_now().await;
            tasks.finish().await;
        };
        let (found, ()) = tokio::join!(issuer.keys_for(&header), draining);
        assert_eq!(found.unwrap_err(), KeyLookupError::Unavailable);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        // A later request does not wait at all.
        assert_eq!(
            issuer.keys_for(&header).await.unwrap_err(),
            KeyLookupError::Unavailable
        );
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }

    /// The wait for a refresh that does not end times out.
    #[tokio::test(start_paused = true)]
    async fn wait_for_an_endless_refresh_times_out() {
        let tasks = Tasks::default();
        let (issuer, _listener) = silent(&tasks);
        let began = Instant::now();
        assert_eq!(
            issuer.keys_for(&header()).await.unwrap_err(),
            KeyLookupError::Unavailable
        );
        assert_eq!(began.elapsed(), REFRESH_WAIT_TIMEOUT);
    }

    /// The metadata URLs follow OpenID Connect Discovery and RFC 8414.
    #[test]
    fn metadata_urls_follow_each_standard() {
        assert_eq!(
            metadata_urls("https://i.test/"),
            [
                "https://i.test/.well-known/openid-configuration",
                "https://i.test/.well-known/oauth-authorization-server"
            ]
        );
        assert_eq!(
            metadata_urls("https://i.test:8443/a/b"),
            [
                "https://i.test:8443/a/b/.well-known/openid-configuration",
                "https://i.test:8443/.well-known/oauth-authorization-server/a/b",
                "https://i.test:8443/.well-known/openid-configuration/a/b"
            ]
        );
    }

    /// An issuer that publishes its metadata at one URL, and nothing at the others.
    #[tokio::test]
    async fn issuer_with_rfc_8414_metadata_only_is_found() {
        let place = "/.well-known/oauth-authorization-server";
        let tasks = Tasks::default();
        let (issuer, listener) = silent(&tasks);
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let name = issuer.inner.name.clone();
        let serving = async {
            loop {
                let (mut connection, _) = listener.accept().await.unwrap();
                let (mut request, name) = (Vec::new(), name.clone());
                while !request.ends_with(b"\r\n\r\n") {
                    connection.read_buf(&mut request).await.unwrap();
                }
                let is_there = request.starts_with(format!("GET {place} ").as_bytes());
                let body = format!(r#"{{"issuer":"{name}","jwks_uri":"{name}/keys"}}"#);
                let status = if is_there { "200 OK" } else { "404 Not Found" };
                let head = format!(
                    "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                connection
                    .write_all(format!("{head}{body}").as_bytes())
                    .await
                    .unwrap();
            }
        };
        let found = tokio::select! {
            () = serving => unreachable!("it goes on for ever"),
            found = issuer.discover() => found.unwrap(),
        };
        assert_eq!(found.to_string(), format!("{name}/keys"));
    }
}
