//! Tokens: which are accepted, what a refused client learns, and that they stay with the gateway.

use std::sync::Arc;

use anyhow::Context as _;
use serde_json::{Value, json};
use vmcp_crds::config::{Audience, OidcConfig, SigningAlgorithm};
use vmcp_e2e::gateway::Recipe;
use vmcp_e2e::http_client;
use vmcp_e2e::issuer::{self, Issuer, SigningKey};
use vmcp_e2e::test_server::TestServer;

use crate::support::{
    Caller, RESOURCE, challenge, check_accepted, check_refused, gateway, oidc, seen, with_auth,
};

/// A request without a token gets 401 with the URL of the resource metadata.
#[test]
fn missing_token_gets_resource_metadata_url() -> anyhow::Result<()> {
    let issuer = Issuer::start()?;
    let settings = OidcConfig {
        scopes: vec!["tools:call".to_owned(), "openid".to_owned()],
        ..oidc(&issuer)?
    };
    let (_, gateway) = gateway(settings)?;
    let anonymous = Caller::default();
    let refusal = anonymous.initialize(gateway.mcp)?;
    assert_eq!((refusal.status, refusal.error_code()), (401, -32600));
    let metadata = "https://tools.example.com/.well-known/oauth-protected-resource/mcp";
    assert_eq!(
        challenge(&refusal),
        format!("Bearer resource_metadata=\"{metadata}\", scope=\"tools:call openid\"")
    );
    // The same response for every request and session id: no session is loaded.
    for answer in anonymous.try_everything(gateway.mcp)? {
        assert_eq!(seen(&[answer]), seen(std::slice::from_ref(&refusal)));
    }
    for answer in anonymous.naming("v1.AAAA").try_everything(gateway.mcp)? {
        assert_eq!(seen(&[answer]), seen(std::slice::from_ref(&refusal)));
    }
    // A token is looked for in the header and nowhere else.
    let query = format!("/mcp?access_token={}", issuer.token("alice")?);
    let answer = http_client::exchange(gateway.mcp, "POST", &query, &[], b"{}")?;
    assert_eq!(answer.status, 401);

    for path in ["", "/mcp"] {
        let path = format!("/.well-known/oauth-protected-resource{path}");
        let page = ("origin", "http://localhost:6274");
        let answer = http_client::get(gateway.mcp, &path, &[page])?;
        let document: Value = serde_json::from_slice(&answer.body)?;
        let expected = json!({
            "resource": RESOURCE,
            "authorization_servers": [issuer.url],
            "scopes_supported": ["tools:call", "openid"],
            "bearer_methods_supported": ["header"],
        });
        assert_eq!((answer.status, &document), (200, &expected));
        assert_eq!(
            answer.header("access-control-allow-origin"),
            Some("http://localhost:6274")
        );
    }
    let elsewhere = http_client::get(gateway.mcp, "/.well-known/oauth-protected-resource/x", &[])?;
    assert_eq!(elsewhere.status, 404);
    Ok(())
}

/// A gateway without authentication requires no token and serves no resource metadata.
#[test]
fn anonymous_gateway_has_no_auth_metadata() -> anyhow::Result<()> {
    let gateway = Recipe::new(&[])?.start()?;
    assert_eq!(Caller::default().initialize(gateway.mcp)?.status, 200);
    assert_eq!(
        Caller::with("no.token.either").initialize(gateway.mcp)?.status,
        200
    );
    let answer = http_client::get(gateway.mcp, "/.well-known/oauth-protected-resource", &[])?;
    assert_eq!(answer.status, 404);
    Ok(())
}

