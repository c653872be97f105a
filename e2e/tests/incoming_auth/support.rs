//! Gateways that require a token, and callers with one.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use vmcp_crds::config::{IncomingAuth, IncomingAuthType, LogLevel, OidcConfig};
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::http_client::{self, Answer};
use vmcp_e2e::issuer::Issuer;

/// How long something may take that happens in the background.
pub(crate) const SOON: Duration = Duration::from_secs(20);
pub(crate) const RESOURCE: &str = "https://tools.example.com/mcp";

/// The smallest configuration for an issuer without TLS.
pub(crate) fn oidc(issuer: &Issuer) -> anyhow::Result<OidcConfig> {
    let text = json!({
        "issuer": issuer.url,
        "audience": "tools",
        "resource": RESOURCE,
        "insecureAllowHttp": true,
    });
    Ok(serde_json::from_value(text)?)
}

pub(crate) fn with_auth(mut recipe: Recipe, oidc: OidcConfig) -> Recipe {
    recipe.config.incoming_auth = IncomingAuth {
        kind: IncomingAuthType::Oidc,
        oidc: Some(oidc),
    };
    recipe
}

/// A gateway with this OIDC configuration and the log level `trace`.
pub(crate) fn gateway(oidc: OidcConfig) -> anyhow::Result<(Recipe, Gateway)> {
    let mut recipe = with_auth(Recipe::new(&[])?, oidc);
    recipe.hot().log_level = LogLevel::Trace;
    let gateway = recipe.start()?;
    Ok((recipe, gateway))
}

/// A caller with or without a token.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller {
    pub(crate) token: Option<String>,
    pub(crate) session: Option<String>,
}

impl Caller {
    pub(crate) fn with(token: impl Into<String>) -> Self {
        Self {
            token: Some(token.into()),
            session: None,
        }
    }

    /// The same, naming that session.
    pub(crate) fn naming(&self, session: &str) -> Self {
        Self {
            session: Some(session.to_owned()),
            ..self.clone()
        }
    }

    pub(crate) fn send(
        &self,
        gateway: SocketAddr,
        method: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
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

    pub(crate) fn initialize(&self, gateway: SocketAddr) -> anyhow::Result<Answer> {
        let params = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "http-client", "version": "1"},
        });
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
        self.send(gateway, "POST", Some(&message))
    }

    /// Opens a session, and uses it for further requests.
    pub(crate) fn open(&self, gateway: SocketAddr) -> anyhow::Result<Self> {
        let answer = self.initialize(gateway)?;
        let id = answer.header("mcp-session-id");
        Ok(self.naming(id.with_context(|| format!("no session: {answer:?}"))?))
    }

    pub(crate) fn call(&self, gateway: SocketAddr, tool: &str) -> anyhow::Result<Answer> {
        let params = json!({"name": tool, "arguments": {}});
        let message = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params});
        self.send(gateway, "POST", Some(&message))
    }

    /// All requests that use a session. None opens a stream for another subject's session.
    pub(crate) fn try_everything(&self, gateway: SocketAddr) -> anyhow::Result<Vec<Answer>> {
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
pub(crate) fn seen(answers: &[Answer]) -> Vec<Answer> {
    let without_date = |answer: &Answer| {
        let mut answer = answer.clone();
        answer
            .headers
            .retain(|(name, _)| name != "date" && name != "x-request-id");
        answer
    };
    answers.iter().map(without_date).collect()
}

pub(crate) fn challenge(answer: &Answer) -> &str {
    answer.header("www-authenticate").unwrap_or_default()
}

/// Checks that the gateway rejects a token, tells the client the reason, counts it, and does not log it.
pub(crate) fn check_refused(gateway: &Gateway, token: &str, outcome: &str) -> anyhow::Result<()> {
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

pub(crate) fn check_accepted(gateway: &Gateway, token: &str) -> anyhow::Result<()> {
    let answer = Caller::with(token).initialize(gateway.mcp)?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(())
}
