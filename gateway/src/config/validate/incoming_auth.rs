//! Validates the authentication settings.

use std::path::Path;

use vmcp_crds::config::{IncomingAuth as Raw, OidcConfig, rules};

use super::{ConfigFault, directory};
use crate::config::{IncomingAuth, OidcSettings};

pub(super) fn incoming_auth(raw: &Raw, file: &Path) -> Result<IncomingAuth, ConfigFault> {
    let refuse = |(field, message)| ConfigFault::at(&format!("incomingAuth.{field}"), message);
    raw.check().map_err(refuse)?;
    match &raw.oidc {
        None => Ok(IncomingAuth::Anonymous),
        Some(oidc) => {
            let oidc = converted(oidc, file).map_err(|message| refuse(("oidc".into(), message)))?;
            Ok(IncomingAuth::Oidc(Box::new(oidc)))
        }
    }
}

/// The settings that `raw`, which is valid, describes.
fn converted(raw: &OidcConfig, file: &Path) -> Result<OidcSettings, String> {
    let allow_http = raw.insecure_allow_http;
    let jwks_url = raw
        .jwks_url
        .as_deref()
        .map(|url| rules::issuer_url(url, allow_http));
    let audiences = raw.audience.all().to_vec();
    let resource = raw.resource.as_ref().or(audiences.first());
    let directory = directory(file);
    Ok(OidcSettings {
        issuer: raw.issuer.clone(),
        resource: resource
            .and_then(|resource| rules::resource_url(resource))
            .ok_or_else(|| "has no URL of the endpoint".to_owned())?,
        audiences,
        jwks_url: jwks_url.transpose()?,
        scopes: raw.scopes.clone(),
        algorithms: raw.algorithms.clone(),
        clock_leeway: raw.clock_leeway.get(),
        key_refresh: raw.key_refresh.get(),
        ca_bundle: raw.ca_bundle_path.as_ref().map(|path| directory.join(path)),
        allow_http,
    })
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