/// Tokens of every kind of key are accepted and every kind of bad token is refused.
#[test]
fn good_tokens_are_accepted_and_bad_ones_refused() -> anyhow::Result<()> {
    let issuer = Issuer::start()?;
    let kinds = ["RS256", "PS256", "ES256", "EdDSA"];
    let keys: Vec<Arc<SigningKey>> = kinds
        .iter()
        .map(|kind| SigningKey::generate(kind, kind).map(Arc::new))
        .collect::<anyhow::Result<_>>()?;
    issuer.publish(&keys);
    let (_, gateway) = gateway(oidc(&issuer)?)?;
    let good = issuer.claims("alice-of-the-test");
    for key in &keys {
        check_accepted(&gateway, &key.token(&good)?)?;
    }
    let (rsa, ec) = (&keys[0], &keys[2]);
    // A token that names no key is checked with all that fit.
    check_accepted(&gateway, &ec.sign(&json!({"alg": "ES256"}), &good)?)?;
    let changed = |changes: Value| {
        let mut claims = good.clone();
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    };
    check_accepted(&gateway, &ec.token(&changed(json!({"aud": ["x", "tools"]})))?)?;

    let now = issuer::now();
    let header = json!({"alg": "RS256", "kid": "RS256"});
    let stranger = SigningKey::generate("RS256", "RS256")?;
    let public = rsa.public();
    let token = rsa.token(&good)?;
    let (signed, _) = token.rsplit_once('.').context("a token has a signature")?;
    let mut other_subject = issuer::unsigned(&header, &changed(json!({"sub": "bob"})));
    other_subject.push_str(&token[signed.len()..]);
    // HS256 with the public key as the secret: the classic mistake is to accept a public key as a shared secret.
    let secret = aws_lc_rs::hmac::Key::new(
        aws_lc_rs::hmac::HMAC_SHA256,
        public["n"].as_str().unwrap_or_default().as_bytes(),
    );
    let hs256 = issuer::unsigned(&json!({"alg": "HS256", "kid": "RS256"}), &good);
    let mac = aws_lc_rs::hmac::sign(&secret, hs256.as_bytes());
    let hs256 = format!("{hs256}.{}", issuer::base64(mac));
    let none = issuer::unsigned(&json!({"alg": "none"}), &good);

    let bad = [
        ("malformed", format!("{none}.")),
        ("malformed", none),
        ("algorithm", hs256),
        ("malformed", "abc".to_owned()),
        ("malformed", "a.b.c.d.e".to_owned()),
        (
            "malformed",
            rsa.sign(
                &json!({"alg": "RS256", "kid": "RS256", "crit": ["b64"], "b64": false}),
                &good,
            )?,
        ),
        ("signature", format!("{signed}.")),
        ("signature", format!("{signed}.AAAA")),
        ("signature", other_subject),
        ("signature", stranger.token(&good)?),
        // A key in the token's own header is ignored.
        (
            "signature",
            stranger.sign(
                &json!({"alg": "RS256", "kid": "RS256", "jwk": stranger.public()}),
                &good,
            )?,
        ),
        (
            "signature",
            rsa.sign(&json!({"alg": "PS256", "kid": "PS256"}), &good)?,
        ),
        (
            "unknown_key",
            rsa.sign(&json!({"alg": "RS256", "kid": "nobody's"}), &good)?,
        ),
        (
            "unknown_key",
            rsa.sign(&json!({"alg": "ES256", "kid": "RS256"}), &good)?,
        ),
        (
            "issuer",
            rsa.token(&changed(json!({"iss": "https://evil.example"})))?,
        ),
        ("audience", rsa.token(&changed(json!({"aud": "other"})))?),
        ("expired", rsa.token(&changed(json!({"exp": now - 61})))?),
        ("not_yet_valid", rsa.token(&changed(json!({"nbf": now + 100})))?),
        ("claims", rsa.token(&changed(json!({"sub": null})))?),
        ("claims", rsa.token(&changed(json!({"exp": null})))?),
        ("claims", rsa.token(&changed(json!({"aud": null})))?),
        ("claims", rsa.token(&changed(json!({"iss": null})))?),
        (
            "too_long",
            rsa.token(&changed(json!({"sub": "a", "groups": "x".repeat(16 * 1024)})))?,
        ),
    ];
    for (outcome, token) in &bad {
        check_refused(&gateway, token, outcome)?;
    }
    // Two tokens count as none, and so does a malformed header.
    let sent = |value: &str| ("authorization", value.to_owned());
    let (bearer, spaced) = (sent(&format!("Bearer {token}")), sent("Bearer a b"));
    for sent in [vec![&bearer, &bearer], vec![&spaced]] {
        let headers: Vec<_> = sent.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = http_client::post(gateway.mcp, &headers, &json!({}))?;
        assert_eq!(answer.status, 400, "{answer:?}");
    }
    let answer = http_client::post(gateway.mcp, &[("authorization", "Bearer a b")], &json!({}))?;
    assert!(
        challenge(&answer).contains("error=\"invalid_request\""),
        "{answer:?}"
    );

    // The complete log contains no token and no claim.
    let log = gateway.log()?;
    for secret in bad.iter().map(|(_, token)| token.as_str()).chain([
        token.as_str(),
        "alice-of-the-test",
        "evil.example",
    ]) {
        assert!(
            secret.len() < 10 || !log.contains(secret),
            "{secret} is in the log"
        );
    }
    Ok(())
}

