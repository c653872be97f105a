//! Who calls: nobody in particular, or the subject of a token (JWT) that an issuer signed.
//!
//! A token comes with every request; a session proves nothing (specification, basic/authorization). Whoever has none, or one that
//! is not good, gets 401 and is told where to get one. What cannot be judged, because the issuer's keys cannot be fetched, is no
//! fault of the caller: 503. Both come before any session is looked at.
//!
//! The token goes no further than this module: it is never sent upstream, stored or logged.

// Strangers send the tokens that are read here.
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::string_slice
    )
)]

mod bearer;
mod challenge;
mod issuer;
mod issuer_fetch;
mod jwks;
mod resource_metadata;
mod token;
mod token_cache;

use std::sync::Arc;

use http::{HeaderMap, Method, Response};

use crate::config::{IncomingAuth, OidcSettings as Settings};
use crate::core::Principal;
use crate::frontend::response::ResponseBody;
use crate::runtime::clock;
use crate::runtime::readiness::Readiness;
use crate::runtime::tasks::Tasks;
use crate::telemetry::Metrics;

use bearer::BearerHeader;
use challenge::AuthRejection;
use issuer::{Issuer, NoKeys};
use resource_metadata::ResourceMetadata;
use token::{TokenError, TokenValidation};
use token_cache::TokenCache;

pub use issuer_fetch::{UnusableCa, authorities};

/// How the gateway knows who calls. A cheap-clone handle.
#[derive(Clone, Debug)]
pub enum Authentication {
    /// It does not.
    Anonymous,
    /// By a token.
    Oidc(Oidc),
}

/// The tokens of one issuer. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct Oidc {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    issuer: Issuer,
    expectations: TokenValidation,
    validated: TokenCache,
    resource: ResourceMetadata,
    metrics: Metrics,
}

/// The issuer, for whoever watches the gateway.
#[derive(Clone, Debug)]
pub struct IssuerState {
    /// Its URL.
    pub issuer: String,
    /// How many of its keys can be used.
    pub keys: usize,
    /// Why its keys could not be fetched the last time.
    pub error: Option<String>,
}

impl Authentication {
    /// Authentication as `settings` say. The issuer's keys are fetched in the background; `readiness` waits for the first ones.
    ///
    /// # Errors
    /// When the file with certificate authorities cannot be used, or the system gives no randomness.
    pub fn new(
        settings: &IncomingAuth,
        tasks: &Tasks,
        readiness: &Readiness,
        metrics: &Metrics,
    ) -> anyhow::Result<Self> {
        match settings {
            IncomingAuth::Anonymous => Ok(Self::Anonymous),
            IncomingAuth::Oidc(settings) => Oidc::new(settings, tasks, readiness, metrics).map(Self::Oidc),
        }
    }

    /// What is known of the issuer, if there is one.
    #[must_use]
    pub fn issuer(&self) -> Option<IssuerState> {
        match self {
            Self::Anonymous => None,
            Self::Oidc(oidc) => Some(oidc.inner.issuer.state()),
        }
    }

    /// Who sends a request with these headers.
    pub(super) async fn principal(&self, headers: &HeaderMap) -> Result<Principal, Response<ResponseBody>> {
        let Self::Oidc(Oidc { inner }) = self else {
            return Ok(Principal::Anonymous);
        };
        let judged = Box::pin(inner.judge(headers)).await;
        let outcome = judged
            .as_ref()
            .err()
            .map_or("accepted", |refusal| refusal.outcome());
        inner.metrics.authentication(outcome);
        judged.map_err(|refusal| {
            tracing::debug!(outcome, "a request is not authenticated");
            refusal.respond(&inner.resource)
        })
    }

    /// The answer to a request for the description of the protected resource (RFC 9728), if `path` is where it stands.
    pub(super) fn describe(&self, method: &Method, path: &str) -> Option<Response<ResponseBody>> {
        match self {
            Self::Anonymous => None,
            Self::Oidc(oidc) => oidc.inner.resource.describe(method, path),
        }
    }
}

impl Oidc {
    fn new(
        settings: &Settings,
        tasks: &Tasks,
        readiness: &Readiness,
        metrics: &Metrics,
    ) -> anyhow::Result<Self> {
        let issuer = Issuer::new(settings, metrics.clone(), tasks.clone())?;
        issuer.keep_fresh(readiness);
        let inner = Inner {
            issuer,
            expectations: TokenValidation::new(settings),
            validated: TokenCache::new()?,
            resource: ResourceMetadata::new(settings)?,
            metrics: metrics.clone(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }
}

impl Inner {
    async fn judge(&self, headers: &HeaderMap) -> Result<Principal, AuthRejection> {
        let token = match bearer::sent(headers) {
            BearerHeader::Nothing => return Err(AuthRejection::NoToken),
            BearerHeader::Unreadable => return Err(AuthRejection::Unreadable),
            BearerHeader::Token(token) => token,
        };
        if token.len() > token::MAX_BYTES {
            return Err(TokenError::TooLong.into());
        }
        let now = clock::unix_seconds();
        let digest = self.validated.digest(token);
        let current = self.issuer.keys();
        if let Some(principal) = self.validated.get(&digest, current.serial, now) {
            return Ok(principal);
        }
        let header = token::Header::read(token, &self.expectations)?;
        let mut keys = self.issuer.keys_for(&header).await?;
        let mut verdict = token::verify(token, &header, &keys, &self.expectations, now);
        // Which key is meant is not known: it may be one that is not known yet.
        let is_named = keys.knows(header.key.as_deref());
        if !is_named && matches!(verdict, Err(TokenError::Signature | TokenError::UnknownKey)) {
            match self.issuer.keys_after(&keys).await {
                Ok(newer) => {
                    keys = newer;
                    verdict = token::verify(token, &header, &keys, &self.expectations, now);
                }
                Err(NoKeys::Unavailable) => return Err(NoKeys::Unavailable.into()),
                Err(NoKeys::Unpublished) => {}
            }
        }
        let good = verdict?;
        self.validated
            .put(digest, keys.serial, good.until, good.principal.clone());
        Ok(good.principal)
    }
}
