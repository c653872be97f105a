//! Authentication: tokens of a real issuer, and sessions that belong to their subjects.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use vmcp_crds::config::{Audience, IncomingAuth, IncomingAuthType, LogLevel, OidcConfig, SigningAlgorithm};
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::{self, Answer};
use vmcp_e2e::issuer::{self, Behaviour, Issuer, SigningKey};
use vmcp_e2e::recorder::Recorder;
use vmcp_e2e::redis::Redis;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;
use vmcp_external::requires;

/// How long something may take that happens in the background.
const SOON: Duration = Duration::from_secs(20);
const RESOURCE: &str = "https://tools.example.com/mcp";

/// The smallest configuration for an issuer without TLS.
fn oidc(issuer: &Issuer) -> anyhow::Result<OidcConfig> {
    let text = json!({
        "issuer": issuer.url,
        "audience": "tools",
        "resource": RESOURCE,
        "insecureAllowHttp": true,
    });
    Ok(serde_json::from_value(text)?)
}

fn with_auth(mut recipe: Recipe, oidc: OidcConfig) -> Recipe {
    recipe.config.incoming_auth = IncomingAuth {
        kind: IncomingAuthType::Oidc,
        oidc: Some(oidc),
    };
    recipe
}

/// A gateway with this OIDC configuration and the log level `trace`.
fn gateway(oidc: OidcConfig) -> anyhow::Result<(Recipe, Gateway)> {
    let mut recipe = with_auth(Recipe::new(&[])?, oidc);
    recipe.hot().log_level = LogLevel::Trace;
    let gateway = recipe.start()?;
    Ok((recipe, gateway))
}

/// A caller with or without a token.
#[derive(Clone, Debug, Default)]
struct Caller {
    token: Option<String>,
    session: Option<String>,
}

impl Caller {
    fn with(token: impl Into<String>) -> Self {
        Self {
            token: Some(token.into()),
            session: None,
        }
    }

    /// The same, naming that session.
    fn naming(&self, session: &str) -> Self {
        Self {
            session: Some(session.to_owned()),
            ..self.clone()
        }
    }

    fn send(&self, gateway: SocketAddr, method: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        let authorization = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let accept = match method {
            "GET" => "text/event-stream",
            _ => "application/json, text/event-stream",
        };
        // The gateway gives every request an id, and keeps one that a request brings.
        let mut headers = vec![
            ("accept", accept),
            ("content-type", "application/json"),
            ("x-request-id", "the-same"),
        ];
        headers.extend(authorization.as_deref().map(|value| ("authorization", value)));
        headers.extend(self.session.as_deref().map(|id| ("mcp-session-id", id)));
        let body = body.map(Value::to_string).unwrap_or_default();
        http_client::exchange(gateway, method, "/mcp", &headers, body.as_bytes())
    }

    fn initialize(&self, gateway: SocketAddr) -> anyhow::Result<Answer> {
        let params = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "http-client", "version": "1"},
        });
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
        self.send(gateway, "POST", Some(&message))
    }

    /// Opens a session, and uses it for further requests.
    fn open(&self, gateway: SocketAddr) -> anyhow::Result<Self> {
        let answer = self.initialize(gateway)?;
        let id = answer.header("mcp-session-id");
        Ok(self.naming(id.with_context(|| format!("no session: {answer:?}"))?))
    }

    fn call(&self, gateway: SocketAddr, tool: &str) -> anyhow::Result<Answer> {
        let params = json!({"name": tool, "arguments": {}});
        let message = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params});
        self.send(gateway, "POST", Some(&message))
    }

    /// All requests that use a session. None opens a stream for another subject's session.
    fn try_everything(&self, gateway: SocketAddr) -> anyhow::Result<Vec<Answer>> {
        let list = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/list"});
        let notification = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        Ok(vec![
            self.call(gateway, "one_counter")?,
            self.send(gateway, "POST", Some(&list))?,
            self.send(gateway, "POST", Some(&notification))?,
            self.send(gateway, "GET", None)?,
            self.send(gateway, "DELETE", None)?,
        ])
    }
}