/// Every OIDC setting has its effect.
#[test]
fn every_oidc_setting_is_applied() -> anyhow::Result<()> {
    let issuer = Issuer::start()?;
    let mut late = issuer.claims("alice");
    late["exp"] = json!(issuer::now() - 30);
    let late = issuer.key()?.token(&late)?;
    let mut for_others = issuer.claims("alice");
    for_others["aud"] = json!("https://others.example");
    let for_others = issuer.key()?.token(&for_others)?;

    let (_, ordinary) = gateway(oidc(&issuer)?)?;
    check_accepted(&ordinary, &issuer.token("alice")?)?;
    check_accepted(&ordinary, &late)?;
    check_refused(&ordinary, &for_others, "audience")?;
    assert!(issuer.discoveries() > 0);

    let (_, strict) = gateway(OidcConfig {
        clock_leeway: "5s".parse().unwrap(),
        algorithms: vec![SigningAlgorithm::ES256],
        ..oidc(&issuer)?
    })?;
    check_refused(&strict, &issuer.token("alice")?, "algorithm")?;
    issuer.publish(&[SigningKey::generate("ec", "ES256")?.into()]);
    check_accepted(&strict, &issuer.token("alice")?)?;
    let mut expired = issuer.claims("alice");
    expired["exp"] = json!(issuer::now() - 30);
    check_refused(&strict, &issuer.key()?.token(&expired)?, "expired")?;

    let before = issuer.discoveries();
    let (_, other) = gateway(OidcConfig {
        audience: Audience::Many(vec!["https://others.example".to_owned(), "x".to_owned()]),
        resource: None,
        jwks_url: Some(format!("{}/keys", issuer.url)),
        ..oidc(&issuer)?
    })?;
    let mut for_others = issuer.claims("alice");
    for_others["aud"] = json!("x");
    check_accepted(&other, &issuer.key()?.token(&for_others)?)?;
    check_refused(&other, &issuer.token("alice")?, "audience")?;
    assert_eq!(issuer.discoveries(), before, "the keys' place is configured");
    let described = http_client::get(other.mcp, "/.well-known/oauth-protected-resource", &[])?.text();
    assert!(
        described.contains("\"resource\":\"https://others.example\""),
        "{described}"
    );
    Ok(())
}

/// The client's token is not sent to any backend.
#[test]
fn client_token_is_not_sent_to_backend() -> anyhow::Result<()> {
    let (test_server, issuer) = (TestServer::start(&[])?, Issuer::start()?);
    let gateway = with_auth(Recipe::new(&[("one", &test_server.url)])?, oidc(&issuer)?).start()?;
    let token = issuer.token("alice")?;
    let alice = Caller::with(&*token).open(gateway.mcp)?;
    let seen = alice.call(gateway.mcp, "one_whoami")?.tool_text()?;
    let headers: Value = serde_json::from_str(&seen)?;
    assert!(headers["headers"]["host"].is_string(), "{seen}");
    assert_eq!(headers["headers"].get("authorization"), None, "{seen}");
    assert!(!seen.contains(&token), "{seen}");
    Ok(())
}

/// A too large body is rejected before authentication.
#[test]
fn too_large_body_is_refused_before_authentication() -> anyhow::Result<()> {
    let issuer = Issuer::start()?;
    let (_, gateway) = gateway(oidc(&issuer)?)?;
    let session = [("mcp-session-id", "x")];
    let post = |headers: &[(&str, &str)], bytes: usize| {
        http_client::exchange(gateway.mcp, "POST", "/mcp", headers, &vec![b' '; bytes])
    };
    assert_eq!(post(&session, 5 * 1024 * 1024)?.status, 413);
    assert_eq!(post(&session, 3 * 1024 * 1024)?.status, 401);
    assert_eq!(post(&[], 65 * 1024)?.status, 413);
    assert_eq!(post(&[], 64 * 1024)?.status, 401);
    Ok(())
}
