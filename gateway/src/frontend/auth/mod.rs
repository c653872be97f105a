//! Authenticates requests: anonymous, or by a JWT of a configured issuer.
//!
//! Every request carries a token; a session id does not authenticate (specification, basic/authorization). A
//! request without a valid token gets 401 with a challenge that says where to get one. If the token cannot be
//! verified because the issuer's keys cannot be fetched, the response is 503. Both come before any session
//! lookup.
//!
//! The token stays in this module: it is never sent upstream, stored or logged.

// Tokens come from untrusted clients.
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
use issuer::{Issuer, KeyLookupError};
use resource_metadata::ResourceMetadata;
use token::{TokenError, TokenValidation};
use token_cache::TokenCache;

pub use issuer_fetch::authorities;

/// How requests are authenticated. A cheap-clone handle.
#[derive(Clone, Debug)]
pub enum Authentication {
    /// Not at all: every request is anonymous.
    Anonymous,
    /// By a bearer token.
    Oidc(Oidc),
}

/// Verifies the tokens of one issuer. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct Oidc {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    issuer: Issuer,
    validation: TokenValidation,
    cache: TokenCache,
    resource: ResourceMetadata,
    metrics: Metrics,
}

/// State of the token issuer, for the status endpoint.
#[derive(Clone, Debug)]
pub struct IssuerState {
    /// URL of the issuer.
    pub issuer: String,
    /// Number of usable keys.
    pub keys: usize,
    /// Why the last refresh of the keys failed, or why changed certificate authorities are not used.
    pub error: Option<String>,
}

impl Authentication {
    /// Creates the authentication that `settings` configure. The issuer's keys are fetched in the background;
    /// `readiness` waits for the first ones.
    ///
    /// # Errors
    ///
    /// If the file of certificate authorities cannot be used, or the system has no randomness.
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

    /// State of the token issuer; `None` without authentication.
    #[must_use]
    pub fn issuer(&self) -> Option<IssuerState> {
        match self {
            Self::Anonymous => None,
            Self::Oidc(oidc) => Some(oidc.inner.issuer.state()),
        }
    }

    /// Authenticates a request by its headers.
    pub(super) async fn principal(&self, headers: &HeaderMap) -> Result<Principal, Response<ResponseBody>> {
        let Self::Oidc(Oidc { inner }) = self else {
            return Ok(Principal::Anonymous);
        };
        let authenticated = Box::pin(inner.authenticate(headers)).await;
        let outcome = authenticated
            .as_ref()
            .err()
            .map_or("accepted", |rejection| rejection.outcome());
        inner.metrics.authentication(outcome);
        authenticated.map_err(|rejection| {
            tracing::debug!(outcome, "request not authenticated");
            rejection.respond(&inner.resource)
        })
    }

    /// The response to a request for the protected resource metadata (RFC 9728); `None` if `path` is another
    /// one.
    pub(super) fn metadata_response(&self, method: &Method, path: &str) -> Option<Response<ResponseBody>> {
        match self {
            Self::Anonymous => None,
            Self::Oidc(oidc) => oidc.inner.resource.metadata_response(method, path),
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
        let issuer = Issuer::new(settings, metrics.clone(), tasks.clone());
        let issuer = issuer.map_err(anyhow::Error::msg)?;
        issuer.keep_fresh(readiness);
        let inner = Inner {
            issuer,
            validation: TokenValidation::new(settings),
            cache: TokenCache::new()?,
            resource: ResourceMetadata::new(settings)?,
            metrics: metrics.clone(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }
}

impl Inner {
    async fn authenticate(&self, headers: &HeaderMap) -> Result<Principal, AuthRejection> {
        let token = match bearer::read(headers) {
            BearerHeader::Missing => return Err(AuthRejection::MissingToken),
            BearerHeader::Malformed => return Err(AuthRejection::MalformedHeader),
            BearerHeader::Token(token) => token,
        };
        if token.len() > token::MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong.into());
        }
        let now = clock::unix_seconds();
        let digest = self.cache.digest(token);
        let current = self.issuer.keys();
        if let Some(principal) = self.cache.get(&digest, current.serial, now) {
            return Ok(principal);
        }
        let header = token::TokenHeader::read(token, &self.validation)?;
        let mut keys = self.issuer.keys_for(&header).await?;
        let mut verification = token::verify(token, &header, &keys, &self.validation, now);
        // The token does not say which key: it may be one that was published since.
        let is_named = keys.has_key_id(header.key.as_deref());
        if !is_named && matches!(verification, Err(TokenError::Signature | TokenError::UnknownKey)) {
            match self.issuer.keys_after(&keys).await {
                Ok(newer) => {
                    keys = newer;
                    verification = token::verify(token, &header, &keys, &self.validation, now);
                }
                Err(KeyLookupError::Unavailable) => return Err(KeyLookupError::Unavailable.into()),
                Err(KeyLookupError::Unpublished) => {}
            }
        }
        let verified = verification?;
        self.cache.put(
            digest,
            keys.serial,
            verified.valid_until,
            verified.principal.clone(),
        );
        Ok(verified.principal)
    }
}
