//! One MCP server behind the gateway, and what of its offers clients see.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    BreakerConfig, ConcurrencyConfig, Duration, HeaderSource, HealthConfig, Timeouts, address, is_default,
};

/// One MCP server behind the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendConfig {
    /// The name of the backend, unique among the backends: a DNS label (lower-case letters, digits and `-`, at most 63
    /// characters). Unless the aggregation says otherwise, its tools are offered as `<name>_<tool>`.
    pub name: String,
    /// The URL of its endpoint, for example `http://time.tools.svc:8000/mcp`; with `transport: sse` the URL of its stream, for example
    /// `http://time.tools.svc:8000/sse`.
    pub url: String,
    /// The addresses of the URL's host, in the place of those that a look-up of its name finds. However they are found, a host with
    /// several, such as the name of a headless Service, counts as several servers of which each keeps sessions for itself: a session
    /// stays at the address at which it was opened. It is opened anew at another when nobody takes connections at that address any
    /// more, or, without TLS, when it is not one of the host's any more.
    #[schemars(with = "Vec<address::Ip>")]
    #[serde(
        default,
        deserialize_with = "address::ips",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub addresses: Vec<IpAddr>,
    /// How its certificate is checked, where its URL has `https`; without this it has to be signed by an authority that the system trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<BackendTls>,
    /// The transport that it speaks. `streamable-http`: what servers speak since 2025-03-26. `sse`: HTTP+SSE of 2024-11-05, in which a
    /// session lives as long as one connection. Such a session belongs to one process of the gateway: each replica opens one of
    /// its own, the server's state for it is not shared, and it is lost when the connection or the process ends; running
    /// calls then end with an error, and the next call opens another. A client's answer to what such a server asks has to reach
    /// the replica that runs the call.
    #[schemars(extend("default" = BackendTransport::default().as_str()))]
    #[serde(default, skip_serializing_if = "is_default")]
    pub transport: BackendTransport,
    /// What the names of its tools and prompts begin with, in the place of `aggregation.prefixFormat`; may be empty. Only with
    /// `aggregation.strategy: prefix`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// How long it may take.
    #[serde(default, skip_serializing_if = "is_default")]
    pub timeouts: Timeouts,
    /// What becomes of a session's calls to it while the session store does not answer, when it is not known which session of
    /// the backend they belong to. `keep`: they wait, with 503 and Retry-After, because the backend may hold state for the
    /// session that another session there would not have. `disposable`: they are served in a session of their own, which may
    /// take the place of none or be thrown away afterwards. A backend that gives no session ids is always `disposable`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub session_state: SessionState,
    /// Where its lists come from. `shared`: from a session of the gateway's own, once for all clients. `perSession`: from each client's own
    /// session at the backend, for servers that add tools to one session or show different tools to different users. The gateway then asks the
    /// backend each time a client asks for a list, and opens the client's session there first if necessary. If the backend does not answer within
    /// 5 s, the client gets the list of the gateway's own session. Names, filters and conflicts work the same way in both.
    #[schemars(extend("default" = CatalogScope::default().as_str()))]
    #[serde(default, skip_serializing_if = "is_default")]
    pub catalog: CatalogScope,
    /// Whether the requests of all clients go in one session at the backend, for a server that has one session for everybody and refuses
    /// a second `initialize` as "already initialized". Then such a session is the gateway's own, and with Redis every replica uses the same.
    /// Features that belong to one client do not work: the server sees the gateway's name and capabilities, log levels and changes of roots are not
    /// forwarded, clients cannot subscribe to resources, messages that the server sends outside a call are dropped, and a broken call cannot be
    /// resumed. All clients share the state that the server keeps for the session. Only with
    /// `transport: streamable-http`, and not with `catalog: perSession`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub shared_session: bool,
    /// The largest answer in JSON that is passed on, in bytes, at least 1024. A larger one is refused where the backend says its size, and breaks off
    /// otherwise. One event of a stream may have 16 MiB, whatever stands here.
    #[schemars(range(min = 1024), extend("default" = default_max_answer_bytes()))]
    #[serde(
        default = "default_max_answer_bytes",
        skip_serializing_if = "is_default_max_answer_bytes"
    )]
    pub max_answer_bytes: u64,
    /// Headers that every request to it bears, by name. Those of HTTP and MCP themselves are refused. A backend with a header that has no
    /// value cannot be called; others are not affected.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, HeaderSource>,
    /// The names of headers that are passed on from the client's requests. `Authorization`, `Cookie` and the headers of HTTP and MCP
    /// themselves are refused. The session of the gateway's own, in which it looks at the lists, has none of them, because no
    /// client stands behind it: a backend that wants them there, too, cannot be listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pass_headers: Vec<String>,
    /// Which of its tools are offered, and how.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tools: ToolRules,
    /// Which of its prompts are offered, and how.
    #[serde(default, skip_serializing_if = "is_default")]
    pub prompts: PromptRules,
    /// Which of its resources are offered.
    #[serde(default, skip_serializing_if = "is_default")]
    pub resources: ResourceRules,
    /// When calls to it are refused at once, because it has not been reachable.
    #[serde(default, skip_serializing_if = "is_default")]
    pub breaker: BreakerConfig,
    /// How many calls may run there at a time.
    #[serde(default, skip_serializing_if = "is_default")]
    pub concurrency: ConcurrencyConfig,
    /// How the gateway finds out whether it lives.
    #[serde(default, skip_serializing_if = "is_default")]
    pub health: HealthConfig,
}

