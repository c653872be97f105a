//! The issuer's keys, kept fresh.
//!
//! One task fetches: at the start, then every `keyRefresh`, and at once when a token names a key that is not known, which is how a
//! rotation is noticed. Whoever waits for such a key waits for the same fetch. Because anybody can make up names of keys, they cause
//! a fetch at most every 10 seconds; in between, a name that is not known is refused. A token that names no key, or one that no key has for
//! its name while some have none, and that none of the keys has signed, counts as one of a key that is not known.
//!
//! The last keys that were fetched stay in use for as long as the issuer cannot be reached: a token ends by its own date. They do not
//! when the issuer answers with a set that holds none: it has withdrawn them, and until it publishes others no token is accepted. A key that
//! is not among them cannot be judged then, and is unavailable, not unknown: a client that was told 401 would throw a good token away.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::Uri;
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::IssuerState;
use super::token::Header;
use crate::config::OidcSettings as Settings;
use crate::frontend::auth::issuer_fetch::{FetchError, IssuerClient, UnusableCa};
use crate::frontend::auth::jwks::KeySet;
use crate::runtime::readiness::Readiness;
use crate::runtime::tasks::Tasks;
use crate::telemetry::Metrics;

/// How long readiness waits for the first keys.
const READY_PATIENCE: Duration = Duration::from_secs(3);
/// How long a round, discovery document and keys, may take.
const ROUND_DEADLINE: Duration = Duration::from_secs(5);
/// How long a token waits for a round: the one that is running may end before the one that answers it begins.
const WAIT: Duration = Duration::from_secs(2 * ROUND_DEADLINE.as_secs() + 1);
/// How often names of keys that are not known may cause a fetch.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// How long to wait after a failed round: the first time, and at most.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// A cheap-clone handle.
#[derive(Clone, Debug)]
pub(super) struct Issuer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    jwks_url: Option<Uri>,
    refresh: Duration,
    fetch: IssuerClient,
    metrics: Metrics,
    tasks: Tasks,
    keys: ArcSwap<KeySet>,
    error: ArcSwapOption<String>,
    rounds: watch::Sender<FetchRounds>,
    ask: Mutex<Ask>,
    asked: Notify,
}

#[derive(Clone, Copy, Debug, Default)]
struct FetchRounds {
    begun: u64,
    ended: u64,
}

/// The last fetch that a key which was not known caused.
#[derive(Debug, Default)]
struct Ask {
    at: Option<Instant>,
    /// The round whose end answers it.
    round: u64,
}

/// Why there is no key for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoKeys {
    /// The issuer does not publish it.
    Unpublished,
    /// What the issuer publishes is not known at the moment.
    Unavailable,
}