/// The parts of a response that must be equal: without the date and the request id.
fn seen(answers: &[Answer]) -> Vec<Answer> {
    let without_date = |answer: &Answer| {
        let mut answer = answer.clone();
        answer
            .headers
            .retain(|(name, _)| name != "date" && name != "x-request-id");
        answer
    };
    answers.iter().map(without_date).collect()
}

fn challenge(answer: &Answer) -> &str {
    answer.header("www-authenticate").unwrap_or_default()
}

/// Checks that the gateway rejects a token, tells the client the reason, counts it, and does not log it.
fn check_refused(gateway: &Gateway, token: &str, outcome: &str) -> anyhow::Result<()> {
    let labels = format!("outcome=\"{outcome}\"");
    let before = gateway.metric("vmcp_authentications_total", &labels)?;
    let answer = Caller::with(token).initialize(gateway.mcp)?;
    ensure!(answer.status == 401, "{outcome}: {answer:?}");
    ensure!(
        challenge(&answer).contains("error=\"invalid_token\"")
            && challenge(&answer).contains("resource_metadata=\""),
        "{outcome}: {answer:?}"
    );
    let after = gateway.metric("vmcp_authentications_total", &labels)?;
    ensure!(after == before + 1.0, "{outcome} is not what is counted");
    Ok(())
}

fn check_accepted(gateway: &Gateway, token: &str) -> anyhow::Result<()> {
    let answer = Caller::with(token).initialize(gateway.mcp)?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(())
}

