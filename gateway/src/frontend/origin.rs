//! Checks the headers `Host` and `Origin` (protection against DNS rebinding).
//!
//! A malicious web page can make a browser send requests to addresses that the page's owner cannot reach,
//! under a host name that the owner points there. Such a request has that name in `Host`, and the page's
//! origin in `Origin`.
//!
//! `Host` is checked if the configuration has a list, and always on loopback, where only the names of this
//! machine are right. `Origin` is always checked, because servers must (specification, basic/transports).
//! Programs other than browsers send no `Origin` and pass. An origin passes if it is listed, if it is on this
//! machine and the endpoint listens on loopback, or if it is the endpoint's own origin and the host has been
//! checked.

use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Request, Response, Version, header};

use crate::config::{AccessPolicy, HostPort, Origin};
use crate::frontend::header_checks::filled;
use crate::frontend::rejection::Rejection;
use crate::frontend::response::ResponseBody;

/// Rejects a request that is not meant for this endpoint. Returns the origin of the page that sent the
/// request, if a page did.
pub(super) fn check<B>(
    request: &Request<B>,
    access: &AccessPolicy,
    on_loopback: bool,
) -> Result<Option<HeaderValue>, Response<ResponseBody>> {
    let headers = request.headers();
    if request.version() == Version::HTTP_11 && !headers.contains_key(header::HOST) {
        let message = "The header Host is missing";
        return Err(Rejection::InvalidHeaders.response(None, message));
    }
    let is_checked = on_loopback || !access.hosts.is_empty();
    let origin = headers.get(header::ORIGIN);
    let text = host_text(request.uri().authority(), headers);
    // Fast path: nearly every program sends this.
    if origin.is_none() && (!is_checked || on_loopback && text.is_some_and(HostPort::is_plain_loopback)) {
        return Ok(None);
    }
    let host = text.and_then(HostPort::parse);
    if is_checked
        && !host
            .as_ref()
            .is_some_and(|host| is_host(host, access, on_loopback))
    {
        return Err(Rejection::ForbiddenHost.response(
            None,
            if access.hosts.is_empty() {
                "The header Host names another machine; this endpoint listens on loopback only"
            } else {
                "The header Host names none of the configured allowedHosts"
            },
        ));
    }
    let Some(origin) = filled(headers, header::ORIGIN) else {
        return Ok(None);
    };
    let allowed = origin
        .to_str()
        .ok()
        .and_then(Origin::parse)
        .is_some_and(|origin| {
            access.origins.contains(&origin)
                || (on_loopback && origin.at().is_some_and(HostPort::is_loopback))
                || (is_checked && host.is_some() && host.as_ref() == origin.at())
        });
    if allowed {
        return Ok(Some(origin.clone()));
    }
    Err(Rejection::ForbiddenOrigin.response(
        None,
        "The header Origin names a page that is none of the configured allowedOrigins",
    ))
}

/// The requested host: the authority of the request target if it has one, as in requests to proxies, and
/// otherwise `Host` (RFC 9112, section 3.2.2).
fn host_text<'a>(authority: Option<&'a Authority>, headers: &'a HeaderMap) -> Option<&'a str> {
    match authority {
        Some(authority) => Some(authority.as_str()),
        None => headers.get(header::HOST)?.to_str().ok(),
    }
}

