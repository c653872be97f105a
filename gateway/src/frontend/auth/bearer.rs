//! Reads the bearer token from the header `Authorization` (RFC 6750, section 2.1), the only supported place.

use http::{HeaderMap, header};

/// The bearer credentials of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BearerHeader<'a> {
    /// No token. Credentials of another scheme do not count.
    Missing,
    /// More than one value, or a value that cannot be a token.
    Malformed,
    /// The token.
    Token(&'a [u8]),
}

pub(super) fn read(headers: &HeaderMap) -> BearerHeader<'_> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return BearerHeader::Missing;
    };
    if values.next().is_some() {
        return BearerHeader::Malformed;
    }
    let value = value.as_bytes();
    let scheme_end = value.iter().position(|byte| *byte == b' ').unwrap_or(value.len());
    let (scheme, token) = value.split_at(scheme_end);
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return BearerHeader::Missing;
    }
    let token = token.trim_ascii();
    if token.is_empty() || !token.iter().all(|byte| is_allowed(*byte)) {
        return BearerHeader::Malformed;
    }
    BearerHeader::Token(token)
}

/// Whether `byte` may occur in a `b64token` (RFC 6750).
fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&'static str]) -> HeaderMap {
        let values = values
            .iter()
            .map(|value| (header::AUTHORIZATION, http::HeaderValue::from_static(value)));
        values.collect()
    }

    /// The token is found after the scheme in any case.
    #[test]
    fn bearer_scheme_is_case_insensitive() {
        for value in ["Bearer a.b.c", "bearer a.b.c", "BEARER   a.b.c "] {
            assert_eq!(read(&headers(&[value])), BearerHeader::Token(b"a.b.c"), "{value}");
        }
    }

    /// Credentials of another scheme count as a missing token.
    #[test]
    fn other_credentials_count_as_missing() {
        for values in [&[][..], &["Basic YTpi"], &["Bearerx a"], &[""]] {
            assert_eq!(read(&headers(values)), BearerHeader::Missing, "{values:?}");
        }
    }

    /// Two values, or no token after the scheme, are malformed.
    #[test]
    fn repeated_or_empty_token_is_malformed() {
        for values in [
            &["Bearer"][..],
            &["Bearer "],
            &["Bearer a b"],
            &["Bearer a,b"],
            &["Bearer a", "Bearer b"],
            &["Bearer a", "Basic YTpi"],
        ] {
            assert_eq!(read(&headers(values)), BearerHeader::Malformed, "{values:?}");
        }
    }
}
