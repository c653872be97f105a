//! Rules for values beyond their types, shared by the operator and the gateway, so that the gateway accepts what the operator renders.

mod aggregation_check;
mod backend_check;
mod command_check;
mod hot_check;
mod incoming_auth_check;
pub mod range;
mod session_storage_check;
mod words;

use std::borrow::Cow;

use http::Uri;
use http::header::{AUTHORIZATION, COOKIE, HeaderName, HeaderValue};
use http::uri::{Authority, Scheme};

pub use aggregation_check::{MAX_NAME_BYTES, check_unique_names, is_name_byte};
pub use backend_check::{MAX_LENIENT_NAME_BYTES, is_unprintable};
pub(super) use hot_check::MIN_BUFFERED_BYTES;
pub use hot_check::{host_and_optional_port, is_origin, is_program_origin};
pub use incoming_auth_check::{issuer_url, resource_url};
pub(crate) use words::*;

/// The path of an invalid field, and why it is invalid.
pub type FieldError = (Cow<'static, str>, String);

/// Adds the field to a message.
fn at(field: impl Into<Cow<'static, str>>) -> impl FnOnce(String) -> FieldError {
    move |message| (field.into(), message)
}

/// Adds the parent of a field to its path.
fn below(parent: impl std::fmt::Display) -> impl FnOnce(FieldError) -> FieldError {
    move |(field, message)| (format!("{parent}.{field}").into(), message)
}

/// Description of a DNS label, for error messages.
pub const DNS_LABEL: &str =
    "a DNS label: lower-case letters, digits and `-`, at most 63 characters, no `-` at the ends";
/// Description of a DNS name, for error messages.
pub const DNS_NAME: &str = "DNS labels joined by `.`, at most 253 characters";

/// Whether `text` is a DNS label.
#[must_use]
pub fn is_dns_label(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Whether `text` is a DNS name.
#[must_use]
pub fn is_dns_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

/// Parses the URL of a backend's endpoint.
///
/// # Errors
/// When the text is not an `http` or `https` URL that can be called. The message contains no secrets of the URL.
pub fn endpoint(text: &str) -> Result<Uri, String> {
    parse_endpoint(text).ok_or_else(|| format!("found {:?}; {ENDPOINT_EXPECTED}", without_secrets(text)))
}

fn parse_endpoint(text: &str) -> Option<Uri> {
    let url: Uri = text.parse().ok()?;
    let scheme = url.scheme()?;
    let authority = url.authority()?;
    let plain = is_host_and_port(authority) && !text.contains('#');
    (plain && (*scheme == Scheme::HTTP || *scheme == Scheme::HTTPS)).then_some(url)
}

/// Whether the authority has no user information, and its port is valid if there is one.
fn is_host_and_port(authority: &Authority) -> bool {
    // `Authority` also accepts ports that are not valid 16-bit numbers.
    let port = authority.as_str().strip_prefix(authority.host());
    port.is_some_and(|port| port.is_empty() || authority.port_u16().is_some_and(|port| port > 0))
}

/// Replacement for secrets in URLs.
pub const HIDDEN: &str = "<hidden>";

/// Returns a URL (or a malformed one) for use in a message, a log or a status: without user information and query values, which may be
/// secrets.
#[must_use]
pub fn without_secrets(url: &str) -> String {
    let parsed: Option<Uri> = url.parse().ok();
    let has_clear_authority = parsed.is_some_and(|url| url.authority().is_some_and(is_host_and_port));
    if !has_clear_authority && let Some((before, behind)) = url.rsplit_once('@') {
        // The end of the password is ambiguous, so hide everything that may belong to it.
        let scheme = before.split_once("://").map(|(scheme, _)| format!("{scheme}://"));
        let scheme = scheme.unwrap_or_default();
        return format!("{scheme}{HIDDEN}@{}", without_values(behind));
    }
    without_values(url)
}

fn without_values(url: &str) -> String {
    let Some((base, query)) = url.split_once('?') else {
        return url.to_owned();
    };
    let fields = query.split('&').map(|field| match field.split_once('=') {
        Some((name, _)) => format!("{name}={HIDDEN}"),
        None if field.is_empty() => String::new(),
        None => HIDDEN.to_owned(),
    });
    format!("{base}?{}", fields.collect::<Vec<_>>().join("&"))
}

/// Headers that HTTP and MCP set themselves, or that belong to one connection. The configuration must not set them.
pub(super) const OWN_HEADERS: [&str; 17] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "last-event-id",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Parses the name of a header that the configuration may set in requests to a backend.
///
/// # Errors
/// When the text is not a header name, or the name of a header that HTTP and MCP set themselves.
pub fn header(text: &str) -> Result<HeaderName, String> {
    if text.contains('*') {
        return Err(format!(
            "found {text:?}; wildcards are not allowed, so list each header by its name"
        ));
    }
    let name: HeaderName = text
        .parse()
        .map_err(|_| format!("invalid header name {text:?}"))?;
    if OWN_HEADERS.contains(&name.as_str()) || name.as_str().starts_with("mcp-") {
        return Err(format!("header {text:?} is not allowed: {OWN_HEADER}"));
    }
    Ok(name)
}

/// Parses the name of a header that may be forwarded from a client to a backend.
///
/// # Errors
/// The same as [`header`], and for headers that authenticate the client to the gateway.
pub fn passed_header(text: &str) -> Result<HeaderName, String> {
    let name = header(text)?;
    if name == AUTHORIZATION || name == COOKIE {
        return Err(format!("header {text:?} is not allowed: {CREDENTIAL_HEADER}"));
    }
    Ok(name)
}

/// The value of a header whose secret part is `text`: `prefix` and `text`, without line breaks at the end of `text`.
///
/// # Errors
/// What is wrong with `text`, as a phrase that follows "its value". It does not contain the text.
pub fn header_value(prefix: &str, text: &str) -> Result<HeaderValue, &'static str> {
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err("is empty");
    }
    let mut value = HeaderValue::from_str(&format!("{prefix}{text}"))
        .map_err(|_| "contains a character that a header must not contain")?;
    value.set_sensitive(true);
    Ok(value)
}

