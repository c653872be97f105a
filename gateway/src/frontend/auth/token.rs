//! Whether a token is good: signed by the issuer, for this gateway, now.
//!
//! The signature is the library's business. The claims are checked here, with the time as an argument and without a word of what
//! they say: errors name the claim and never its value.

use std::sync::Arc;

use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde::Deserialize;
use vmcp_crds::config::SigningAlgorithm;

use crate::config::OidcSettings as Settings;
use crate::core::Principal;
use crate::frontend::auth::jwks::KeySet;

/// The longest token that is read.
pub(super) const MAX_BYTES: usize = 16 * 1024;
/// The longest subject; OpenID Connect has 255 characters.
const MAX_SUBJECT_BYTES: usize = 1024;

/// Why a token is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenError {
    TooLong,
    Malformed,
    Algorithm,
    UnknownKey,
    Signature,
    Claims,
    Issuer,
    Audience,
    Expired,
    NotYetValid,
}

impl TokenError {
    /// One word, for the metric.
    pub(super) fn outcome(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Malformed => "malformed",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Claims => "claims",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
        }
    }

    /// A sentence, for the client. It stands in a header between quotes.
    pub(super) fn description(self) -> &'static str {
        match self {
            Self::TooLong => "The token is longer than 16 KiB",
            Self::Malformed => "The token is not a signed JWT that can be read",
            Self::Algorithm => "The token is signed with an algorithm that is not accepted",
            Self::UnknownKey => "The token is signed with a key that its issuer does not publish",
            Self::Signature => "The signature of the token is not its issuer's",
            Self::Claims => "The token lacks iss, sub, aud or exp, or one of them cannot be read",
            Self::Issuer => "The token is from another issuer",
            Self::Audience => "The token is for another audience",
            Self::Expired => "The token has expired",
            Self::NotYetValid => "The token is not valid yet",
        }
    }
}

/// What a token must be.
#[derive(Debug)]
pub(super) struct TokenValidation {
    issuer: Arc<str>,
    audiences: Vec<String>,
    algorithms: Vec<Algorithm>,
    leeway: u64,
}

/// What a token says before its signature is checked: how it can be.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) key: Option<String>,
    pub(super) algorithm: Algorithm,
}

/// A token that is good.
#[derive(Debug)]
pub(super) struct VerifiedToken {
    pub(super) principal: Principal,
    /// When it ends, in seconds since 1970.
    pub(super) until: u64,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    // Dates may have a fraction (RFC 7519, 2).
    exp: f64,
    #[serde(default)]
    nbf: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl TokenValidation {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            issuer: settings.issuer.as_str().into(),
            audiences: settings.audiences.clone(),
            algorithms: settings.algorithms.iter().map(|name| algorithm(*name)).collect(),
            leeway: settings.clock_leeway.as_secs(),
        }
    }

    fn check(&self, claims: &Claims, now: u64) -> Result<VerifiedToken, TokenError> {
        if claims.iss != *self.issuer {
            return Err(TokenError::Issuer);
        }
        let is_ours = |audience: &String| self.audiences.contains(audience);
        let for_us = match &claims.aud {
            Audience::One(audience) => is_ours(audience),
            Audience::Many(audiences) => audiences.iter().any(is_ours),
        };
        if !for_us {
            return Err(TokenError::Audience);
        }
        if claims.sub.is_empty() || claims.sub.len() > MAX_SUBJECT_BYTES {
            return Err(TokenError::Claims);
        }
        let until = seconds(claims.exp).saturating_add(self.leeway);
        if now >= until {
            return Err(TokenError::Expired);
        }
        let from = claims.nbf.map_or(0, seconds);
        if now.saturating_add(self.leeway) < from {
            return Err(TokenError::NotYetValid);
        }
        let principal = Principal::subject(Arc::clone(&self.issuer), &claims.sub);
        Ok(VerifiedToken { principal, until })
    }
}

impl Header {
    /// The header of `token`, if it is one that is accepted. An algorithm that is not in the list is refused here, before any key
    /// is looked for.
    pub(super) fn read(token: &[u8], expected: &TokenValidation) -> Result<Self, TokenError> {
        let header = decode_header(token).map_err(|_| TokenError::Malformed)?;
        // An extension that must be understood, and is not (RFC 7515, 4.1.11).
        if header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        if !expected.algorithms.contains(&header.alg) {
            return Err(TokenError::Algorithm);
        }
        Ok(Self {
            key: header.kid,
            algorithm: header.alg,
        })
    }
}

