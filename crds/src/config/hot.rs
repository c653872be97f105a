//! The hot part: what a running gateway takes without a restart.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{AggregationConfig, BackendConfig, Duration, LimitsConfig, is_default};

/// What a running gateway takes without a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HotConfig {
    /// How much the gateway logs.
    #[schemars(extend("default" = LogLevel::default().as_str()))]
    #[serde(default, skip_serializing_if = "is_default")]
    pub log_level: LogLevel,
    /// Which requests are logged where nothing went wrong.
    #[serde(default, skip_serializing_if = "is_default")]
    pub access_log: AccessLogConfig,
    /// The MCP servers that the gateway offers as one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<BackendConfig>,
    /// How their offers become one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub aggregation: AggregationConfig,
    /// Who the gateway says it is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub server_info: ServerInfo,
    /// What the gateway tells a model about using it. Without it, what the backends tell, each under a heading with the backend's
    /// name and cut after 4 KiB, 16 KiB in all; with an empty text, nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// The names under which clients reach the endpoint, as they stand in the header `Host`: a host name or an address, alone (any port
    /// fits) or with its port. A request under another name is answered with 403, which keeps out pages of the web that point a name of
    /// their own at the gateway (DNS rebinding). Without a list every name passes, except on loopback, where this machine's own names
    /// pass, with a list and without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_hosts: Vec<String>,
    /// The pages of the web that may use the endpoint, as browsers name them in the header `Origin`, for example
    /// `https://app.example.com`; browsers are told so (CORS). Any other page is answered with 403, except those under a name that
    /// `allowedHosts` has and, on loopback, those of this machine. Clients that are no browsers send no `Origin`, and pass. Apps and browser
    /// extensions have origins such as `app://obsidian.md` or `chrome-extension://` and the extension's id: list them as they are sent. `null`
    /// stands for every page without an origin, such as a local file or a sandboxed frame. Any site can make such a frame, so list `null`
    /// only where all pages may use the endpoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_origins: Vec<String>,
    /// After how long a call (`tools/call`, `prompts/get`, `resources/read`, `completion/complete`) whose answer has not begun is answered
    /// as a stream of events. A comment on the stream every 15 s keeps balancers and clients from taking the connection for dead. Without
    /// it, a backend's answer as JSON stays JSON, and no byte is sent until the backend answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_calls_after: Option<Duration>,
    /// How much the gateway takes on at a time.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: LimitsConfig,
}

/// Which requests are logged where nothing went wrong. A request that failed, or was refused for a reason that somebody should look at,
/// is always logged; with `logLevel: debug` every request is. A line holds the method, the status, how long it took, the request's id
/// (`X-Request-Id`) and a tag in the place of the session id; never a body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessLogConfig {
    /// The share of requests that is logged at `info`, picked at random: from 0, which is none, to 1, which is all; `0.01` is one in a
    /// hundred.
    #[schemars(extend("default" = 0))]
    #[serde(default, skip_serializing_if = "is_default")]
    pub sample: SampleShare,
}

/// A share of something, from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SampleShare(u32);

impl SampleShare {
    /// How many parts make the whole.
    const WHOLE: u32 = 1_000_000_000;

    /// Of `whole`, as much as this share is.
    #[must_use]
    pub fn of(self, whole: u64) -> u64 {
        // Two numbers of 64 bits, which fit.
        let parts = u128::from(whole).saturating_mul(u128::from(self.0));
        let part = parts.checked_div(u128::from(Self::WHOLE));
        part.and_then(|part| u64::try_from(part).ok()).unwrap_or(whole)
    }
}

impl Serialize for SampleShare {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(self.0) / f64::from(Self::WHOLE))
    }
}

impl<'de> Deserialize<'de> for SampleShare {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is from 0 to a thousand million"
    )]
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let share = f64::deserialize(deserializer)?;
        if (0.0..=1.0).contains(&share) {
            return Ok(Self((share * f64::from(Self::WHOLE)).round() as u32));
        }
        Err(de::Error::custom(format!(
            "found {share}; expected a number from 0 to 1, for example 0.01"
        )))
    }
}

impl JsonSchema for SampleShare {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SampleShare".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "number", "minimum": 0, "maximum": 1})
    }
}

/// Who the gateway says it is, in `initialize`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServerInfo {
    /// The name that programs see. Without it, the name of the virtual server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The title that people see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The version. Without it, the version of the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// How much the gateway logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Only what went wrong in the gateway itself.
    Error,
    /// Also what went wrong around it: backends, store, clients.
    Warn,
    /// Also what happens to the process as a whole.
    #[default]
    Info,
    /// Also one line per request.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The level's name in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}
