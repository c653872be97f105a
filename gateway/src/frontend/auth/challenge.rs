//! What a request is told that cannot be served as somebody's.

use http::{HeaderValue, Response, StatusCode, header};

use super::issuer::NoKeys;
use super::token::TokenError;
use crate::frontend::auth::resource_metadata::ResourceMetadata;
use crate::frontend::response;
use crate::frontend::response::ResponseBody;
use crate::mcp::error_code;

/// Why it is not known who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AuthRejection {
    /// There is no token.
    NoToken,
    /// What there is in its place cannot be one.
    Unreadable,
    /// It is not good.
    Flawed(TokenError),
    /// Whether it is good cannot be known: the issuer's keys cannot be fetched.
    Unknown,
}

impl From<TokenError> for AuthRejection {
    fn from(flaw: TokenError) -> Self {
        Self::Flawed(flaw)
    }
}

impl From<NoKeys> for AuthRejection {
    fn from(reason: NoKeys) -> Self {
        match reason {
            NoKeys::Unpublished => Self::Flawed(TokenError::UnknownKey),
            NoKeys::Unavailable => Self::Unknown,
        }
    }
}

impl AuthRejection {
    /// One word, for the metric.
    pub(super) fn outcome(self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::Unreadable => "unreadable",
            Self::Flawed(flaw) => flaw.outcome(),
            Self::Unknown => "unavailable",
        }
    }

    /// The answer, with a challenge that says where to get a token (RFC 6750, 3; RFC 9728, 5.1).
    pub(super) fn respond(self, resource: &ResourceMetadata) -> Response<ResponseBody> {
        let (status, error, message) = match self {
            Self::Unknown => {
                let message =
                    "The keys of the token issuer cannot be fetched; the token may be good, try again";
                return response::later(None, message);
            }
            // Without a token there is no error: RFC 6750, 3.1.
            Self::NoToken => (
                StatusCode::UNAUTHORIZED,
                None,
                "This endpoint wants a bearer token",
            ),
            Self::Unreadable => (
                StatusCode::BAD_REQUEST,
                Some("invalid_request"),
                "The header Authorization holds something that cannot be a bearer token",
            ),
            Self::Flawed(flaw) => (
                StatusCode::UNAUTHORIZED,
                Some("invalid_token"),
                flaw.description(),
            ),
        };
        let mut response = response::error(status, None, error_code::INVALID_REQUEST, message);
        let challenge = match error {
            None => resource.challenge().to_owned(),
            Some(error) => format!(
                "{}, error=\"{error}\", error_description=\"{message}\"",
                resource.challenge()
            ),
        };
        if let Ok(challenge) = HeaderValue::try_from(challenge) {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}