/// Whose token it is, if it is good at `now`, in seconds since 1970.
pub(super) fn verify(
    token: &[u8],
    header: &Header,
    keys: &KeySet,
    expected: &TokenValidation,
    now: u64,
) -> Result<VerifiedToken, TokenError> {
    let mut signature_only = Validation::new(header.algorithm);
    signature_only.required_spec_claims.clear();
    signature_only.validate_exp = false;
    signature_only.validate_aud = false;
    let mut flaw = TokenError::UnknownKey;
    for key in keys.fitting(header.key.as_deref(), header.algorithm) {
        use jsonwebtoken::errors::ErrorKind;
        match decode::<Claims>(token, key, &signature_only) {
            Ok(data) => return expected.check(&data.claims, now),
            // The signature was good.
            Err(error) if matches!(error.kind(), ErrorKind::Json(_) | ErrorKind::Utf8(_)) => {
                return Err(TokenError::Claims);
            }
            Err(_) => flaw = TokenError::Signature,
        }
    }
    Err(flaw)
}

/// A date in whole seconds; before 1970 is 1970.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast from float to integer saturates"
)]
fn seconds(date: f64) -> u64 {
    date as u64
}

fn algorithm(name: SigningAlgorithm) -> Algorithm {
    match name {
        SigningAlgorithm::RS256 => Algorithm::RS256,
        SigningAlgorithm::RS384 => Algorithm::RS384,
        SigningAlgorithm::RS512 => Algorithm::RS512,
        SigningAlgorithm::PS256 => Algorithm::PS256,
        SigningAlgorithm::PS384 => Algorithm::PS384,
        SigningAlgorithm::PS512 => Algorithm::PS512,
        SigningAlgorithm::ES256 => Algorithm::ES256,
        SigningAlgorithm::ES384 => Algorithm::ES384,
        SigningAlgorithm::EdDSA => Algorithm::EdDSA,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn expectations() -> TokenValidation {
        TokenValidation {
            issuer: "https://i".into(),
            audiences: vec!["tools".to_owned(), "https://t/mcp".to_owned()],
            algorithms: vec![Algorithm::ES256],
            leeway: 10,
        }
    }

    fn check(change: &Value) -> Result<u64, TokenError> {
        let mut claims = json!({"iss": "https://i", "sub": "a", "aud": "tools", "exp": NOW + 60});
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let claims: Claims = serde_json::from_value(claims).map_err(|_| TokenError::Claims)?;
        expectations().check(&claims, NOW).map(|good| good.until)
    }

    #[test]
    fn a_good_token_is_good_until_it_expires_and_the_leeway_has_passed() {
        assert_eq!(check(&json!({})), Ok(NOW + 70));
        assert_eq!(check(&json!({"exp": NOW - 9})), Ok(NOW + 1));
        assert_eq!(check(&json!({"exp": 1.8e9 + 0.5})), Ok(NOW + 10));
        assert_eq!(check(&json!({"aud": ["x", "https://t/mcp"]})), Ok(NOW + 70));
        assert_eq!(check(&json!({"nbf": NOW + 10})), Ok(NOW + 70));
        assert_eq!(check(&json!({"exp": 1e300})), Ok(u64::MAX));
    }

    #[test]
    fn each_flaw_is_found() {
        for (change, flaw) in [
            (json!({"exp": NOW - 10}), TokenError::Expired),
            (json!({"exp": -1}), TokenError::Expired),
            (json!({"nbf": NOW + 11}), TokenError::NotYetValid),
            (json!({"iss": "https://i/"}), TokenError::Issuer),
            (json!({"iss": ["https://i"]}), TokenError::Claims),
            (json!({"aud": "tool"}), TokenError::Audience),
            (json!({"aud": []}), TokenError::Audience),
            (json!({"aud": [7]}), TokenError::Claims),
            (json!({"sub": ""}), TokenError::Claims),
            (json!({"sub": "x".repeat(1025)}), TokenError::Claims),
            (json!({"sub": 7}), TokenError::Claims),
            (json!({"exp": "tomorrow"}), TokenError::Claims),
            (json!({"exp": null}), TokenError::Claims),
            (json!({"nbf": "today"}), TokenError::Claims),
        ] {
            assert_eq!(check(&change), Err(flaw), "{change}");
        }
    }
}
