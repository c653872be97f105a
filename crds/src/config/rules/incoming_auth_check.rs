//! Checks the authentication settings.

use http::Uri;
use http::uri::Scheme;

use super::super::{IncomingAuth, IncomingAuthType, OidcConfig};
use super::{FieldError, at, below, endpoint, range, without_secrets, words};

impl IncomingAuth {
    /// Checks the rules that the types do not express.
    ///
    /// # Errors
    /// The path of the first invalid field, and why it is invalid.
    pub fn check(&self) -> Result<(), FieldError> {
        match (self.kind, &self.oidc) {
            (IncomingAuthType::Anonymous, None) => Ok(()),
            (IncomingAuthType::Anonymous, Some(_)) => {
                Err(("oidc".into(), words::OIDC_WITHOUT_EFFECT.to_owned()))
            }
            (IncomingAuthType::Oidc, None) => Err(("oidc".into(), words::OIDC_MISSING.to_owned())),
            (IncomingAuthType::Oidc, Some(oidc)) => oidc.check().map_err(below("oidc")),
        }
    }
}

impl OidcConfig {
    fn check(&self) -> Result<(), FieldError> {
        let allow_http = self.insecure_allow_http;
        let issuer = issuer_url(&self.issuer, allow_http).map_err(at("issuer"))?;
        if issuer.query().is_some() {
            let message = format!(
                "found {:?}; {}",
                without_secrets(&self.issuer),
                words::ISSUER_QUERY
            );
            return Err(("issuer".into(), message));
        }
        if let Some(url) = &self.jwks_url {
            issuer_url(url, allow_http).map_err(at("jwksUrl"))?;
        }
        let audiences = self.audience.all();
        let Some(first) = audiences
            .first()
            .filter(|_| !audiences.iter().any(String::is_empty))
        else {
            return Err(("audience".into(), words::NO_AUDIENCE.to_owned()));
        };
        match &self.resource {
            Some(resource) if resource_url(resource).is_none() => {
                let message = format!(
                    "found {:?}; {}",
                    without_secrets(resource),
                    words::RESOURCE_EXPECTED
                );
                return Err(("resource".into(), message));
            }
            None if resource_url(first).is_none() => {
                return Err(("resource".into(), words::NO_RESOURCE.to_owned()));
            }
            _ => {}
        }
        if let Some(scope) = self.scopes.iter().find(|scope| !is_scope(scope)) {
            return Err((
                "scopes".into(),
                format!("found {scope:?}; {}", words::SCOPE_EXPECTED),
            ));
        }
        if self.algorithms.is_empty() {
            return Err(("algorithms".into(), words::NO_ALGORITHM.to_owned()));
        }
        range::CLOCK_LEEWAY
            .check(self.clock_leeway)
            .map_err(at("clockLeeway"))?;
        range::KEY_REFRESH
            .check(self.key_refresh)
            .map_err(at("keyRefresh"))
    }
}

/// Parses the URL of an issuer or its key set. Requires TLS, because an attacker on the network could substitute keys otherwise.
///
/// # Errors
/// When it is not a URL, or has no TLS. The message contains no secrets of the URL.
pub fn issuer_url(text: &str, allow_http: bool) -> Result<Uri, String> {
    let url = endpoint(text)?;
    if url.scheme() == Some(&Scheme::HTTPS) || allow_http {
        return Ok(url);
    }
    Err(format!(
        "found {:?}; {}",
        without_secrets(text),
        words::HTTPS_EXPECTED
    ))
}

/// Parses the public URL of the endpoint, which must fit into a quoted string of a header.
#[must_use]
pub fn resource_url(text: &str) -> Option<Uri> {
    let url = endpoint(text).ok()?;
    let is_quotable = !text.contains(['"', '\\']);
    (url.query().is_none() && is_quotable).then_some(url)
}

/// Whether `scope` is a scope token of RFC 6749, 3.3.
fn is_scope(scope: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    !scope.is_empty() && scope.bytes().all(allowed)
}
