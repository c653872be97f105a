//! Validates the authentication settings.

use std::path::Path;
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;
use vmcp_crds::config::{IncomingAuth as Raw, IncomingAuthType, OidcConfig, rules};

use super::{ConfigFault, directory};
use crate::config::{IncomingAuth, OidcSettings};

const MAX_LEEWAY: Duration = Duration::from_secs(300);
const MIN_REFRESH: Duration = Duration::from_secs(1);

pub(super) fn incoming_auth(raw: &Raw, file: &Path) -> Result<IncomingAuth, ConfigFault> {
    match (raw.kind, &raw.oidc) {
        (IncomingAuthType::Anonymous, None) => Ok(IncomingAuth::Anonymous),
        (IncomingAuthType::Anonymous, Some(_)) => {
            let message = "has no effect with `type: anonymous`; set `type: oidc` or remove it";
            Err(ConfigFault::at("incomingAuth.oidc", message.to_owned()))
        }
        (IncomingAuthType::Oidc, None) => {
            let message = "missing; `type: oidc` needs the issuer and the audience of its tokens";
            Err(ConfigFault::at("incomingAuth.oidc", message.to_owned()))
        }
        (IncomingAuthType::Oidc, Some(oidc)) => {
            let oidc = checked(oidc, file).map_err(|(field, message)| {
                ConfigFault::at(&format!("incomingAuth.oidc.{field}"), message)
            })?;
            Ok(IncomingAuth::Oidc(Box::new(oidc)))
        }
    }
}

fn checked(raw: &OidcConfig, file: &Path) -> Result<OidcSettings, (&'static str, String)> {
    let allow_http = raw.insecure_allow_http;
    let issuer = issuer_url(&raw.issuer, allow_http).map_err(|message| ("issuer", message))?;
    if issuer.query().is_some() {
        return Err((
            "issuer",
            format!(
                "found {:?}; an issuer has no query",
                rules::without_secrets(&raw.issuer)
            ),
        ));
    }
    let jwks_url = raw.jwks_url.as_deref().map(|url| issuer_url(url, allow_http));
    let jwks_url = jwks_url.transpose().map_err(|message| ("jwksUrl", message))?;
    let audiences = raw.audience.all().to_vec();
    if audiences.is_empty() || audiences.iter().any(String::is_empty) {
        let message = "empty; name the audience that tokens must have, for example the URL of this endpoint";
        return Err(("audience", message.to_owned()));
    }
    let resource = match &raw.resource {
        Some(resource) => resource_url(resource).ok_or_else(|| {
            let message = format!(
                "found {:?}; expected the http or https URL that clients use, without query or fragment",
                rules::without_secrets(resource)
            );
            ("resource", message)
        }),
        None => resource_url(&audiences[0]).ok_or_else(|| {
            let message = "missing; the first audience is not a URL, so name the URL that clients use, for example \
                           https://tools.example.com/mcp";
            ("resource", message.to_owned())
        }),
    }?;
    if let Some(scope) = raw.scopes.iter().find(|scope| !is_scope(scope)) {
        let message =
            format!("found {scope:?}; a scope is printable ASCII without space, quote and backslash");
        return Err(("scopes", message));
    }
    if raw.algorithms.is_empty() {
        return Err((
            "algorithms",
            "empty; name at least one signing algorithm".to_owned(),
        ));
    }
    let (clock_leeway, key_refresh) = (raw.clock_leeway.get(), raw.key_refresh.get());
    if clock_leeway > MAX_LEEWAY {
        return Err((
            "clockLeeway",
            format!("found {}; the maximum is 5m", raw.clock_leeway),
        ));
    }
    if key_refresh < MIN_REFRESH {
        return Err((
            "keyRefresh",
            format!("found {}; the minimum is 1s", raw.key_refresh),
        ));
    }
    let directory = directory(file);
    Ok(OidcSettings {
        issuer: raw.issuer.clone(),
        audiences,
        resource,
        jwks_url,
        scopes: raw.scopes.clone(),
        algorithms: raw.algorithms.clone(),
        clock_leeway,
        key_refresh,
        ca_bundle: raw.ca_bundle_path.as_ref().map(|path| directory.join(path)),
        allow_http,
    })
}

/// The URL of an issuer or its key set. Requires TLS, because an attacker on the network could substitute keys otherwise.
fn issuer_url(text: &str, allow_http: bool) -> Result<Uri, String> {
    let url = rules::endpoint(text)?;
    if url.scheme() == Some(&Scheme::HTTPS) || allow_http {
        return Ok(url);
    }
    Err(format!(
        "found {:?}; expected https (`insecureAllowHttp: true` accepts http)",
        rules::without_secrets(text)
    ))
}

