//! Where a server of HTTP+SSE wants its messages posted (specification 2024-11-05, basic/transports).

// Strangers send what is read here.
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

/// What the server says in its event `endpoint`, seen from its stream at `stream`. It may be a path or a URL; the way there must be
/// the one that was configured, because what is posted holds the sessions and credentials of clients.
///
/// # Errors
/// When it is somewhere else, or nowhere.
pub(super) fn resolve(stream: &Uri, said: &str) -> Result<Uri, String> {
    let said = said.trim();
    let path = if said.starts_with("//") || said.contains("://") && !said.starts_with(['/', '?']) {
        let absolute = match said.strip_prefix("//") {
            Some(rest) => format!("{}://{rest}", stream.scheme_str().unwrap_or("http")),
            None => said.to_owned(),
        };
        let uri: Uri = absolute
            .parse()
            .map_err(|_| "its endpoint is no URL".to_owned())?;
        if place(&uri) != place(stream) {
            let host = uri.host().unwrap_or_default();
            return Err(format!(
                "its endpoint is at another server, {host}, which is not the one that is configured"
            ));
        }
        uri.path_and_query()
            .map_or_else(|| "/".to_owned(), ToString::to_string)
    } else if said.starts_with('/') {
        said.to_owned()
    } else if said.starts_with('?') {
        format!("{}{said}", stream.path())
    } else {
        let path = stream.path();
        let directory = path.rfind('/').and_then(|end| path.get(..=end)).unwrap_or("/");
        format!("{directory}{said}")
    };
    let mut parts = stream.clone().into_parts();
    let path: PathAndQuery = path.parse().map_err(|_| "its endpoint is no URL".to_owned())?;
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).map_err(|error| error.to_string())
}

/// Scheme, host and port.
fn place(uri: &Uri) -> (Option<&str>, String, u16) {
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

    fn from(stream: &str, said: &str) -> Result<String, String> {
        resolve(&stream.parse().unwrap(), said).map(|uri| uri.to_string())
    }

    #[test]
    fn paths_and_urls_of_the_same_server_are_followed() {
        for (said, expected) in [
            ("/messages?sessionId=1", "http://a:8000/messages?sessionId=1"),
            ("messages/?x=1", "http://a:8000/mcp/messages/?x=1"),
            ("?sessionId=1", "http://a:8000/mcp/sse?sessionId=1"),
            ("http://A:8000/m?u=http://x", "http://a:8000/m?u=http://x"),
            ("//a:8000/m", "http://a:8000/m"),
            ("/m?u=http://x", "http://a:8000/m?u=http://x"),
        ] {
            assert_eq!(from("http://a:8000/mcp/sse", said).unwrap(), expected, "{said}");
        }
        assert_eq!(from("https://a/sse", "https://a:443/m").unwrap(), "https://a/m");
    }

    #[test]
    fn another_server_is_refused_however_it_is_written() {
        for said in [
            "http://b:8000/m",
            "http://a/m",
            "https://a:8000/m",
            "//b:8000/m",
            "http://a:8000@b/m",
            "http://",
            "/a b",
        ] {
            assert!(from("http://a:8000/sse", said).is_err(), "{said}");
        }
    }
}
