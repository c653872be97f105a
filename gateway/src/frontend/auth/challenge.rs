//! Rejections of unauthenticated requests, and the `WWW-Authenticate` challenge.

use http::{HeaderValue, Response, header};

use super::issuer::KeyLookupError;
use super::token::TokenError;
use crate::frontend::auth::resource_metadata::ResourceMetadata;
use crate::frontend::rejection::Rejection;
use crate::frontend::response::ResponseBody;

/// Why a request is not authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AuthRejection {
    /// The request has no token.
    MissingToken,
    /// The credentials cannot be a bearer token.
    MalformedHeader,
    /// The token is invalid.
    InvalidToken(TokenError),
    /// The token cannot be verified now: the issuer's keys cannot be fetched.
    Unverifiable,
}

impl From<TokenError> for AuthRejection {
    fn from(error: TokenError) -> Self {
        Self::InvalidToken(error)
    }
}

impl From<KeyLookupError> for AuthRejection {
    fn from(reason: KeyLookupError) -> Self {
        match reason {
            KeyLookupError::Unpublished => Self::InvalidToken(TokenError::UnknownKey),
            KeyLookupError::Unavailable => Self::Unverifiable,
        }
    }
}

impl AuthRejection {
    /// Value of the metric label `outcome`.
    pub(super) fn outcome(self) -> &'static str {
        match self {
            Self::MissingToken => "no_token",
            Self::MalformedHeader => "unreadable",
            Self::InvalidToken(error) => error.outcome(),
            Self::Unverifiable => "unavailable",
        }
    }

    /// The response, with a challenge that says where to get a token (RFC 6750, section 3; RFC 9728, section
    /// 5.1).
    pub(super) fn respond(self, resource: &ResourceMetadata) -> Response<ResponseBody> {
        let (rejection, code, message) = match self {
            Self::Unverifiable => {
                let message =
                    "The keys of the token issuer cannot be fetched; the token may be valid, try again";
                return Rejection::IssuerUnavailable.response(None, message);
            }
            // A challenge without a token has no error code (RFC 6750, section 3.1).
            Self::MissingToken => (
                Rejection::Unauthenticated,
                None,
                "This endpoint wants a bearer token",
            ),
            Self::MalformedHeader => (
                Rejection::MalformedAuthorization,
                Some("invalid_request"),
                "The header Authorization holds something that cannot be a bearer token",
            ),
            Self::InvalidToken(error) => (
                Rejection::Unauthenticated,
                Some("invalid_token"),
                error.description(),
            ),
        };
        let mut response = rejection.response(None, message);
        let challenge = match code {
            None => resource.challenge().to_owned(),
            Some(code) => format!(
                "{}, error=\"{code}\", error_description=\"{message}\"",
                resource.challenge()
            ),
        };
        if let Ok(challenge) = HeaderValue::try_from(challenge) {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}