/// A request without a token gets 401 with the URL of the resource metadata.
#[test]
fn missing_token_gets_resource_metadata_url() -> anyhow::Result<()> {
    let issuer = Issuer::start()?;
    let settings = OidcConfig {
        scopes: vec!["tools:call".to_owned(), "openid".to_owned()],
        ..oidc(&issuer)?
    };
    let (_, gateway) = gateway(settings)?;
    let nobody = Caller::default();
    let told = nobody.initialize(gateway.mcp)?;
    assert_eq!((told.status, told.error_code()), (401, -32600));
    let metadata = "https://tools.example.com/.well-known/oauth-protected-resource/mcp";
    assert_eq!(
        challenge(&told),
        format!("Bearer resource_metadata=\"{metadata}\", scope=\"tools:call openid\"")
    );
    // The same response for every request and session id: no session is loaded.
    for answer in nobody.try_everything(gateway.mcp)? {
        assert_eq!(seen(&[answer]), seen(std::slice::from_ref(&told)));
    }
    for answer in nobody.naming("v1.AAAA").try_everything(gateway.mcp)? {
        assert_eq!(seen(&[answer]), seen(std::slice::from_ref(&told)));
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

/// An issuer with TLS needs the configured certificate authority.
#[test]
fn issuer_tls_needs_the_configured_ca() -> anyhow::Result<()> {
    let issuer = Issuer::start_with_tls()?;
    let trusting = OidcConfig {
        insecure_allow_http: false,
        ca_bundle_path: Some(issuer.ca()?),
        ..oidc(&issuer)?
    };
    let (_, trusting) = gateway(trusting)?;
    check_accepted(&trusting, &issuer.token("alice")?)?;

    let (recipe, doubting) = gateway(oidc(&issuer)?)?;
    let answer = Caller::with(issuer.token("alice")?).initialize(doubting.mcp)?;
    assert_eq!(answer.status, 503, "{answer:?}");
    let known = doubting
        .status(&recipe)?
        .token_issuer
        .context("there is an issuer")?;
    let error = known.error.unwrap_or_default();
    assert!(
        error.contains("certificate") || error.contains("UnknownIssuer"),
        "{error}"
    );
    Ok(())
}

/// A changed file of certificate authorities is used at once and without a restart. A file that cannot be used changes nothing, and the
/// status says so.
#[test]
fn changed_ca_of_issuer_is_used_at_once() -> anyhow::Result<()> {
    let (issuer, other) = (Issuer::start_with_tls()?, Issuer::start_with_tls()?);
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("ca.pem");
    std::fs::copy(other.ca()?, &file)?;
    let settings = OidcConfig {
        insecure_allow_http: false,
        ca_bundle_path: Some(file.clone()),
        key_refresh: "1h".parse().unwrap(),
        ..oidc(&issuer)?
    };
    let (recipe, gateway) = gateway(settings)?;
    let error = || {
        let issuer = gateway.status(&recipe)?.token_issuer;
        anyhow::Ok(issuer.context("there is an issuer")?.error)
    };
    assert!(error()?.is_some(), "another authority is trusted");
    std::fs::copy(issuer.ca()?, &file)?;
    wait::until("the new authority is trusted", SOON, || {
        check_accepted(&gateway, &issuer.token("alice")?)
    })?;
    assert_eq!(error()?, None);

    // The keys are known, so nothing but the change is a reason to fetch them.
    let (fetched, ours) = (issuer.fetches(), std::fs::read_to_string(issuer.ca()?)?);
    std::fs::write(&file, format!("{}{ours}", std::fs::read_to_string(other.ca()?)?))?;
    wait::until("the keys are fetched again", SOON, || {
        ensure!(issuer.fetches() > fetched, "no fetch");
        Ok(())
    })?;

    std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nbroken")?;
    wait::until("the status reports the file", SOON, || {
        let error = error()?.unwrap_or_default();
        ensure!(
            error.contains("ca.pem") && error.contains("last good content stays"),
            "{error:?}"
        );
        Ok(())
    })?;
    issuer.publish(&[SigningKey::generate("second", "ES256")?.into()]);
    check_accepted(&gateway, &issuer.token("alice")?)?;
    std::fs::write(&file, ours)?;
    wait::until("the status reports nothing", SOON, || {
        let error = error()?;
        ensure!(error.is_none(), "{error:?}");
        Ok(())
    })
}

/// A session belongs only to the subject that opened it.
#[requires(redis)]
#[test]
fn session_belongs_to_the_subject_that_opened_it() -> anyhow::Result<()> {
    let (test_server, redis) = (TestServer::start(&[])?, Redis::start(None)?);
    let (issuer, elsewhere) = (Issuer::start()?, Issuer::start()?);
    let builder = Harness::builder().backend("one", &test_server.url);
    let mut harness = builder.redis(redis).start()?;
    let ([anonymous_gateway], redis) = (harness.take_gateways()?, harness.redis);
    let recipe = with_auth(harness.recipe, oidc(&issuer)?);
    let home = recipe.start()?;
    // A replica that never serves the owner, so none of its Redis commands is for the owner.
    let recorder = Recorder::start(redis.address)?;
    let mut recipe = recipe;
    recipe.use_redis(recorder.address);
    let replica = recipe.start()?;
    let mut recipe = with_auth(recipe, oidc(&elsewhere)?);
    let replica_of_another_issuer = recipe.start()?;
    recipe.config.incoming_auth = IncomingAuth::default();
    let anonymous_replica = recipe.start()?;

    let alice = Caller::with(issuer.token("alice")?).open(home.mcp)?;
    let id = alice.session.clone().context("a session")?;
    assert_eq!(alice.call(home.mcp, "one_counter")?.tool_text()?, "1");
    let nobodys = Caller::default().open(anonymous_gateway.mcp)?;
    let nobodys_id = nobodys.session.clone().context("a session")?;
    assert_eq!(
        nobodys.call(anonymous_gateway.mcp, "one_counter")?.tool_text()?,
        "1"
    );

    // A well-formed id of another virtual server.
    let other_server = Recipe::new(&[])?.start()?;
    let random = http_client::Session::open(other_server.mcp)?.id;
    let bob = Caller::with(issuer.token("bob")?);
    let unknown = seen(&bob.naming(&random).try_everything(replica.mcp)?);
    assert!(unknown.iter().all(|answer| answer.status == 404), "{unknown:?}");
    let namesake = Caller::with(elsewhere.token("alice")?);
    let foreign: [(&str, Caller, SocketAddr); 5] = [
        ("bob with alice's", bob.naming(&id), replica.mcp),
        ("bob with nobody's", bob.naming(&nobodys_id), replica.mcp),
        ("alice with nobody's", alice.naming(&nobodys_id), replica.mcp),
        (
            "alice of another issuer with alice's",
            namesake.naming(&id),
            replica_of_another_issuer.mcp,
        ),
        (
            "nobody with alice's",
            Caller::default().naming(&id),
            anonymous_replica.mcp,
        ),
    ];
    for (who, caller, gateway) in &foreign {
        // Gateways also send Redis commands by themselves. A command for the request would be sent every time.
        wait::until(&format!("{who}: no store command"), SOON, || {
            let before = recorder.said().len();
            let answers = seen(&caller.try_everything(*gateway)?);
            assert_eq!(answers, unknown, "{who}");
            let said = recorder.said()[before..].replace("*1\r\n$4\r\nPING\r\n", "");
            ensure!(said.is_empty(), "{said:?}");
            Ok(())
        })?;
    }
    // Without a token the session is not even loaded.
    let stolen = Caller::default().naming(&id).try_everything(replica.mcp)?;
    assert!(stolen.iter().all(|answer| answer.status == 401), "{stolen:?}");

    // The owners are undisturbed, on every replica, and with a new token of the same subject.
    let renewed = Caller::with(issuer.token("alice")?).naming(&id);
    assert_ne!(renewed.token, alice.token);
    assert_eq!(alice.call(replica.mcp, "one_counter")?.tool_text()?, "2");
    assert_eq!(renewed.call(home.mcp, "one_counter")?.tool_text()?, "3");
    assert_eq!(
        nobodys.call(anonymous_replica.mcp, "one_counter")?.tool_text()?,
        "2"
    );
    assert_eq!(renewed.send(replica.mcp, "DELETE", None)?.status, 200);
    assert_eq!(alice.call(replica.mcp, "one_counter")?.status, 404);
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

/// A rotated key is fetched by the first request with a token of that key.
#[test]
fn rotated_issuer_key_is_fetched_on_demand() -> anyhow::Result<()> {
    let issuer = Issuer::start()?;
    let (_, gateway) = gateway(oidc(&issuer)?)?;
    let alice = Caller::with(issuer.token("alice")?).open(gateway.mcp)?;
    let fetched = issuer.fetches();
    let first = issuer.key()?;
    issuer.publish(&[SigningKey::generate("second", "ES256")?.into(), first]);
    // Several at once wait for one fetch.
    let tokens: Vec<String> = (0..8)
        .map(|_| issuer.token("alice"))
        .collect::<anyhow::Result<_>>()?;
    let id = alice.session.clone().context("a session")?;
    let list = |number: usize| json!({"jsonrpc": "2.0", "id": number, "method": "tools/list"});
    let answers: Vec<anyhow::Result<Answer>> = std::thread::scope(|scope| {
        let ask = |(number, token): (usize, &String)| {
            let (caller, list) = (Caller::with(&**token).naming(&id), list(number));
            scope.spawn(move || caller.send(gateway.mcp, "POST", Some(&list)))
        };
        let asking: Vec<_> = tokens.iter().enumerate().map(ask).collect();
        asking.into_iter().map(|one| one.join().unwrap()).collect()
    });
    for answer in answers {
        assert_eq!(answer?.status, 200);
    }
    assert_eq!(issuer.fetches(), fetched + 1);
    // Tokens of the first key are still valid.
    assert_eq!(alice.send(gateway.mcp, "POST", Some(&list(100)))?.status, 200);
    Ok(())
}

/// A rotated key without an id is fetched, too, and bad signatures do not flood the issuer.
#[test]
fn rotated_key_without_kid_is_fetched_at_bounded_rate() -> anyhow::Result<()> {
    let nameless = || Ok::<_, anyhow::Error>(Arc::new(SigningKey::generate("", "ES256")?));
    let issuer = Issuer::start()?;
    issuer.publish(&[nameless()?]);
    let (_, gateway) = gateway(oidc(&issuer)?)?;
    let alice = Caller::with(issuer.token("alice")?).open(gateway.mcp)?;
    let fetched = issuer.fetches();
    issuer.publish(&[nameless()?]);
    let id = alice.session.clone().context("a session")?;
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    let rotated = Caller::with(issuer.token("alice")?).naming(&id);
    assert_eq!(rotated.send(gateway.mcp, "POST", Some(&list))?.status, 200);
    assert_eq!(issuer.fetches(), fetched + 1);
    let started = std::time::Instant::now();
    let forger = nameless()?;
    for _ in 0..20 {
        check_refused(&gateway, &forger.token(&issuer.claims("alice"))?, "signature")?;
    }
    // At most one fetch every 10 s.
    let allowed = fetched + 2 + started.elapsed().as_secs() / 10;
    assert!(issuer.fetches() <= allowed, "{} of {allowed}", issuer.fetches());
    Ok(())
}

/// Tokens with unknown key ids do not make the gateway flood the issuer.
#[test]
fn unknown_key_ids_do_not_flood_issuer() -> anyhow::Result<()> {
    let issuer = Issuer::start()?;
    let (_, gateway) = gateway(oidc(&issuer)?)?;
    let fetched = issuer.fetches();
    let started = std::time::Instant::now();
    let claims = issuer.claims("alice");
    for number in 0..60 {
        let header = json!({"alg": "RS256", "kid": format!("made up {number}")});
        check_refused(&gateway, &issuer.key()?.sign(&header, &claims)?, "unknown_key")?;
    }
    let allowed = 1 + started.elapsed().as_secs() / 10;
    let caused = issuer.fetches() - fetched;
    assert!(
        (1..=allowed).contains(&caused),
        "{caused} fetches, {allowed} are allowed"
    );
    Ok(())
}

/// A withdrawn key is invalid, also for tokens that were accepted before.
#[test]
fn withdrawn_key_rejects_cached_tokens() -> anyhow::Result<()> {
    let issuer = Issuer::start()?;
    let settings = OidcConfig {
        key_refresh: "1s".parse().unwrap(),
        ..oidc(&issuer)?
    };
    let (_, gateway) = gateway(settings)?;
    let token = issuer.token("alice")?;
    check_accepted(&gateway, &token)?;
    check_accepted(&gateway, &token)?;
    issuer.publish(&[SigningKey::generate("second", "ES256")?.into()]);
    wait::until("the withdrawn key is refused", SOON, || {
        check_refused(&gateway, &token, "unknown_key")
    })?;
    check_accepted(&gateway, &issuer.token("alice")?)
}

/// An empty key set withdraws all keys, also for tokens that were accepted. The response does not say that the token is invalid: the issuer
/// may publish its keys again.
#[test]
fn emptied_key_set_withdraws_every_key() -> anyhow::Result<()> {
    let issuer = Issuer::start()?;
    let settings = OidcConfig {
        key_refresh: "1s".parse().unwrap(),
        ..oidc(&issuer)?
    };
    let (recipe, gateway) = gateway(settings)?;
    let (key, token) = (issuer.key()?, issuer.token("alice")?);
    check_accepted(&gateway, &token)?;
    issuer.publish(&[]);
    wait::until("the withdrawn key is not used", SOON, || {
        let answer = Caller::with(&*token).initialize(gateway.mcp)?;
        anyhow::ensure!(answer.status == 503, "{answer:?}");
        Ok(())
    })?;
    let state = gateway
        .status(&recipe)?
        .token_issuer
        .context("there is an issuer")?;
    assert_eq!(state.keys, 0);
    assert!(state.error.unwrap_or_default().contains("no key"));
    issuer.publish(&[key]);
    wait::until("it is accepted again", SOON, || check_accepted(&gateway, &token))
}

/// An unavailable issuer affects neither the gateway nor tokens of known keys.
#[test]
fn issuer_outage_keeps_known_keys_working() -> anyhow::Result<()> {
    let issuer = Issuer::start()?;
    issuer.behave(Behaviour::Status(500));
    let settings = OidcConfig {
        key_refresh: "1s".parse().unwrap(),
        ..oidc(&issuer)?
    };
    // Ready after the limit, although no key is known.
    let (recipe, gateway) = gateway(settings)?;
    let state = || {
        gateway
            .status(&recipe)?
            .token_issuer
            .context("there is an issuer")
    };
    let token = issuer.token("alice")?;
    let answer = Caller::with(&*token).initialize(gateway.mcp)?;
    assert_eq!(
        (answer.status, answer.header("retry-after")),
        (503, Some("1")),
        "{answer:?}"
    );
    assert_eq!(answer.header("www-authenticate"), None, "the token may be good");
    assert_eq!(Caller::default().initialize(gateway.mcp)?.status, 401);
    assert_eq!(state()?.keys, 0);
    assert!(state()?.error.unwrap_or_default().contains("500"));
    assert!(gateway.metric("vmcp_token_issuer_fetches_total", "failed")? >= 1.0);

    issuer.behave(Behaviour::Good);
    wait::until("the issuer's keys are known", SOON, || {
        check_accepted(&gateway, &token)
    })?;
    assert_eq!((state()?.keys, state()?.error), (1, None));
    assert!(gateway.metric("vmcp_token_issuer_fetches_total", "succeeded")? >= 1.0);

    // Unavailable again, in every way.
    let first = issuer.key()?;
    let second: Arc<SigningKey> = SigningKey::generate("second", "ES256")?.into();
    issuer.publish(&[Arc::clone(&second)]);
    let other_issuer = json!({"issuer": "https://other.example", "jwks_uri": format!("{}/keys", issuer.url)});
    for (behaviour, reason) in [
        (Behaviour::Status(503), "503"),
        (Behaviour::Status(302), "302"),
        (Behaviour::Says("<html>".to_owned()), "discovery document"),
        (Behaviour::Says(other_issuer.to_string()), "other.example"),
        (Behaviour::Says(" ".repeat(300 * 1024)), "larger than"),
        (Behaviour::Hangs, "within 5 s"),
    ] {
        issuer.behave(behaviour);
        wait::until(&format!("the status says {reason}"), SOON * 3, || {
            let error = state()?.error.unwrap_or_default();
            ensure!(error.contains(reason), "{error:?}");
            Ok(())
        })?;
        // Known keys verify new tokens. Tokens of unknown keys cannot be verified.
        check_accepted(&gateway, &first.token(&issuer.claims("alice"))?)?;
        let unknown = second.token(&issuer.claims("alice"))?;
        assert_eq!(Caller::with(unknown).initialize(gateway.mcp)?.status, 503);
        assert_eq!(http_client::get(gateway.admin, "/readyz", &[])?.status, 200);
        assert_eq!(http_client::get(gateway.admin, "/livez", &[])?.status, 200);
    }
    issuer.behave(Behaviour::Good);
    wait::until("the new key is known", SOON * 3, || {
        check_accepted(&gateway, &second.token(&issuer.claims("alice"))?)
    })
}

/// Readiness waits for the first keys and no longer than three seconds.
#[test]
fn readiness_waits_up_to_3_s_for_first_keys() -> anyhow::Result<()> {
    let issuer = Issuer::start()?;
    issuer.behave(Behaviour::Hangs);
    let recipe = with_auth(Recipe::new(&[])?, oidc(&issuer)?);
    let mut gateway = recipe.start_unready(vmcp_e2e::ports::free()?)?;
    wait::until("it says what it waits for", SOON, || {
        let answer = http_client::get(gateway.admin, "/readyz", &[])?;
        ensure!(
            answer.status == 503 && answer.text().contains("the keys of the token issuer"),
            "{answer:?}"
        );
        Ok(())
    })?;
    gateway.wait_until_ready()
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
