//! The token in the header `Authorization` (RFC 6750, 2.1), the only place where it is looked for.

use http::{HeaderMap, header};

/// What a request sends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BearerHeader<'a> {
    /// No token. Credentials of another kind are none.
    Nothing,
    /// Something that cannot be a token, or more than one.
    Unreadable,
    /// This.
    Token(&'a [u8]),
}

pub(super) fn sent(headers: &HeaderMap) -> BearerHeader<'_> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return BearerHeader::Nothing;
    };
    if values.next().is_some() {
        return BearerHeader::Unreadable;
    }
    let value = value.as_bytes();
    let scheme_end = value.iter().position(|byte| *byte == b' ').unwrap_or(value.len());
    let (scheme, token) = value.split_at(scheme_end);
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return BearerHeader::Nothing;
    }
    let token = token.trim_ascii();
    if token.is_empty() || !token.iter().all(|byte| is_allowed(*byte)) {
        return BearerHeader::Unreadable;
    }
    BearerHeader::Token(token)
}

/// The characters of `b64token`.
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

    #[test]
    fn a_token_is_found_behind_its_scheme_whatever_its_case() {
        for value in ["Bearer a.b.c", "bearer a.b.c", "BEARER   a.b.c "] {
            assert_eq!(sent(&headers(&[value])), BearerHeader::Token(b"a.b.c"), "{value}");
        }
    }

    #[test]
    fn credentials_of_another_kind_are_no_token() {
        for values in [&[][..], &["Basic YTpi"], &["Bearerx a"], &[""]] {
            assert_eq!(sent(&headers(values)), BearerHeader::Nothing, "{values:?}");
        }
    }

    #[test]
    fn two_tokens_or_none_behind_the_scheme_cannot_be_read() {
        for values in [
            &["Bearer"][..],
            &["Bearer "],
            &["Bearer a b"],
            &["Bearer a,b"],
            &["Bearer a", "Bearer b"],
            &["Bearer a", "Basic YTpi"],
        ] {
            assert_eq!(sent(&headers(values)), BearerHeader::Unreadable, "{values:?}");
        }
    }
}