fn resource_url(text: &str) -> Option<Uri> {
    let url = rules::endpoint(text).ok()?;
    let quotable = !text.contains(['"', '\\']);
    (url.query().is_none() && quotable).then_some(url)
}

/// Whether `scope` is a scope token of RFC 6749, 3.3.
fn is_scope(scope: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    !scope.is_empty() && scope.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<IncomingAuth, String> {
        let raw: Raw = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
        incoming_auth(&raw, Path::new("/etc/vmcp/gateway.yaml")).map_err(|error| error.to_string())
    }

    fn oidc(fields: &str) -> Result<OidcSettings, String> {
        match load(&format!("{{type: oidc, oidc: {{{fields}}}}}"))? {
            IncomingAuth::Oidc(oidc) => Ok(*oidc),
            IncomingAuth::Anonymous => panic!("not oidc"),
        }
    }

    #[test]
    fn anonymous_is_the_default() {
        assert!(matches!(load("{}").unwrap(), IncomingAuth::Anonymous));
        let error = load("{oidc: {issuer: 'https://i', audience: 'https://a'}}").unwrap_err();
        assert!(error.contains("type: oidc"), "{error}");
        let error = load("{type: oidc}").unwrap_err();
        assert!(
            error.contains("incomingAuth.oidc") && error.contains("issuer"),
            "{error}"
        );
    }

    #[test]
    fn resource_defaults_to_the_first_audience() {
        let one = oidc("issuer: 'https://i', audience: 'https://t.example/mcp'").unwrap();
        assert_eq!(one.resource, "https://t.example/mcp");
        let named = "issuer: 'https://i', audience: [tools, 'x'], resource: 'https://t.example/mcp'";
        let named = oidc(named).unwrap();
        assert_eq!((named.resource.path(), named.audiences.len()), ("/mcp", 2));
        assert_eq!(named.algorithms.len(), 9);
        let with_ca = oidc("issuer: 'https://i', audience: 'https://a', caBundlePath: ca.pem").unwrap();
        assert_eq!(with_ca.ca_bundle.unwrap(), Path::new("/etc/vmcp/ca.pem"));
    }

    #[test]
    fn invalid_settings_are_rejected_with_path_and_reason() {
        let good = "issuer: 'https://i', audience: 'https://a'";
        for (fields, path, found) in [
            (
                "issuer: 'http://i', audience: 'https://a'",
                "oidc.issuer",
                "insecureAllowHttp",
            ),
            (
                "issuer: 'https://i?x', audience: 'https://a'",
                "oidc.issuer",
                "query",
            ),
            ("issuer: i, audience: 'https://a'", "oidc.issuer", "expected"),
            ("issuer: 'https://i', audience: []", "oidc.audience", "empty"),
            ("issuer: 'https://i', audience: ['']", "oidc.audience", "empty"),
            (
                "issuer: 'https://i', audience: tools",
                "oidc.resource",
                "not a URL",
            ),
            (
                &format!("{good}, resource: 'https://t/\"'"),
                "oidc.resource",
                "expected",
            ),
            (
                &format!("{good}, resource: 'https://t/?x'"),
                "oidc.resource",
                "query",
            ),
            (
                &format!("{good}, jwksUrl: 'http://i/keys'"),
                "oidc.jwksUrl",
                "https",
            ),
            (&format!("{good}, scopes: ['a b']"), "oidc.scopes", "a b"),
            (&format!("{good}, algorithms: []"), "oidc.algorithms", "empty"),
            (&format!("{good}, clockLeeway: 6m"), "oidc.clockLeeway", "5m"),
            (&format!("{good}, keyRefresh: 10ms"), "oidc.keyRefresh", "1s"),
        ] {
            let error = oidc(fields).unwrap_err();
            assert!(error.contains(path) && error.contains(found), "{fields}: {error}");
        }
        for (fields, found) in [
            (format!("{good}, algorithms: [HS256]"), "HS256"),
            (format!("{good}, algorithms: [none]"), "none"),
            (
                "issuer: 'https://i', audience: {a: b}".to_owned(),
                "a list of texts",
            ),
        ] {
            let error = oidc(&fields).unwrap_err();
            assert!(error.contains(found), "{fields}: {error}");
        }
        assert!(oidc("issuer: 'http://i', audience: 'https://a', insecureAllowHttp: true").is_ok());
    }
}
