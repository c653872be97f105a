//! What has ended is deleted at its backends, and one that hangs holds up nobody else's deletions.

use std::time::Duration;

use serde_json::json;
use vmcp_crds::config;
use vmcp_e2e::fixture::Fixture;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::raw::Session;
use vmcp_e2e::wait;

/// How many sessions end at once.
const MANY: usize = 150;
/// By then everything is deleted at the backend that answers. Each deletion at the other takes 5 s.
const SOON: Duration = Duration::from_secs(8);

struct World {
    good: Fixture,
    hung: Fixture,
    recipe: Recipe,
}

impl World {
    fn new() -> anyhow::Result<Self> {
        let (good, hung) = (Fixture::start(&[])?, Fixture::start(&[])?);
        let recipe = Recipe::new(&[("hung", &hung.url), ("good", &good.url)])?;
        let fault = json!({"hang": true, "only_method": "DELETE"});
        hung.admin("POST", "/faults", &fault)?;
        Ok(Self { good, hung, recipe })
    }

    /// So many sessions, each with an upstream session at both backends.
    fn open(&self, gateway: &Gateway, count: usize) -> anyhow::Result<Vec<Session>> {
        let open = |_| {
            let session = Session::open(gateway.mcp)?;
            for tool in ["hung_echo", "good_echo"] {
                session
                    .call(gateway.mcp, tool, &json!({"message": "x"}))?
                    .tool_text()?;
            }
            Ok(session)
        };
        (0..count).map(open).collect()
    }

    /// Waits until the good backend has no session but the gateway's own.
    fn wait_for_the_good_one(&self) -> anyhow::Result<()> {
        wait::until("the good backend's sessions are deleted", SOON, || {
            let left = self.good.stats()?.sessions.len();
            anyhow::ensure!(left == 1, "{left} are left");
            Ok(())
        })
    }
}

/// A backend that hangs does not hold up what is terminated at the others.
#[test]
fn hanging_backend_does_not_delay_other_deletions() -> anyhow::Result<()> {
    let world = World::new()?;
    let gateway = world.recipe.start()?;
    let sessions = world.open(&gateway, MANY)?;
    assert_eq!(world.hung.stats()?.sessions.len(), MANY + 1);
    for session in &sessions {
        assert!(session.delete(gateway.mcp)?.status < 300);
    }
    world.wait_for_the_good_one()
}

/// A backend that hangs does not hold up what has expired at the others.
#[test]
fn hanging_backend_does_not_delay_expiry_at_others() -> anyhow::Result<()> {
    let mut world = World::new()?;
    // Long enough that the first lives until the last is open.
    let ttl = 10;
    world.recipe.config.session_storage.ttl = config::Duration::from_secs(ttl);
    let gateway = world.recipe.start()?;
    drop(world.open(&gateway, MANY)?);
    assert_eq!(world.good.stats()?.sessions.len(), MANY + 1);
    wait::until(
        "the first sessions expire",
        Duration::from_secs(2 * ttl + 10),
        || {
            anyhow::ensure!(world.good.stats()?.deletes > 0, "not yet");
            Ok(())
        },
    )?;
    // What was used last expires later, and sweeps are about as far apart as sessions live.
    wait::until(
        "the good backend's sessions are deleted",
        SOON + Duration::from_secs(ttl * 3 / 2),
        || {
            let left = world.good.stats()?.sessions.len();
            anyhow::ensure!(left == 1, "{left} are left");
            Ok(())
        },
    )
}

/// A backend that hangs does not keep from the others what expires meanwhile.
#[test]
fn hanging_backend_does_not_delay_later_expiry() -> anyhow::Result<()> {
    let mut world = World::new()?;
    let ttl = 4;
    world.recipe.config.session_storage.ttl = config::Duration::from_secs(ttl);
    let gateway = world.recipe.start()?;
    let late = world.open(&gateway, 3)?;
    // Three times as many as are deleted at a time: they take at least 10 s.
    drop(world.open(&gateway, 48)?);
    wait::until("the first expire", Duration::from_secs(6 * ttl), || {
        for session in &late {
            session.call(gateway.mcp, "good_echo", &json!({"message": "x"}))?;
        }
        anyhow::ensure!(world.good.stats()?.deletes >= 48, "not yet");
        Ok(())
    })?;
    // They expire after `ttl`, and sweeps are at most 1.2 times as far apart.
    wait::until(
        "the late ones are deleted at the good backend",
        Duration::from_secs(12),
        || {
            let left = world.good.stats()?.sessions.len();
            anyhow::ensure!(left == 1, "{left} are left");
            Ok(())
        },
    )
}