/// Parses the host and port of a Redis server.
///
/// # Errors
/// When the text is not `host:port`.
pub fn host_and_port(address: &str) -> Result<(String, u16), String> {
    let parsed = address.rsplit_once(':').and_then(|(host, port)| {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = bare.unwrap_or(host);
        let valid = !host.is_empty() && !host.contains(['/', '@', ' ']);
        let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
        valid.then(|| (host.to_owned(), port))
    });
    parsed.ok_or_else(|| {
        let found = without_secrets(address);
        format!("found {found:?}; {HOST_AND_PORT_EXPECTED}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // Headers that HTTP and MCP set themselves, and headers that authenticate the client, are not forwarded.
    #[test]
    fn own_and_credential_headers_are_not_forwarded() {
        for name in ["X-Tenant", "origin", "user-agent"] {
            assert!(header(name).is_ok() && passed_header(name).is_ok(), "{name}");
        }
        for name in ["Authorization", "cookie"] {
            assert!(header(name).is_ok() && passed_header(name).is_err(), "{name}");
        }
        for name in [
            "Host",
            "MCP-Session-Id",
            "mcp-anything",
            "Transfer-Encoding",
            "Last-Event-ID",
            "a b",
            "*",
            "X-*",
            "",
        ] {
            assert!(header(name).is_err() && passed_header(name).is_err(), "{name}");
        }
    }

    // A value may end with a line break, as files do, but contains none, and no error repeats it.
    #[test]
    fn header_value_is_checked_without_being_repeated() {
        for text in ["s3cret", "s3cret\n", "s3cret\r\n"] {
            let value = header_value("Bearer ", text).unwrap();
            assert_eq!(value, "Bearer s3cret");
            assert!(!format!("{value:?}").contains("s3cret"));
        }
        for text in ["", "\n", "s3cret\nx", "s3cret\0"] {
            let message = header_value("", text).unwrap_err();
            assert!(!message.contains("s3cret"), "{message}");
        }
    }

    #[test]
    fn only_callable_url_is_endpoint() {
        for url in [
            "http://a/mcp",
            "https://a.b:8443/x?y=z",
            "http://[::1]:9/mcp",
            "http://10.0.0.1",
        ] {
            assert!(endpoint(url).is_ok(), "{url}");
        }
        for url in [
            "ftp://a/mcp",
            "/mcp",
            "http://a/mcp#x",
            "http://a:b:c/mcp",
            "http://[::1/mcp",
            "http://a/<x>",
            "http://ä/mcp",
            "http://a:99999/mcp",
            "http://a:/mcp",
            "http://me:hunter2@a/mcp",
        ] {
            let message = endpoint(url).unwrap_err();
            assert!(
                message.contains("for example") && !message.contains("hunter2"),
                "{message}"
            );
        }
    }

    #[test]
    fn shown_url_contains_no_secret() {
        for (url, shown) in [
            ("https://a/mcp", "https://a/mcp"),
            (
                "https://a/mcp?key=s3cret&x=",
                "https://a/mcp?key=<hidden>&x=<hidden>",
            ),
            ("https://a/mcp?s3cret", "https://a/mcp?<hidden>"),
            ("https://a/mcp?mail=s3cret@b.c", "https://a/mcp?mail=<hidden>"),
            (
                "https://me:s3cret@a/mcp?k=s3cret",
                "https://<hidden>@a/mcp?k=<hidden>",
            ),
            ("https://me:s3?c/r#et@a/mcp", "https://<hidden>@a/mcp"),
            ("redis://:s3cret@r:6379", "redis://<hidden>@r:6379"),
            ("s3cret@r:6379", "<hidden>@r:6379"),
            ("me:s3cret@http://a/mcp", "<hidden>@http://a/mcp"),
            ("a b?s3cret", "a b?<hidden>"),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
        let refused = [
            endpoint("ftp://a/mcp?key=s3cret").unwrap_err(),
            host_and_port("redis://:s3cret@r:6379").unwrap_err(),
        ];
        assert!(!refused.join("").contains("s3cret"), "{refused:?}");
    }

    #[test]
    fn redis_address_is_host_and_port() {
        assert_eq!(host_and_port("redis:6379"), Ok(("redis".to_owned(), 6379)));
        assert_eq!(host_and_port("[fd00::1]:1"), Ok(("fd00::1".to_owned(), 1)));
        for address in [
            "redis",
            "redis:port",
            ":6379",
            "r:99999",
            "r:0",
            "redis://r:1",
            "u@r:1",
        ] {
            assert!(host_and_port(address).is_err(), "{address}");
        }
    }
}
