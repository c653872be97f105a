//! The keys that sign session ids change while the gateway runs, and no session ends for it.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use vmcp_crds::config::{SessionStorage, SessionStorageProvider};
use vmcp_crds::session_key::{CURRENT, NEXT, PREVIOUS, SessionKey};
use vmcp_e2e::balancer::Balancer;
use vmcp_e2e::fixture::Fixture;
use vmcp_e2e::gateway::Recipe;
use vmcp_e2e::load::Load;
use vmcp_e2e::raw::{self, Session};
use vmcp_e2e::redis::Redis;
use vmcp_e2e::wait;

const PATIENCE: Duration = Duration::from_secs(20);

/// A rotation is taken while sessions go on and a bad set of keys changes nothing.
#[test]
fn key_rotation_is_taken_and_bad_keys_are_refused() -> anyhow::Result<()> {
    let fixture = Fixture::start(&[])?;
    let recipe = Recipe::new(&[("fixture", &fixture.url)])?;
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

    // Something that is no key: told of, and nothing else.
    std::fs::write(directory.join(NEXT), "no key")?;
    wait::until("the bad key is told of", PATIENCE, || {
        anyhow::ensure!(gateway.log()?.contains("are refused"), "not yet");
        Ok(())
    })?;
    call(&session)?;

    // The rotation, file by file. A key whose number is another than that of the one before shows who signed.
    let next = told_from(&std::fs::read_to_string(directory.join(CURRENT))?)?;
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

    // Once its key is gone a session is unknown.
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
    directory: PathBuf,
    version: u32,
}

/// What stands in the Secret.
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
            next: told_from(&current.to_text())?,
            current: current.to_text(),
            previous: None,
        })
    }

    /// The order of the operator: the next key signs, the one that signed is still accepted, and there is a new next one.
    fn rotated(&self) -> anyhow::Result<Self> {
        Ok(Self {
            next: told_from(&self.next)?,
            current: self.next.clone(),
            previous: Some(self.current.clone()),
        })
    }
}

/// A key whose number shows who signed: it is another than that of `key`.
fn told_from(key: &str) -> anyhow::Result<String> {
    let key = SessionKey::parse(key)?;
    loop {
        let other = SessionKey::generate()?;
        if other.id() >> 2 != key.id() >> 2 {
            return Ok(other.to_text());
        }
    }
}

impl Mounted {
    fn put(&mut self, secret: &Secret) -> anyhow::Result<()> {
        let version = self.directory.join(format!("..version-{}", self.version));
        self.version += 1;
        std::fs::create_dir(&version)?;
        std::fs::write(version.join(NEXT), &secret.next)?;
        std::fs::write(version.join(CURRENT), &secret.current)?;
        if let Some(previous) = &secret.previous {
            std::fs::write(version.join(PREVIOUS), previous)?;
        }
        let new = self.directory.join("..data_tmp");
        symlink(&version, &new)?;
        std::fs::rename(new, self.directory.join("..data"))?;
        for name in [NEXT, CURRENT, PREVIOUS] {
            let file = self.directory.join(name);
            if !file.is_symlink() {
                let new = self.directory.join("..file_tmp");
                symlink(format!("..data/{name}"), &new)?;
                std::fs::rename(new, file)?;
            }
        }
        Ok(())
    }
}

/// Sessions that count without a gap, and beside them sessions that are opened, count to two on whichever replicas, and are ended.
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

/// Two rotations under load that three replicas learn of at different times fail no call.
#[test]
fn staggered_key_rotations_fail_no_call() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let (fixture, redis) = (Fixture::start(&[])?, Redis::start(None)?);
    let (mut secret, mut mounts, mut gateways, mut recipes) =
        (Secret::new()?, Vec::new(), Vec::new(), Vec::new());
    for _ in 0..3 {
        let mut recipe = Recipe::new(&[("fixture", &fixture.url)])?;
        recipe.config.session_storage = SessionStorage {
            provider: SessionStorageProvider::Redis,
            address: Some(redis.address.to_string()),
            ..SessionStorage::default()
        };
        let keys = recipe.config.session_keys.as_ref().context("no keys")?;
        let (directory, version) = (keys.directory.clone(), 0);
        let mut mounted = Mounted { directory, version };
        mounted.put(&secret)?;
        mounts.push(mounted);
        gateways.push(recipe.start()?);
        recipes.push(recipe);
    }
    let addresses: Vec<SocketAddr> = gateways.iter().map(|gateway| gateway.mcp).collect();
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
            // The others have not changed theirs, and know it all the same.
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

#[test]
fn a_rotation_gives_nobody_a_second_allowance_of_sessions() -> anyhow::Result<()> {
    let mut recipe = Recipe::new(&[])?;
    recipe
        .config
        .hot
        .as_mut()
        .context("no hot part")?
        .limits
        .sessions_per_principal = Some(1);
    let keys = recipe.config.session_keys.as_ref().context("no keys")?;
    let directory = keys.directory.clone();
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    assert_eq!(raw::initialize(gateway.mcp)?.status, 503);
    std::fs::copy(directory.join(CURRENT), directory.join(PREVIOUS))?;
    let new = directory.join("new");
    std::fs::write(&new, SessionKey::generate()?.to_text())?;
    std::fs::rename(new, directory.join(CURRENT))?;
    wait::until("the new key is taken", PATIENCE, || {
        anyhow::ensure!(gateway.log()?.contains("session keys reloaded"), "not yet");
        Ok(())
    })?;
    assert_eq!(raw::initialize(gateway.mcp)?.status, 503);
    assert_eq!(session.delete(gateway.mcp)?.status, 200);
    assert_eq!(raw::initialize(gateway.mcp)?.status, 200);
    Ok(())
}
