//! A gateway that authenticates its callers, and sessions of other principals.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use vmcp_crds::config::{IncomingAuth, IncomingAuthType};
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::http_client::{self, Answer};
use vmcp_e2e::issuer::Issuer;

use crate::client::{ACCEPT, EVENTS, JSON, PING, Row, row};

/// A gateway that requires tokens, and their issuer.
pub(crate) struct Guarded {
    pub(crate) gateway: Gateway,
    issuer: Issuer,
}

/// A caller with a token and a session.
#[derive(Clone)]
pub(crate) struct Caller {
    gateway: SocketAddr,
    authorization: String,
    session: String,
}

impl Guarded {
    /// A gateway like those of `recipe`, with authentication.
    pub(crate) fn start(recipe: &mut Recipe) -> anyhow::Result<Self> {
        let issuer = Issuer::start()?;
        let oidc = json!({
            "issuer": issuer.url,
            "audience": "tools",
            "resource": "https://tools.example.com/mcp",
            "insecureAllowHttp": true,
        });
        recipe.config.incoming_auth = IncomingAuth {
            kind: IncomingAuthType::Oidc,
            oidc: Some(serde_json::from_value(oidc)?),
        };
        let gateway = recipe.start()?;
        recipe.config.incoming_auth = IncomingAuth::default();
        Ok(Self { gateway, issuer })
    }

    /// A session of `subject`.
    pub(crate) fn open(&self, subject: &str) -> anyhow::Result<Caller> {
        let mut caller = Caller {
            gateway: self.gateway.mcp,
            authorization: format!("Bearer {}", self.issuer.token(subject)?),
            session: String::new(),
        };
        let params = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "http-client", "version": "1"},
        });
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
        let headers = [JSON, ACCEPT, ("authorization", &*caller.authorization)];
        let body = message.to_string();
        let answer = http_client::exchange(caller.gateway, "POST", "/mcp", &headers, body.as_bytes())?;
        let id = answer.header("mcp-session-id");
        caller.session = id.with_context(|| format!("no session: {answer:?}"))?.to_owned();
        Ok(caller)
    }
}

impl Caller {
    /// The same principal, with the session of `other`.
    fn with_session_of(&self, other: &Self) -> Self {
        Self {
            session: other.session.clone(),
            ..self.clone()
        }
    }

    fn send(&self, method: &str, accept: (&str, &str), body: &[u8]) -> anyhow::Result<Answer> {
        let headers = [
            JSON,
            accept,
            ("authorization", &*self.authorization),
            ("mcp-session-id", &*self.session),
        ];
        http_client::exchange(self.gateway, method, "/mcp", &headers, body)
    }

    /// Calls `echo` with a nonce that no other call has.
    pub(crate) fn echo(&self, backend: &str, nonce: &str) -> anyhow::Result<()> {
        let params = json!({"name": format!("{backend}_echo"), "arguments": {"message": nonce}});
        let call: Value = json!({"jsonrpc": "2.0", "id": nonce, "method": "tools/call", "params": params});
        let text = self
            .send("POST", ACCEPT, call.to_string().as_bytes())?
            .tool_text()?;
        ensure!(text == nonce, "{text} in the place of {nonce}");
        Ok(())
    }

    pub(crate) fn close(&self) -> anyhow::Result<()> {
        let closed = self.send("DELETE", ACCEPT, b"")?;
        ensure!(closed.status < 300, "{closed:?}");
        Ok(())
    }
}

pub(crate) fn rows() -> Vec<Row> {
    type Try = fn(&Caller) -> anyhow::Result<Answer>;
    let tries: [(&str, Try); 4] = [
        ("a request in another principal's session", |bob| {
            bob.send("POST", ACCEPT, PING.as_bytes())
        }),
        ("a notification in another principal's session", |bob| {
            let message = br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
            bob.send("POST", ACCEPT, message)
        }),
        ("a stream of another principal's session", |bob| {
            bob.send("GET", EVENTS, b"")
        }),
        ("the end of another principal's session", |bob| {
            bob.send("DELETE", ACCEPT, b"")
        }),
    ];
    let unknown = (404, -32001, "Session not found");
    tries
        .map(|(fault, attempt)| {
            row(fault, unknown, move |client| {
                let guarded = &client.gateways.guarded;
                let (alice, bob) = (guarded.open("alice")?, guarded.open("bob")?);
                alice.echo("good", "before")?;
                let answer = attempt(&bob.with_session_of(&alice))?;
                alice.echo("good", "behind")?;
                alice.close()?;
                // The response does not reveal whether such a session exists.
                let ended = attempt(&bob.with_session_of(&alice))?;
                ensure!(
                    (ended.status, &ended.body) == (answer.status, &answer.body),
                    "{ended:?}"
                );
                bob.close()?;
                Ok(answer)
            })
        })
        .into()
}
