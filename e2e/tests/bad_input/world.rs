//! A gateway in front of a backend that others use, and of one that does what it is told to do wrong.

use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use vmcp_crds::config::Duration as Span;
use vmcp_e2e::fixture::Fixture;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::raw::{Answer, Session};
use vmcp_e2e::wait;

use crate::backend;
use crate::principal::Guarded;

/// How long something may take that has to happen.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct World {
    pub(crate) gateway: Gateway,
    /// A gateway with the same keys that serves another virtual server.
    pub(crate) stranger: Gateway,
    /// A gateway that asks who calls.
    pub(crate) guarded: Guarded,
    pub(crate) recipe: Recipe,
    /// The backend `bad`.
    pub(crate) bad: Fixture,
    _good: Fixture,
}

impl World {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let (good, bad) = (Fixture::start(&[])?, Fixture::start(&[])?);
        let mut recipe = Recipe::new(&[("good", &good.url), ("bad", &bad.url)])?;
        // Only the tool that hangs when it is told to: the others may have to wait for the machine.
        let hot = recipe.config.hot.get_or_insert_default();
        let deadline = (backend::TOOL.to_owned(), Span::from_secs(3));
        hot.backends[1].tools.deadlines = [deadline].into();
        recipe.config.name = "stranger".to_owned();
        let stranger = recipe.start()?;
        recipe.config.name = "guarded".to_owned();
        let guarded = Guarded::start(&mut recipe)?;
        recipe.config.name = "own".to_owned();
        Ok(Self {
            gateway: recipe.start()?,
            stranger,
            guarded,
            recipe,
            bad,
            _good: good,
        })
    }

    pub(crate) fn open(&self) -> anyhow::Result<Session> {
        Session::open(self.gateway.mcp)
    }

    /// A call of `echo` at this backend, with an answer that nobody else gets.
    pub(crate) fn echo(&self, session: &Session, backend: &str, nonce: &str) -> anyhow::Result<()> {
        echo(self.gateway.mcp, session, backend, nonce)
    }

    /// The gateway is ready, its backends are, and a new client is served.
    pub(crate) fn is_well(&self) -> anyhow::Result<()> {
        wait::until("all backends are ready", LIMIT, || {
            let status = self.gateway.status(&self.recipe)?;
            let ready =
                |backend: &vmcp_crds::status::BackendStatus| backend.error.is_none() && backend.tools > 0;
            ensure!(status.ready && status.backends.iter().all(ready), "{status:?}");
            Ok(())
        })?;
        let session = self.open()?;
        for backend in ["good", "bad"] {
            self.echo(&session, backend, "well")?;
        }
        self.close(&session)
    }

    pub(crate) fn close(&self, session: &Session) -> anyhow::Result<()> {
        let closed = session.delete(self.gateway.mcp)?;
        ensure!(closed.status < 300, "{closed:?}");
        Ok(())
    }
}

pub(crate) fn echo(
    gateway: std::net::SocketAddr,
    session: &Session,
    backend: &str,
    nonce: &str,
) -> anyhow::Result<()> {
    let answer = session.call(gateway, &format!("{backend}_echo"), &json!({"message": nonce}))?;
    let text = answer.tool_text()?;
    ensure!(text == nonce, "{text} in the place of {nonce}");
    Ok(())
}

/// What an answer to a fault says: its code, 0 without one, and its words.
pub(crate) fn told(answer: &Answer) -> (i64, String) {
    let message = answer.message().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if message["result"]["isError"] == true {
        return (0, text(&message["result"]["content"][0]["text"]));
    }
    if message["error"].is_object() {
        return (answer.error_code(), text(&message["error"]["message"]));
    }
    (0, answer.text())
}
