//! Who may talk to an endpoint that listens on loopback: programs of this machine, and no page of the web.
//!
//! A browser that has opened somebody's page can be made to send requests to loopback addresses, under a name that the page's owner
//! points there (DNS rebinding). Such a request names that host in `Host`, or the page in `Origin` (specification, basic/transports:
//! servers must validate the origin).

use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::respond::{self, Body};
use crate::wire::code;

/// Refuses a request whose host or origin is not this machine.
pub(super) fn check(headers: &HeaderMap) -> Result<(), Response<Body>> {
    let host = headers.get(header::HOST);
    if host.is_some_and(|host| !host.to_str().is_ok_and(is_loopback)) {
        return Err(refuse(
            "The header Host names another machine; this endpoint listens on loopback only",
        ));
    }
    let origin = headers.get(header::ORIGIN);
    if origin.is_some_and(|origin| !is_loopback_origin(origin)) {
        return Err(refuse(
            "The header Origin names a page of another machine; this endpoint listens on loopback only",
        ));
    }
    Ok(())
}

fn refuse(message: &str) -> Response<Body> {
    respond::error(StatusCode::FORBIDDEN, None, code::INVALID_REQUEST, message)
}

fn is_loopback_origin(origin: &HeaderValue) -> bool {
    let origin = origin.to_str().unwrap_or_default();
    let authority = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    authority.is_some_and(is_loopback)
}

fn is_loopback(authority: &str) -> bool {
    let Ok(authority) = authority.parse::<Authority>() else {
        return false;
    };
    let host = authority.host();
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let is_address = bare
        .parse::<std::net::IpAddr>()
        .is_ok_and(|address| address.is_loopback());
    is_address || host.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(host: &str, origin: Option<&str>) -> Option<u16> {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        check(&headers).err().map(|refusal| refusal.status().as_u16())
    }

    #[test]
    fn this_machine_passes_under_each_of_its_names() {
        for host in [
            "localhost:4483",
            "127.0.0.1:4483",
            "[::1]:4483",
            "LOCALHOST",
            "127.0.0.2",
        ] {
            assert_eq!(status(host, None), None, "{host}");
            assert_eq!(status(host, Some(&format!("http://{host}"))), None, "{host}");
        }
    }

    #[test]
    fn a_page_of_another_machine_is_refused_by_its_host_or_its_origin() {
        for host in ["evil.example.com", "localhost.evil.example", "10.0.0.1:4483", ""] {
            assert_eq!(status(host, None), Some(403), "{host}");
        }
        for origin in [
            "http://evil.example.com",
            "null",
            "https://localhost.evil.example",
            "file://localhost",
        ] {
            assert_eq!(status("localhost:4483", Some(origin)), Some(403), "{origin}");
        }
    }
}
