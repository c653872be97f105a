//! Resolves the `endpoint` event of HTTP+SSE, the URL for POSTs (specification 2024-11-05, basic/transports).

// This input comes from untrusted servers.
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::string_slice
    )
)]

use http::Uri;
use http::uri::PathAndQuery;

/// Resolves the data of the event `endpoint`, a path or a URL, against the URL `stream`. It must be at the configured server, because
/// POSTs contain sessions and credentials of clients.
///
/// # Errors
/// When it is malformed or at another server.
pub(super) fn resolve(stream: &Uri, endpoint: &str) -> Result<Uri, String> {
    let endpoint = endpoint.trim();
    let path = if endpoint.starts_with("//") || endpoint.contains("://") && !endpoint.starts_with(['/', '?'])
    {
        let absolute = match endpoint.strip_prefix("//") {
            Some(rest) => format!("{}://{rest}", stream.scheme_str().unwrap_or("http")),
            None => endpoint.to_owned(),
        };
        let uri: Uri = absolute
            .parse()
            .map_err(|_| "its endpoint is not a URL".to_owned())?;
        if server(&uri) != server(stream) {
            let host = uri.host().unwrap_or_default();
            return Err(format!(
                "its endpoint is at another server, {host}, which is not the one that is configured"
            ));
        }
        uri.path_and_query()
            .map_or_else(|| "/".to_owned(), ToString::to_string)
    } else if endpoint.starts_with('/') {
        endpoint.to_owned()
    } else if endpoint.starts_with('?') {
        format!("{}{endpoint}", stream.path())
    } else {
        let path = stream.path();
        let directory = path.rfind('/').and_then(|end| path.get(..=end)).unwrap_or("/");
        format!("{directory}{endpoint}")
    };
    let mut parts = stream.clone().into_parts();
    let path: PathAndQuery = path.parse().map_err(|_| "its endpoint is not a URL".to_owned())?;
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).map_err(|error| error.to_string())
}

/// Returns scheme, host and port.
fn server(uri: &Uri) -> (Option<&str>, String, u16) {
    let default = if uri.scheme_str() == Some("https") {
        443
    } else {
        80
    };
    let host = uri.host().unwrap_or_default().to_ascii_lowercase();
    (uri.scheme_str(), host, uri.port_u16().unwrap_or(default))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(stream: &str, endpoint: &str) -> Result<String, String> {
        resolve(&stream.parse().unwrap(), endpoint).map(|uri| uri.to_string())
    }

    #[test]
    fn endpoint_at_the_same_server_is_resolved() {
        for (endpoint, expected) in [
            ("/messages?sessionId=1", "http://a:8000/messages?sessionId=1"),
            ("messages/?x=1", "http://a:8000/mcp/messages/?x=1"),
            ("?sessionId=1", "http://a:8000/mcp/sse?sessionId=1"),
            ("http://A:8000/m?u=http://x", "http://a:8000/m?u=http://x"),
            ("//a:8000/m", "http://a:8000/m"),
            ("/m?u=http://x", "http://a:8000/m?u=http://x"),
        ] {
            assert_eq!(
                from("http://a:8000/mcp/sse", endpoint).unwrap(),
                expected,
                "{endpoint}"
            );
        }
        assert_eq!(from("https://a/sse", "https://a:443/m").unwrap(), "https://a/m");
    }

    #[test]
    fn endpoint_at_another_server_is_refused() {
        for endpoint in [
            "http://b:8000/m",
            "http://a/m",
            "https://a:8000/m",
            "//b:8000/m",
            "http://a:8000@b/m",
            "http://",
            "/a b",
        ] {
            assert!(from("http://a:8000/sse", endpoint).is_err(), "{endpoint}");
        }
    }
}
