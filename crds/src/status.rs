//! The response of a gateway's `/status` endpoint, for the operator and for users.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The response of `/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// `namespace/name` of the virtual server.
    pub server: String,
    /// The version of the gateway.
    pub version: String,
    /// [`config_hash`] of the hot configuration that is in use.
    pub hot_config_hash: String,
    /// Why the last hot configuration was rejected, if it was. The previous one then stays in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hot_config_error: Option<String>,
    /// Whether `/readyz` reports ready.
    pub ready: bool,
    /// Whether the process is shutting down.
    pub draining: bool,
    /// State of the session store.
    pub session_store: SessionStoreStatus,
    /// The issuer of accepted tokens; absent if clients are anonymous.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_issuer: Option<TokenIssuerStatus>,
    /// Number of tools that clients see.
    pub tools: usize,
    /// The backends, in the order of the configuration.
    pub backends: Vec<BackendStatus>,
    /// Name conflicts, with the winner and the loser, one message each. This list and the next two contain at most 500 messages each, and
    /// the number of further ones.
    pub conflicts: Vec<String>,
    /// Items of backends that clients do not see for other reasons, one message each.
    #[serde(default)]
    pub faults: Vec<String>,
    /// Items that work only for some clients, and configuration without effect, one message each.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// What the operator reads of the `/status` of a bridge, a gateway with one backend. It needs no token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BridgeStatus {
    /// The server behind the bridge, as its only backend.
    #[serde(default)]
    pub backends: Vec<BridgedServer>,
}

/// The server behind a bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BridgedServer {
    /// Number of tools that the server offers.
    #[serde(default)]
    pub tools: usize,
    /// The protocol revision that the last `initialize` has negotiated. Absent until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Why the server cannot be used, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// State of the session store, as this gateway sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionStoreStatus {
    /// `memory` or `redis`.
    pub provider: String,
    /// Whether operations succeed. One late response does not change it.
    pub available: bool,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Why the store may drop sessions that are in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// State of the token issuer, as this gateway sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenIssuerStatus {
    /// URL of the issuer.
    pub issuer: String,
    /// Number of usable keys of the issuer. They stay in use if the issuer cannot be reached.
    pub keys: usize,
    /// Why the last fetch of the keys failed, or why changed certificate authorities are not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// State of one backend, as this gateway sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendStatus {
    /// Name of the backend.
    pub name: String,
    /// Whether the backend can be used.
    pub state: BackendState,
    /// Whether the backend can be reached, according to health checks and the circuit breaker.
    #[serde(default)]
    pub health: Health,
    /// State of the circuit breaker; absent if the gateway is older than the field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<Breaker>,
    /// The protocol era that the backend's last answer to `initialize` showed. Absent until then, and if the gateway is older than the field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub era: Option<ProtocolEra>,
    /// The protocol revision that the last `initialize` has negotiated. Absent until then, and if the gateway is older than the field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Number of tools that the backend offers.
    pub tools: usize,
    /// Number of prompts that the backend offers.
    #[serde(default)]
    pub prompts: usize,
    /// Number of resources that the backend offers.
    #[serde(default)]
    pub resources: usize,
    /// Number of resource templates that the backend offers.
    #[serde(default)]
    pub resource_templates: usize,
    /// Whether the backend has repeatedly lost sessions lately, which is typical of a server with replicas but no session affinity.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_affinity: bool,
    /// The processes of a backend with a command; absent for a server that is reached over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<ServerProcesses>,
    /// Why the backend cannot be used, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The processes that a gateway runs for one backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerProcesses {
    /// Number of running processes, with the one in which the gateway lists what the server offers.
    pub running: usize,
    /// How the last process ended that the gateway has not stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<ServerExit>,
}

/// How a process of a backend ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerExit {
    /// The exit code; after a signal 128 and the signal's number. Absent if the gateway stopped it because of its output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// What happened, in words.
    pub reason: String,
    /// The last lines of its standard error, without secrets of its environment.
    pub last_lines: Vec<String>,
}

/// Whether a backend can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// The backend has not answered since the gateway started.
    Unknown,
    /// The backend answered the last request.
    Ready,
    /// The backend is unavailable, or rejects the gateway's requests.
    Failing,
}

/// Whether a backend can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// The backend has not answered since the gateway started, and has not failed often enough to be unavailable.
    #[default]
    Unknown,
    /// The backend answered the last health check.
    Healthy,
    /// The backend has failed recently, or rejects the gateway's requests, or its circuit breaker is not closed.
    Degraded,
    /// The backend has failed repeatedly.
    Unavailable,
}

impl Health {
    /// All values.
    pub const ALL: [Self; 4] = [Self::Unknown, Self::Healthy, Self::Degraded, Self::Unavailable];

    /// The name in `/status` and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unavailable => "unavailable",
        }
    }
}

/// State of a backend's circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Breaker {
    /// Calls go through to the backend.
    Closed,
    /// One trial call goes through.
    HalfOpen,
    /// Calls fail without being sent.
    Open,
}

/// The protocol era of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProtocolEra {
    /// The backend accepts `initialize`: revisions up to 2025-11-25, with sessions.
    Legacy,
    /// The backend refuses `initialize` and names only later revisions, which have no sessions.
    Modern,
}

/// The hash with which the operator and the gateway compare hot configurations: SHA-256 of the file, in hexadecimal.
#[must_use]
pub fn config_hash(text: &str) -> String {
    Sha256::digest(text.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // Empty lists are serialized, and lists that an older gateway omits are parsed as empty.
    #[test]
    fn empty_lists_are_serialized_and_optional() {
        let status = json!({
            "server": "default/demo", "version": "1", "hotConfigHash": "", "ready": true, "draining": false,
            "sessionStore": {"provider": "memory", "available": true}, "tools": 0, "backends": [], "conflicts": [],
        });
        let status: GatewayStatus = serde_json::from_value(status).unwrap();
        let written = serde_json::to_value(status).unwrap();
        for list in ["backends", "conflicts", "faults", "warnings"] {
            assert_eq!(written[list], json!([]), "{list}");
        }
    }

    #[test]
    fn breaker_of_older_gateway_is_absent() {
        let mut backend = json!({"name": "time", "state": "ready", "tools": 1});
        let of = |backend: &serde_json::Value| {
            serde_json::from_value::<BackendStatus>(backend.clone())
                .unwrap()
                .breaker
        };
        assert_eq!(of(&backend), None);
        for (name, breaker) in [
            ("closed", Breaker::Closed),
            ("halfOpen", Breaker::HalfOpen),
            ("open", Breaker::Open),
        ] {
            backend["breaker"] = json!(name);
            assert_eq!(of(&backend), Some(breaker));
        }
    }
}
