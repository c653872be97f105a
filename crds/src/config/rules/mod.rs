//! The rules that a value must keep beyond its type: one place, so that what the operator renders is what the gateway reads.

mod session_storage;

use http::Uri;
use http::uri::Scheme;

/// What a name of a backend is, for error messages.
pub const DNS_LABEL: &str =
    "a DNS label: lower-case letters, digits and `-`, at most 63 characters, no `-` at the ends";
/// What a name of a virtual server is, for error messages.
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

/// The endpoint of a backend.
///
/// # Errors
/// When the text is no URL that can be called; the message never repeats a password in it.
pub fn endpoint(text: &str) -> Result<Uri, String> {
    parse_endpoint(text).ok_or_else(|| {
        format!(
            "found {:?}; expected an http or https URL without user, password or fragment, for example \
             http://time.tools.svc:8000/mcp",
            without_userinfo(text)
        )
    })
}

fn parse_endpoint(text: &str) -> Option<Uri> {
    let url: Uri = text.parse().ok()?;
    let scheme = url.scheme()?;
    let authority = url.authority()?;
    // A port that is no number of 16 bits stands in the authority and is none.
    let port = authority.as_str().strip_prefix(authority.host())?;
    let has_port = port.is_empty() || authority.port_u16().is_some_and(|port| port > 0);
    let plain = !authority.as_str().contains('@') && !text.contains('#');
    (plain && has_port && (*scheme == Scheme::HTTP || *scheme == Scheme::HTTPS)).then_some(url)
}

fn without_userinfo(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => format!("{}://<hidden>{}", &url[..scheme], &url[at..]),
        _ => url.to_owned(),
    }
}

/// The host and the port of a Redis server.
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
    parsed.ok_or_else(|| format!("found {address:?}; expected host:port, for example redis.tools.svc:6379"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_can_be_called_is_an_endpoint() {
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
    fn an_address_is_a_host_and_a_port() {
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
