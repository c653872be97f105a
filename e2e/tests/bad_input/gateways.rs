//! Gateways in front of a backend that other clients use, and of one that the tests make fail.

use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use vmcp_crds::config::Duration as Span;
use vmcp_e2e::gateway::Gateway;
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::{Answer, Session};
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;

use crate::backend;
use crate::principal::Guarded;

/// The longest wait for an expected event.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Gateways {
    pub(crate) gateway: Gateway,
    /// A gateway with the same keys that serves another virtual server.
    pub(crate) stranger: Gateway,
    /// A gateway that authenticates its callers.
    pub(crate) guarded: Guarded,
    /// The backends `good` and `bad`, and how the gateways were started.
    pub(crate) harness: Harness,
}

impl Gateways {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let builder = Harness::builder()
            .test_server("good", &[])
            .test_server("bad", &[]);
        let mut harness = builder.replicas(0).start()?;
        let recipe = &mut harness.recipe;
        // Only for the tool that the tests let hang: the other calls may have to wait for the machine.
        let deadline = (backend::TOOL.to_owned(), Span::from_secs(3));
        recipe.hot().backends[1].tools.deadlines = [deadline].into();
        recipe.config.name = "stranger".to_owned();
        let stranger = recipe.start()?;
        recipe.config.name = "guarded".to_owned();
        let guarded = Guarded::start(recipe)?;
        recipe.config.name = "own".to_owned();
        Ok(Self {
            gateway: recipe.start()?,
            stranger,
            guarded,
            harness,
        })
    }

    /// The backend that the tests make fail.
    pub(crate) fn bad(&self) -> &TestServer {
        &self.harness.servers[1]
    }

    pub(crate) fn open(&self) -> anyhow::Result<Session> {
        Session::open(self.gateway.mcp)
    }

    /// Calls `echo` at this backend, with a nonce that no other call has.
    pub(crate) fn echo(&self, session: &Session, backend: &str, nonce: &str) -> anyhow::Result<()> {
        echo(self.gateway.mcp, session, backend, nonce)
    }

    /// Checks that the gateway and its backends are ready, and that a new client is served.
    pub(crate) fn is_well(&self) -> anyhow::Result<()> {
        wait::until("all backends are ready", LIMIT, || {
            let status = self.gateway.status(&self.harness.recipe)?;
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
    ensure!(text == nonce, "{text} instead of {nonce}");
    Ok(())
}

/// The code of an error response, or 0, and its text.
pub(crate) fn error_of(answer: &Answer) -> (i64, String) {
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