/// How a backend's certificate is checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendTls {
    /// A file with certificates in PEM, for example `/etc/tls/ca.crt`, in the place of those that the system trusts. A server is trusted
    /// when one of them has signed its certificate, which has to bear the name in the URL, or when its certificate is one of them, as
    /// with a self-signed one: then neither name nor dates are looked at. The file is read for each new connection, so that a change
    /// needs no restart. A relative path starts at the directory of this file.
    pub ca_file: PathBuf,
}

/// Whether what a backend remembers of a session counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SessionState {
    /// It counts.
    #[default]
    Keep,
    /// It may be lost.
    Disposable,
}

/// Whose lists of a backend clients see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CatalogScope {
    /// Those of the gateway's own session.
    #[default]
    Shared,
    /// Those of the client's own session.
    PerSession,
}

impl CatalogScope {
    /// The scope's name in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::PerSession => "perSession",
        }
    }
}

/// The transport that a backend speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BackendTransport {
    /// Streamable HTTP.
    #[default]
    StreamableHttp,
    /// HTTP+SSE.
    Sse,
}

impl BackendTransport {
    /// The transport's name in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StreamableHttp => "streamable-http",
            Self::Sse => "sse",
        }
    }
}

impl Default for BackendConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            url: String::new(),
            addresses: Vec::new(),
            tls: None,
            transport: BackendTransport::default(),
            prefix: None,
            timeouts: Timeouts::default(),
            session_state: SessionState::default(),
            catalog: CatalogScope::default(),
            shared_session: false,
            max_answer_bytes: default_max_answer_bytes(),
            headers: BTreeMap::new(),
            pass_headers: Vec::new(),
            tools: ToolRules::default(),
            prompts: PromptRules::default(),
            resources: ResourceRules::default(),
            health: HealthConfig::default(),
            breaker: BreakerConfig::default(),
            concurrency: ConcurrencyConfig::default(),
        }
    }
}

fn default_max_answer_bytes() -> u64 {
    100 * 1024 * 1024
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it")]
fn is_default_max_answer_bytes(value: &u64) -> bool {
    *value == default_max_answer_bytes()
}

/// Which tools of a backend are offered, and how. Names are those that the backend uses. In a pattern `*` stands for any
/// characters and `?` for one. `/status` warns of names, but not of patterns, that the backend does not offer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ToolRules {
    /// Names or patterns of the tools that are offered; without any, all are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Names or patterns of tools that do not exist for the gateway, also when `allow` names them. Another backend may offer
    /// the name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
    /// Names or patterns of tools that clients can neither see nor call, but that keep their names: no other backend's tool takes
    /// the place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hidden: Vec<String>,
    /// What clients are told of a tool in the place of what the backend says, by the tool's name there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub overrides: BTreeMap<String, ToolOverride>,
    /// How long calls of single tools may last, by name or pattern, in the place of `timeouts.call`. The name itself counts more than
    /// a pattern, and of two patterns the longer one. At most `24h`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub deadlines: BTreeMap<String, Duration>,
}

/// What clients are told of a tool in the place of what the backend says. Everything that is not named here stays as the backend
/// wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ToolOverride {
    /// The tool's name, before the prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The title that people see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The description that models read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Hints on what the tool does.
    #[serde(default, skip_serializing_if = "is_default")]
    pub annotations: AnnotationOverride,
}

/// Hints on what a tool does, each in the place of the backend's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AnnotationOverride {
    /// The title in the annotations, where clients of before 2025-06-18 look for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Whether it only reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only_hint: Option<bool>,
    /// Whether it may destroy something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destructive_hint: Option<bool>,
    /// Whether calling it twice does no more than calling it once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotent_hint: Option<bool>,
    /// Whether it deals with an open world, such as the web.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_world_hint: Option<bool>,
}

/// Which prompts of a backend are offered, and how. Names are those that the backend uses. In a pattern `*` stands for any
/// characters and `?` for one. `/status` warns of names, but not of patterns, that the backend does not offer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PromptRules {
    /// Names or patterns of the prompts that are offered; without any, all are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Names or patterns of prompts that do not exist for the gateway, also when `allow` names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
    /// What clients are told of a prompt in the place of what the backend says, by the prompt's name there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub overrides: BTreeMap<String, PromptOverride>,
}

/// What clients are told of a prompt in the place of what the backend says. Everything that is not named here stays as the backend
/// wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PromptOverride {
    /// The prompt's name, before the prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The title that people see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The description.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// Which resources and resource templates of a backend are offered. In a pattern `*` stands for any characters, also for `/`,
/// and `?` for one. `/status` warns of a URI without either that the backend does not list and that fits none of its templates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResourceRules {
    /// URIs, URI templates or patterns of what is offered; without any, everything is. A template that is offered may be read
    /// with every URI that fits it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// URIs, URI templates or patterns of what is not offered, also when `allow` names it. It cannot be read through a template
    /// either.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
}
