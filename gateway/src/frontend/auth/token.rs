//! Verifies a JWT: signature, issuer, audience and validity period.
//!
//! The library checks the signature. The claims are checked here, with the current time as an argument.
//! Errors name the claim and never its value.

use std::sync::Arc;

use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde::Deserialize;
use vmcp_crds::config::SigningAlgorithm;

use crate::config::OidcSettings as Settings;
use crate::core::Principal;
use crate::frontend::auth::jwks::KeySet;

/// Longest accepted token in bytes.
pub(super) const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// Longest accepted subject in bytes; OpenID Connect allows 255 characters.
const MAX_SUBJECT_BYTES: usize = 1024;

/// Why a token is invalid.
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
    /// Value of the metric label `outcome`.
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

    /// One sentence for the client. It must be valid between quotes in a header.
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

/// What a token is checked against.
#[derive(Debug)]
pub(super) struct TokenValidation {
    issuer: Arc<str>,
    audiences: Vec<String>,
    algorithms: Vec<Algorithm>,
    leeway: u64,
}

/// The token's header, read before its signature is checked: the key id and the algorithm.
#[derive(Debug)]
pub(super) struct TokenHeader {
    pub(super) key: Option<String>,
    pub(super) algorithm: Algorithm,
}

/// A verified token.
#[derive(Debug)]
pub(super) struct VerifiedToken {
    pub(super) principal: Principal,
    /// End of its validity, in seconds since 1970.
    pub(super) valid_until: u64,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    // Dates may have a fraction (RFC 7519, section 2).
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
        let valid_until = seconds(claims.exp).saturating_add(self.leeway);
        if now >= valid_until {
            return Err(TokenError::Expired);
        }
        let from = claims.nbf.map_or(0, seconds);
        if now.saturating_add(self.leeway) < from {
            return Err(TokenError::NotYetValid);
        }
        let principal = Principal::subject(Arc::clone(&self.issuer), &claims.sub);
        Ok(VerifiedToken {
            principal,
            valid_until,
        })
    }
}

impl TokenHeader {
    /// Reads the header of `token`. An algorithm that is not accepted is rejected here, before a key is
    /// looked up.
    pub(super) fn read(token: &[u8], validation: &TokenValidation) -> Result<Self, TokenError> {
        let header = decode_header(token).map_err(|_| TokenError::Malformed)?;
        // An extension that must be understood, but is not supported (RFC 7515, section 4.1.11).
        if header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        if !validation.algorithms.contains(&header.alg) {
            return Err(TokenError::Algorithm);
        }
        Ok(Self {
            key: header.kid,
            algorithm: header.alg,
        })
    }
}

/// Verifies `token` at the time `now`, in seconds since 1970.
pub(super) fn verify(
    token: &[u8],
    header: &TokenHeader,
    keys: &KeySet,
    validation: &TokenValidation,
    now: u64,
) -> Result<VerifiedToken, TokenError> {
    let mut signature_only = Validation::new(header.algorithm);
    signature_only.required_spec_claims.clear();
    signature_only.validate_exp = false;
    signature_only.validate_aud = false;
    let mut error = TokenError::UnknownKey;
    for key in keys.candidates(header.key.as_deref(), header.algorithm) {
        use jsonwebtoken::errors::ErrorKind;
        match decode::<Claims>(token, key, &signature_only) {
            Ok(data) => return validation.check(&data.claims, now),
            // The signature is valid; the claims are not.
            Err(error) if matches!(error.kind(), ErrorKind::Json(_) | ErrorKind::Utf8(_)) => {
                return Err(TokenError::Claims);
            }
            Err(_) => error = TokenError::Signature,
        }
    }
    Err(error)
}

/// Converts a date to whole seconds. Dates before 1970 become 1970.
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

    fn validation() -> TokenValidation {
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
        validation()
            .check(&claims, NOW)
            .map(|verified| verified.valid_until)
    }

    /// A token is valid until its expiry plus the leeway.
    #[test]
    fn token_is_valid_until_expiry_plus_leeway() {
        assert_eq!(check(&json!({})), Ok(NOW + 70));
        assert_eq!(check(&json!({"exp": NOW - 9})), Ok(NOW + 1));
        assert_eq!(check(&json!({"exp": 1.8e9 + 0.5})), Ok(NOW + 10));
        assert_eq!(check(&json!({"aud": ["x", "https://t/mcp"]})), Ok(NOW + 70));
        assert_eq!(check(&json!({"nbf": NOW + 10})), Ok(NOW + 70));
        assert_eq!(check(&json!({"exp": 1e300})), Ok(u64::MAX));
    }

    /// Each invalid claim gives its own error.
    #[test]
    fn each_invalid_claim_has_its_error() {
        for (change, error) in [
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
            assert_eq!(check(&change), Err(error), "{change}");
        }
    }
}
