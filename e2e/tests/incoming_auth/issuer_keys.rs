//! The issuer's keys: how they are fetched, and what a gateway does without the issuer.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use serde_json::json;
use vmcp_crds::config::OidcConfig;
use vmcp_e2e::gateway::Recipe;
use vmcp_e2e::http_client::{self, Answer};
use vmcp_e2e::issuer::{Behaviour, Issuer, SigningKey};
use vmcp_e2e::wait;

use crate::support::{Caller, SOON, check_accepted, check_refused, gateway, oidc, with_auth};

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