/// Why a round brought nothing.
#[derive(Debug, thiserror::Error)]
enum RefreshError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("no answer within {} s", ROUND_DEADLINE.as_secs())]
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
    pub(super) fn new(settings: &Settings, metrics: Metrics, tasks: Tasks) -> Result<Self, UnusableCa> {
        let inner = Inner {
            name: settings.issuer.clone(),
            jwks_url: settings.jwks_url.clone(),
            refresh: settings.key_refresh,
            fetch: IssuerClient::new(settings.ca_bundle.as_deref(), settings.allow_http)?,
            metrics,
            tasks,
            keys: ArcSwap::default(),
            error: ArcSwapOption::empty(),
            rounds: watch::Sender::default(),
            ask: Mutex::default(),
            asked: Notify::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Fetches the keys from now on.
    pub(super) fn keep_fresh(&self, readiness: &Readiness) {
        let mut first = Some(readiness.wait_at_most("the keys of the token issuer", READY_PATIENCE));
        let issuer = self.clone();
        self.inner.tasks.spawn_until_drain(async move {
            let mut retry = FIRST_RETRY;
            loop {
                let pause = if issuer.round().await {
                    drop(first.take());
                    retry = FIRST_RETRY;
                    issuer.inner.refresh
                } else {
                    let pause = retry.min(issuer.inner.refresh);
                    retry = retry.saturating_mul(2).min(LAST_RETRY);
                    pause
                };
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = issuer.inner.asked.notified() => {}
                }
            }
        });
    }

    /// The keys that are known.
    pub(super) fn keys(&self) -> Arc<KeySet> {
        self.inner.keys.load_full()
    }

    pub(super) fn state(&self) -> IssuerState {
        IssuerState {
            issuer: self.inner.name.clone(),
            keys: self.inner.keys.load().len(),
            error: self.inner.error.load().as_deref().cloned(),
        }
    }

    /// Keys among which is the one that a token with `header` names.
    pub(super) async fn keys_for(&self, header: &Header) -> Result<Arc<KeySet>, NoKeys> {
        let name = header.key.as_deref();
        let known = self.keys();
        if known.has(name) {
            return Ok(known);
        }
        let is_judged = self.ask().await;
        let known = self.keys();
        if known.has(name) {
            return Ok(known);
        }
        Err(self.missing(is_judged))
    }

    /// Keys that are published since `used`, none of which has signed a token of which it is not known whose it is.
    pub(super) async fn keys_after(&self, used: &KeySet) -> Result<Arc<KeySet>, NoKeys> {
        let is_judged = self.ask().await;
        let known = self.keys();
        if known.serial != used.serial {
            return Ok(known);
        }
        Err(self.missing(is_judged))
    }

    fn missing(&self, is_judged: bool) -> NoKeys {
        if is_judged && self.inner.error.load().is_none() {
            NoKeys::Unpublished
        } else {
            NoKeys::Unavailable
        }
    }

    /// Has the keys fetched, unless that has just been done, and waits for it. Says whether what is known now can be judged by: the fetch may
    /// take too long, and a process that drains fetches nothing more.
    async fn ask(&self) -> bool {
        let Some(round) = self.answering_round() else {
            return true;
        };
        let mut rounds = self.inner.rounds.subscribe();
        let answered = rounds.wait_for(|rounds| rounds.ended >= round);
        tokio::select! {
            answered = tokio::time::timeout(WAIT, answered) => matches!(answered, Ok(Ok(_))),
            () = self.inner.tasks.drained() => false,
        }
    }

    /// The round to wait for, if there is one that could bring a key which is not known.
    fn answering_round(&self) -> Option<u64> {
        let rounds = *self.inner.rounds.borrow();
        if rounds.ended == 0 {
            return Some(1);
        }
        // While rounds fail, they are repeated anyway.
        if self.inner.error.load().is_some() {
            return None;
        }
        let mut ask = self.inner.ask.lock().unwrap_or_else(PoisonError::into_inner);
        if ask.round > rounds.ended {
            return Some(ask.round);
        }
        if ask.at.is_some_and(|at| at.elapsed() < ASK_EVERY) {
            return None;
        }
        // One that is running may have read the keys before this one was among them.
        *ask = Ask {
            at: Some(Instant::now()),
            round: rounds.begun.saturating_add(1),
        };
        self.inner.asked.notify_one();
        Some(ask.round)
    }

    /// Fetches the keys once, and says whether that brought any.
    async fn round(&self) -> bool {
        let inner = &*self.inner;
        inner
            .rounds
            .send_modify(|rounds| rounds.begun = rounds.begun.saturating_add(1));
        let fetched = tokio::time::timeout(ROUND_DEADLINE, self.fetch()).await;
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
                        "the keys of the token issuer are known"
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
            // It has answered, and withdrawn all its keys. That is a fault all the same: nobody can be let in.
            inner.keys.store(Arc::new(keys));
            let reason = "no key that signatures can be checked with".to_owned();
            return Err(RefreshError::Keys { url, reason });
        }
        Ok(keys)
    }

    /// Where the issuer says that its keys are. Some publish their metadata by one of the standards only.
    async fn discover(&self) -> Result<Uri, RefreshError> {
        let mut first_error = None;
        for url in metadata_urls(&self.inner.name) {
            let error = match self.discover_at(&url).await {
                // Who cannot be reached there cannot be reached at all.
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

/// Where an issuer's metadata may be: OpenID Connect Discovery 1.0, 4; RFC 8414, 3; and the same place for OpenID Connect (RFC 8414, 5).
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

    /// An issuer that takes connections and never answers.
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

    fn header() -> Header {
        Header {
            key: Some("a".to_owned()),
            algorithm: Algorithm::ES256,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_key_is_answered_at_once_when_the_process_drains() {
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
        assert_eq!(found.unwrap_err(), NoKeys::Unavailable);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        // And who comes later does not wait at all.
        assert_eq!(issuer.keys_for(&header).await.unwrap_err(), NoKeys::Unavailable);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_for_a_round_that_does_not_end() {
        let tasks = Tasks::default();
        let (issuer, _listener) = silent(&tasks);
        let began = Instant::now();
        assert_eq!(issuer.keys_for(&header()).await.unwrap_err(), NoKeys::Unavailable);
        assert_eq!(began.elapsed(), WAIT);
    }

    #[test]
    fn metadata_is_looked_for_by_each_standard() {
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

    /// An issuer that publishes its metadata at one of the places, and nothing at the others.
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
