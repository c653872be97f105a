//! Protected resource metadata: tells clients where to get a token (RFC 9728).

use bytes::Bytes;
use http::{Method, Response, StatusCode, Uri};
use serde::Serialize;

use crate::config::OidcSettings as Settings;
use crate::frontend::PATH;
use crate::frontend::response;
use crate::frontend::response::ResponseBody;

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

#[derive(Debug)]
pub(super) struct ResourceMetadata {
    /// The metadata document in JSON.
    document: Bytes,
    /// Path of the resource as clients know it. A proxy in front may have changed it.
    path: String,
    /// The beginning of the header `WWW-Authenticate`.
    challenge: String,
}

#[derive(Serialize)]
struct MetadataDocument<'a> {
    resource: &'a str,
    authorization_servers: [&'a str; 1],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    scopes_supported: &'a [String],
    bearer_methods_supported: [&'a str; 1],
}

impl ResourceMetadata {
    pub(super) fn new(settings: &Settings) -> anyhow::Result<Self> {
        let origin = origin(&settings.resource);
        // A path of `/` alone counts as none: clients write such a URL with and without the slash.
        let path = settings.resource.path().trim_end_matches('/');
        let document = MetadataDocument {
            resource: &format!("{origin}{path}"),
            authorization_servers: [&settings.issuer],
            scopes_supported: &settings.scopes,
            bearer_methods_supported: ["header"],
        };
        let mut challenge = format!("Bearer resource_metadata=\"{origin}{WELL_KNOWN}{path}\"");
        if !settings.scopes.is_empty() {
            challenge.push_str(&format!(", scope=\"{}\"", settings.scopes.join(" ")));
        }
        Ok(Self {
            document: serde_json::to_vec(&document)?.into(),
            path: path.to_owned(),
            challenge,
        })
    }

    /// The beginning of the header `WWW-Authenticate`.
    pub(super) fn challenge(&self) -> &str {
        &self.challenge
    }

    /// The response to a request for `path`, if the document is served there. It needs no token.
    pub(super) fn metadata_response(&self, method: &Method, path: &str) -> Option<Response<ResponseBody>> {
        let of = path.strip_prefix(WELL_KNOWN)?;
        if !of.is_empty() && of != PATH && of != self.path {
            return None;
        }
        Some(match *method {
            Method::GET | Method::HEAD => response::json(StatusCode::OK, self.document.clone()),
            _ => response::text(StatusCode::METHOD_NOT_ALLOWED, "Only GET is allowed.\n"),
        })
    }
}

/// Scheme and host in lower case, which is how clients compare them.
fn origin(url: &Uri) -> String {
    let (scheme, authority) = (url.scheme_str(), url.authority());
    let authority = authority.map(http::uri::Authority::as_str);
    format!(
        "{}://{}",
        scheme.unwrap_or_default(),
        authority.unwrap_or_default().to_ascii_lowercase()
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt as _;
    use serde_json::{Value, json};

    use super::*;

    fn resource(url: &str, scopes: &[&str]) -> ResourceMetadata {
        let settings = Settings {
            issuer: "https://id.example/realm".to_owned(),
            audiences: vec!["tools".to_owned()],
            resource: url.parse().unwrap(),
            jwks_url: None,
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            algorithms: Vec::new(),
            clock_leeway: Duration::ZERO,
            key_refresh: Duration::ZERO,
            ca_bundle: None,
            allow_http: false,
        };
        ResourceMetadata::new(&settings).unwrap()
    }

    async fn document(resource: &ResourceMetadata, path: &str) -> Option<Value> {
        let response = resource.metadata_response(&Method::GET, path)?;
        let body = response.into_body().collect().await.ok()?.to_bytes();
        serde_json::from_slice(&body).ok()
    }

    /// The metadata is served at the root, at the endpoint's path and at the resource's path.
    #[tokio::test]
    async fn metadata_is_served_at_its_three_paths() {
        let resource = resource("HTTPS://Tools.Example/team/mcp", &["a", "b"]);
        let expected = json!({
            "resource": "https://tools.example/team/mcp",
            "authorization_servers": ["https://id.example/realm"],
            "scopes_supported": ["a", "b"],
            "bearer_methods_supported": ["header"],
        });
        for path in ["", "/mcp", "/team/mcp"] {
            let path = format!("{WELL_KNOWN}{path}");
            assert_eq!(
                document(&resource, &path).await.as_ref(),
                Some(&expected),
                "{path}"
            );
        }
        for path in [
            "/mcp",
            "/.well-known/oauth-protected-resource/other",
            "/.well-known/x",
        ] {
            assert_eq!(document(&resource, path).await, None, "{path}");
        }
        assert_eq!(
            resource.challenge(),
            "Bearer resource_metadata=\"https://tools.example/.well-known/oauth-protected-resource/team/mcp\", \
             scope=\"a b\""
        );
    }

    /// A resource without a path has no trailing slash, and an empty list of scopes is left out.
    #[tokio::test]
    async fn host_resource_has_no_slash_and_no_empty_scopes() {
        let resource = resource("https://tools.example/", &[]);
        let document = document(&resource, WELL_KNOWN).await.unwrap();
        assert_eq!(document["resource"], "https://tools.example");
        assert_eq!(document.get("scopes_supported"), None);
        assert!(resource.challenge().ends_with("/oauth-protected-resource\""));
    }

    /// The metadata can be read but not written.
    #[test]
    fn metadata_is_read_only() {
        let resource = resource("https://tools.example/mcp", &[]);
        let status = |method| resource.metadata_response(&method, WELL_KNOWN).unwrap().status();
        assert_eq!(status(Method::HEAD), 200);
        assert_eq!(status(Method::POST), 405);
    }
}
