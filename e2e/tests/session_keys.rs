//! Rotation of the keys that sign session ids: no session ends.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use tempfile::TempDir;
use vmcp_crds::session_key::{CURRENT, NEXT, PREVIOUS, SessionKey};
use vmcp_e2e::balancer::Balancer;
use vmcp_e2e::gateway::Recipe;
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::{self, Session};
use vmcp_e2e::load::Load;
use vmcp_e2e::redis::Redis;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;
use vmcp_external::requires;

const PATIENCE: Duration = Duration::from_secs(20);

/// A rotation is applied while sessions go on, and an invalid set of keys changes nothing.
#[test]
fn key_rotation_is_taken_and_bad_keys_are_refused() -> anyhow::Result<()> {
    let test_server = TestServer::start(&[])?;
    let recipe = Recipe::new(&[("fixture", &test_server.url)])?;
    let keys = recipe.config.session_keys.as_ref().context("no keys")?;
    let directory = keys.directory.clone();
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    let mut expected = 0;
    let mut call = |session: &Session| -> anyhow::Result<()> {
        expected += 1;
        let text = session
            .call(gateway.mcp, "fixture_counter", &json!({}))?
            .tool_text()?;
        anyhow::ensure!(text == expected.to_string(), "{text}, not {expected}");
        Ok(())
    };
    call(&session)?;
    let before = signer(&session);

    // An invalid key is reported and has no other effect.
    std::fs::write(directory.join(NEXT), "no key")?;
    wait::until("the bad key is told of", PATIENCE, || {
        anyhow::ensure!(gateway.log()?.contains("session key reload rejected"), "not yet");
        Ok(())
    })?;
    call(&session)?;

    // The rotation, file by file. The new key has another number, so the session id shows which key signed.
    let next = key_other_than(&std::fs::read_to_string(directory.join(CURRENT))?)?;
    std::fs::write(directory.join(NEXT), next)?;
    call(&session)?;
    std::fs::copy(directory.join(CURRENT), directory.join(PREVIOUS))?;
    call(&session)?;
    std::fs::rename(directory.join(NEXT), directory.join(CURRENT))?;
    let new = wait::until("the new key signs", PATIENCE, || {
        call(&session)?;
        let new = Session::open(gateway.mcp)?;
        anyhow::ensure!(signer(&new) != before, "not yet");
        Ok(new)
    })?;
    call(&session)?;
    new.call(gateway.mcp, "fixture_counter", &json!({}))?
        .tool_text()?;

    // A session is unknown once its key is removed.
    std::fs::remove_file(directory.join(PREVIOUS))?;
    wait::until("the old session is unknown", PATIENCE, || {
        let refused = session.call(gateway.mcp, "fixture_counter", &json!({}))?;
        anyhow::ensure!(refused.error_code() == -32001, "{}", refused.text());
        Ok(())
    })?;
    new.call(gateway.mcp, "fixture_counter", &json!({}))?
        .tool_text()?;
    Ok(())
}

/// The keys of one replica, mounted as a kubelet mounts a Secret: all of them change at once.
struct Mounted {
    directory: TempDir,
    version: u32,
}

/// The content of the Secret.
#[derive(Clone)]
struct Secret {
    next: String,
    current: String,
    previous: Option<String>,
}

impl Secret {
    fn new() -> anyhow::Result<Self> {
        let current = SessionKey::generate()?;
        Ok(Self {
            next: key_other_than(&current.to_text())?,
            current: current.to_text(),
            previous: None,
        })
    }

    /// The operator's rotation: the next key becomes the current one, the current one the previous one, and there is a new next key.
    fn rotated(&self) -> anyhow::Result<Self> {
        Ok(Self {
            next: key_other_than(&self.next)?,
            current: self.next.clone(),
            previous: Some(self.current.clone()),
        })
    }
}

/// A key whose number differs from that of `key`.
fn key_other_than(key: &str) -> anyhow::Result<String> {
    let key = SessionKey::parse(key)?;
    loop {
        let other = SessionKey::generate()?;
        if other.id() >> 2 != key.id() >> 2 {
            return Ok(other.to_text());
        }
    }
}

impl Mounted {
    fn new() -> anyhow::Result<Self> {
        let directory = TempDir::new()?;
        Ok(Self {
            directory,
            version: 0,
        })
    }

    fn put(&mut self, secret: &Secret) -> anyhow::Result<()> {
        let directory = self.directory.path();
        let version = directory.join(format!("..version-{}", self.version));
        self.version += 1;
        std::fs::create_dir(&version)?;
        std::fs::write(version.join(NEXT), &secret.next)?;
        std::fs::write(version.join(CURRENT), &secret.current)?;
        if let Some(previous) = &secret.previous {
            std::fs::write(version.join(PREVIOUS), previous)?;
        }
        let new = directory.join("..data_tmp");
        symlink(&version, &new)?;
        std::fs::rename(new, directory.join("..data"))?;
        for name in [NEXT, CURRENT, PREVIOUS] {
            let file = directory.join(name);
            if !file.is_symlink() {
                let new = directory.join("..file_tmp");
                symlink(format!("..data/{name}"), &new)?;
                std::fs::rename(new, file)?;
            }
        }
        Ok(())
    }
}