fn is_host(host: &HostPort, access: &AccessPolicy, on_loopback: bool) -> bool {
    (on_loopback && host.is_loopback()) || access.hosts.iter().any(|allowed| allowed.allows(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(access: &AccessPolicy, on_loopback: bool, host: &str, origin: Option<&str>) -> u16 {
        let mut request = Request::builder().uri("/mcp").header(header::HOST, host);
        if let Some(origin) = origin {
            request = request.header(header::ORIGIN, origin);
        }
        check(&request.body(()).unwrap(), access, on_loopback).map_or_else(
            |rejection| rejection.status().as_u16(),
            |found| {
                assert_eq!(found.is_some(), origin.is_some());
                200
            },
        )
    }

    fn listed() -> AccessPolicy {
        AccessPolicy {
            hosts: vec![HostPort::parse("mcp.example.com").unwrap()],
            origins: vec![Origin::parse("https://app.example.com").unwrap()],
        }
    }

    /// On loopback every name of this machine is accepted.
    #[test]
    fn loopback_accepts_every_name_of_this_machine() {
        let nobody = AccessPolicy::default();
        for host in [
            "localhost:4483",
            "127.0.0.1:4483",
            "[::1]:4483",
            "LOCALHOST",
            "127.0.0.2",
        ] {
            assert_eq!(status(&nobody, true, host, None), 200, "{host}");
            assert_eq!(
                status(
                    &nobody,
                    true,
                    host,
                    Some(&format!("http://{}", host.to_lowercase()))
                ),
                200
            );
        }
    }

    /// A page of another machine is rejected because of its host or its origin.
    #[test]
    fn foreign_host_or_origin_gets_403() {
        let nobody = AccessPolicy::default();
        for host in ["evil.example.com", "localhost.evil.example", "10.0.0.1:4483", ""] {
            assert_eq!(status(&nobody, true, host, None), 403, "{host}");
        }
        for origin in [
            "http://evil.example.com",
            "null",
            "https://localhost.evil.example",
            "file://localhost",
        ] {
            assert_eq!(
                status(&nobody, true, "localhost:4483", Some(origin)),
                403,
                "{origin}"
            );
            assert_eq!(status(&nobody, false, "10.0.0.1", Some(origin)), 403, "{origin}");
        }
        // A page whose own host name resolves to this address.
        assert_eq!(
            status(
                &nobody,
                false,
                "evil.example.com",
                Some("http://evil.example.com")
            ),
            403
        );
    }

    /// Origins without a host, such as those of desktop programs, pass only if they are listed.
    #[test]
    fn opaque_origin_passes_only_when_listed() {
        let origins = [
            "app://obsidian.md",
            "chrome-extension://abcdef",
            "null",
            "file://",
        ];
        let listed = AccessPolicy {
            hosts: Vec::new(),
            origins: origins.map(|origin| Origin::parse(origin).unwrap()).to_vec(),
        };
        for origin in origins {
            assert_eq!(status(&listed, false, "10.0.0.1", Some(origin)), 200, "{origin}");
            for on_loopback in [true, false] {
                let nobody = AccessPolicy::default();
                assert_eq!(
                    status(&nobody, on_loopback, "localhost", Some(origin)),
                    403,
                    "{origin}"
                );
            }
        }
        for origin in [
            "app://other.md",
            "app://localhost",
            "chrome-extension://abcde",
            "NULL",
        ] {
            assert_eq!(status(&listed, true, "localhost", Some(origin)), 403, "{origin}");
        }
    }

    /// Off loopback, every host passes until the configuration has a list.
    #[test]
    fn any_host_passes_without_a_list() {
        assert_eq!(
            status(&AccessPolicy::default(), false, "any.example.com", None),
            200
        );
        assert_eq!(status(&listed(), false, "any.example.com", None), 403);
        assert_eq!(status(&listed(), false, "localhost", None), 403);
        assert_eq!(status(&listed(), true, "localhost", None), 200);
        assert_eq!(status(&listed(), true, "mcp.example.com", None), 200);
        assert_eq!(status(&listed(), false, "mcp.example.com:8080", None), 200);
    }

    /// An origin passes if it is listed, or if it is the endpoint's own.
    #[test]
    fn listed_or_own_origin_passes() {
        let page = |origin| status(&listed(), false, "mcp.example.com", Some(origin));
        assert_eq!(page("https://app.example.com"), 200);
        assert_eq!(page("https://mcp.example.com"), 200);
        assert_eq!(page("http://app.example.com"), 403);
        assert_eq!(page("https://app.example.com:8443"), 403);
    }

    /// The authority of the request target counts, not the header `Host`.
    #[test]
    fn request_target_overrides_host() {
        let request = |target: &str| {
            let request = Request::builder().uri(target).header(header::HOST, "localhost");
            check(&request.body(()).unwrap(), &AccessPolicy::default(), true).is_ok()
        };
        assert!(request("http://127.0.0.1:4483/mcp"));
        assert!(!request("http://evil.example.com/mcp"));
    }
}
