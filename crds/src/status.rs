//! What a gateway says of itself at `/status` on its admin port, for the operator and for people.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The answer of `/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// `namespace/name` of the virtual server.
    pub server: String,
    /// The version of the gateway.
    pub version: String,
    /// [`config_hash`] of the hot configuration that is in use.
    pub hot_config_hash: String,
    /// Why the last hot configuration was refused, if it was; the one before it is then still in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hot_config_error: Option<String>,
    /// Whether `/readyz` says yes.
    pub ready: bool,
    /// Whether the process is ending.
    pub draining: bool,
    /// The session store.
    pub session_store: SessionStoreStatus,
    /// The issuer whose tokens are accepted; without one, whoever can connect is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_issuer: Option<TokenIssuerStatus>,
    /// How many tools clients are offered.
    pub tools: usize,
    /// The backends, in the order of the configuration.
    pub backends: Vec<BackendStatus>,
    /// Names that two claim, with who has them and who has lost: a sentence each. Of the three lists, at most 500 sentences each, and
    /// how many more there are.
    pub conflicts: Vec<String>,
    /// What backends offer, or say that they do, and clients are not offered for other reasons: a sentence each.
    #[serde(default)]
    pub faults: Vec<String>,
    /// What works, but not for everybody or not as somebody meant it: a sentence each.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// The session store as this gateway sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionStoreStatus {
    /// `memory` or `redis`.
    pub provider: String,
    /// Whether the last operation had an answer.
    pub available: bool,
    /// Why it had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The issuer of tokens as this gateway sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenIssuerStatus {
    /// Its URL.
    pub issuer: String,
    /// How many of its keys are known and can be used. Those stay in use when it cannot be reached.
    pub keys: usize,
    /// Why its keys could not be fetched the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One backend as this gateway sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendStatus {
    /// The backend's name.
    pub name: String,
    /// What is known of it.
    pub state: BackendState,
    /// Whether it can be reached, as the gateway's probes and its breaker see it.
    #[serde(default)]
    pub health: Health,
    /// How many tools it offers.
    pub tools: usize,
    /// How many prompts it offers.
    #[serde(default)]
    pub prompts: usize,
    /// How many resources it offers.
    #[serde(default)]
    pub resources: usize,
    /// How many resource templates it offers.
    #[serde(default)]
    pub resource_templates: usize,
    /// Whether it has lost sessions again and again lately, as a server does that has replicas and no session affinity.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_affinity: bool,
    /// Why it cannot be used, as far as known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What is known of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// It has not answered since the gateway started.
    Unknown,
    /// It answered the last time.
    Ready,
    /// It is unavailable, or refuses what the gateway asks.
    Failing,
}

/// Whether a backend can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// It has not answered since the gateway started, and has not failed often enough to say more.
    #[default]
    Unknown,
    /// It answered the last probe.
    Healthy,
    /// It failed lately, or refuses what the gateway asks, or its breaker is not closed.
    Degraded,
    /// It failed again and again.
    Unavailable,
}

impl Health {
    /// All there are.
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

/// The hash by which operator and gateway compare hot configurations: SHA-256 of the file's bytes, in hexadecimal.
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

    #[test]
    fn each_list_is_written_also_when_it_is_empty_and_read_from_a_gateway_that_leaves_it_out() {
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
}