/// Load of old sessions that count without a gap, and of new sessions that count to two and are terminated.
fn counting(gateway: SocketAddr, old: Vec<Session>) -> Load {
    let workers = old.len() + 4;
    Load::start(workers, Duration::from_millis(40), move |worker| {
        let (old, mut count) = (old.get(worker).cloned(), 1);
        Box::new(move |_| {
            let Some(session) = &old else {
                let session = Session::open(gateway)?;
                counts(&session, gateway, 1)?;
                counts(&session, gateway, 2)?;
                let ended = session.delete(gateway)?;
                anyhow::ensure!(ended.status == 200, "DELETE: {} {}", ended.status, ended.text());
                return Ok(());
            };
            count += 1;
            counts(session, gateway, count)
        })
    })
}

fn counts(session: &Session, gateway: SocketAddr, expected: u64) -> anyhow::Result<()> {
    let answer = session.call(gateway, "fixture_counter", &json!({}))?;
    let text = answer.tool_text()?;
    anyhow::ensure!(text == expected.to_string(), "{text}, not {expected}");
    Ok(())
}

/// The first characters of an id name the version, and six bits of the number of the key.
fn signer(session: &Session) -> String {
    session.id.chars().take(4).collect()
}

/// Two rotations under load, which three replicas apply at different times, fail no call.
#[requires(redis)]
#[test]
fn staggered_key_rotations_fail_no_call() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let builder = Harness::builder().test_server("fixture", &[]);
    let mut harness = builder.redis(Redis::start(None)?).replicas(0).start()?;
    let (mut secret, mut mounts) = (Secret::new()?, Vec::new());
    for _ in 0..3 {
        let mut mounted = Mounted::new()?;
        mounted.put(&secret)?;
        let keys = harness.recipe.config.session_keys.as_mut().context("no keys")?;
        keys.directory = mounted.directory.path().to_owned();
        mounts.push(mounted);
        harness.gateways.push(harness.recipe.start()?);
    }
    let addresses = harness.addresses();
    let balancer = runtime.block_on(Balancer::start(&addresses))?;
    for _ in 0..2 {
        let open = |_| {
            let session = Session::open(balancer.address)?;
            counts(&session, balancer.address, 1)?;
            anyhow::Ok(session)
        };
        let old: Vec<Session> = (0..6).map(open).collect::<anyhow::Result<_>>()?;
        let signed_before = signer(&old[0]);
        let load = counting(balancer.address, old.clone());
        load.go_on_for(60)?;
        secret = secret.rotated()?;
        for (replica, mounted) in mounts.iter_mut().enumerate() {
            mounted.put(&secret)?;
            let new = wait::until(
                "the replica signs with the new key",
                PATIENCE,
                || match Session::open(addresses[replica]) {
                    Ok(new) if signer(&new) == signed_before => anyhow::bail!("not yet"),
                    opened => Ok(opened),
                },
            )??;
            // The other replicas have the old keys, and accept it all the same.
            for (count, other) in (1..).zip(&addresses) {
                counts(&new, *other, count)?;
            }
            for (other, address) in addresses.iter().enumerate().skip(replica + 1) {
                anyhow::ensure!(
                    signer(&Session::open(*address)?) == signed_before,
                    "{other} was told nothing"
                );
            }
            load.go_on_for(120)?;
        }
        let report = load.finish();
        report.without_failure()?;
        for replica in &addresses {
            anyhow::ensure!(
                balancer.served().iter().any(|served| served.replica == *replica),
                "{replica} is idle"
            );
        }
        for session in old {
            session.delete(balancer.address)?;
        }
    }
    Ok(())
}

/// A key rotation does not reset the number of sessions of a principal.
#[test]
fn key_rotation_keeps_session_limit() -> anyhow::Result<()> {
    let mut recipe = Recipe::new(&[])?;
    recipe.hot().limits.sessions_per_principal = Some(1);
    let keys = recipe.config.session_keys.as_ref().context("no keys")?;
    let directory = keys.directory.clone();
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    assert_eq!(http_client::initialize(gateway.mcp)?.status, 503);
    std::fs::copy(directory.join(CURRENT), directory.join(PREVIOUS))?;
    let new = directory.join("new");
    std::fs::write(&new, SessionKey::generate()?.to_text())?;
    std::fs::rename(new, directory.join(CURRENT))?;
    wait::until("the new key is taken", PATIENCE, || {
        anyhow::ensure!(gateway.log()?.contains("session keys reloaded"), "not yet");
        Ok(())
    })?;
    assert_eq!(http_client::initialize(gateway.mcp)?.status, 503);
    assert_eq!(session.delete(gateway.mcp)?.status, 200);
    assert_eq!(http_client::initialize(gateway.mcp)?.status, 200);
    Ok(())
}
