//! The hot part of the configuration, which a running gateway reloads without a restart.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{AggregationConfig, BackendConfig, Duration, LimitsConfig, cel, is_default, rules};

/// The part of the configuration that a running gateway reloads without a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HotConfig {
    /// Log level of the gateway.
    #[schemars(extend("default" = LogLevel::default().as_str()))]
    #[serde(default, skip_serializing_if = "is_default")]
    pub log_level: LogLevel,
    /// Which successful requests are logged.
    #[serde(default, skip_serializing_if = "is_default")]
    pub access_log: AccessLogConfig,
    /// The MCP servers behind the gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<BackendConfig>,
    /// How the catalogs of the backends are merged into one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub aggregation: AggregationConfig,
    /// The name, title and version that the gateway sends in `initialize`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub server_info: ServerInfo,
    /// Instructions for models on how to use the server. Default: the instructions of the backends, each under a heading with the
    /// backend's name and cut after 4 KiB, at most 16 KiB in all. An empty text sends none.
    #[schemars(length(max = 65536))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// Allowed values of the header `Host`: a host name or an address, with a port or without one (any port matches), for example
    /// `mcp.example.com` or `10.0.0.7:4483`. A request with another value is answered with 403. This protects against DNS rebinding,
    /// where a web page points its own name at the gateway. If empty, every value is allowed, except on a loopback address: there the
    /// names of this machine are allowed, in addition to this list.
    #[schemars(
        length(max = 128),
        inner(length(max = 261)),
        extend("x-kubernetes-validations" = [cel::rule(
            &format!("self.all(host, {})", cel::is_host_and_optional_port("host")),
            rules::HOST_EXPECTED
        )])
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_hosts: Vec<String>,
    /// Web origins that may use the endpoint from a browser (CORS), as in the header `Origin`, for example `https://app.example.com`.
    /// Other origins are answered with 403, except those whose host is in `allowedHosts` and, on a loopback address, those of this
    /// machine. Requests without `Origin` are allowed: clients that are not browsers do not send it. Apps and browser extensions have
    /// origins such as `app://obsidian.md` or `chrome-extension://<id>`: list them exactly as they are sent. `null` stands for every page
    /// without an origin, such as a local file or a sandboxed frame. Any site can create such a frame, so list `null` only if every page
    /// may use the endpoint.
    #[schemars(
        length(max = 128),
        inner(length(max = 261)),
        extend("x-kubernetes-validations" = [cel::rule(
            &format!("self.all(origin, {})", cel::is_origin("origin")),
            rules::ORIGIN_EXPECTED
        )])
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_origins: Vec<String>,
    /// Time after which the response to a slow call (`tools/call`, `prompts/get`, `resources/read`, `completion/complete`) becomes an
    /// event stream, for example `20s`. A comment on the stream every 15 s keeps load balancers and clients from closing the connection.
    /// Default: never; a JSON response of a backend stays JSON, and no byte is sent before the backend responds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_calls_after: Option<Duration>,
    /// Limits on requests, memory and sessions.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: LimitsConfig,
}

/// Which successful requests are logged. Failed requests, and rejections that may need attention, are always logged. With
/// `logLevel: debug` every request is logged. A line contains the method, the status, the duration, the request id (`X-Request-Id`) and
/// a tag instead of the session id; never a body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessLogConfig {
    /// Fraction of requests that is logged at `info`, chosen at random, from 0 (none) to 1 (all). Example: `0.01` logs one request in a
    /// hundred.
    #[schemars(extend("default" = 0))]
    #[serde(default, skip_serializing_if = "is_default")]
    pub sample: SampleShare,
}

/// A sampling fraction from 0 to 1, as a fixed-point number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SampleShare(u32);

impl SampleShare {
    /// The representation of 1.
    const WHOLE: u32 = 1_000_000_000;

    /// Returns this fraction of `whole`.
    #[must_use]
    pub fn of(self, whole: u64) -> u64 {
        // The product of two 64-bit numbers fits into 128 bits.
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
        reason = "the value is from 0 to 1000000000"
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

/// The server information that the gateway sends in `initialize`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServerInfo {
    /// The name for programs. Default: the name of the virtual server.
    #[schemars(
        length(max = 256),
        extend("x-kubernetes-validations" = [cel::rule("size(self) > 0", rules::EMPTY_SERVER_INFO)])
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The title that is shown to users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The version. Default: the version of the gateway.
    #[schemars(
        length(max = 256),
        extend("x-kubernetes-validations" = [cel::rule("size(self) > 0", rules::EMPTY_SERVER_INFO)])
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// Log level of the gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Only failures of the gateway itself.
    Error,
    /// Also failures of backends, the session store and clients.
    Warn,
    /// Also events of the process, such as start, reload and drain.
    #[default]
    Info,
    /// Also one line for each request.
    Debug,
    /// All messages.
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
