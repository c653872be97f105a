//! One MCP server behind the gateway, and the filters and overrides for its catalog.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::command::{
    ProcessMode, Variables, default_max_processes, default_process_idle_timeout, is_default_max_processes,
    is_default_process_idle_timeout,
};
use super::rules::{self, range};
use super::{
    BreakerConfig, ConcurrencyConfig, Duration, HeaderSource, HealthConfig, Timeouts, address, cel,
    is_default,
};

/// One MCP server behind the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = backend_rules()), transform = require_name)]
pub struct BackendConfig {
    /// The unique name of the backend: a DNS label (lower-case letters, digits and `-`, at most 63 characters), for example `time`. By
    /// default its tools are advertised as `<name>_<tool>`.
    // Required by the schema of the file. A custom resource has no such field: there the object's name is the name of the backend.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The URL of its endpoint, for example `http://time.tools.svc:8000/mcp`. With `transport: sse`, the URL of its stream, for example
    /// `http://time.tools.svc:8000/sse`.
    #[schemars(
        length(max = 2048),
        extend("x-kubernetes-validations" = [cel::rule(&cel::is_endpoint("self"), rules::ENDPOINT_EXPECTED)])
    )]
    // Required in the resource of a server that runs already; an MCPServer has no such field.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// A program that the gateway runs, instead of `url`, and its arguments, for example `[uvx, mcp-server-git, --repository, /repo]`. It speaks MCP on its
    /// standard input and output. A name without `/` is looked up in `PATH`; there is no shell. A session at such a server is a process,
    /// so it belongs to one gateway process: each replica starts its own. When the process ends, running calls end with an error, and the
    /// next call starts a new one. A client's response to a request of such a server must reach the replica that runs the call. What the
    /// program writes to standard error goes to the gateway's log.
    #[schemars(length(max = 256), inner(length(max = 32_768)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Environment variables of the program, by name, for example `TOKEN: {env: GIT_TOKEN}`. Besides these it gets only `PATH`, `HOME`,
    /// `LANG` and `TMPDIR` of the gateway. A server with a variable without a value cannot be started; other backends are not affected.
    #[schemars(extend("maxProperties" = 128))]
    #[serde(default, skip_serializing_if = "Variables::is_empty")]
    pub env: Variables,
    /// The directory in which the program starts. A relative path starts at the directory of this configuration file. Default: the
    /// directory in which the gateway was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<PathBuf>,
    /// Which clients a process of the program has. `perSession`: each session has a process of its own, so that no state of one client
    /// reaches another. `shared`: one process for all sessions, for a server without state that is expensive to start. Features of a
    /// single client do not work then: the server sees the gateway's name and capabilities, its requests to clients are refused, log
    /// levels and changes of roots are not forwarded, and clients cannot subscribe to resources.
    #[schemars(extend("default" = ProcessMode::default().as_str()))]
    #[serde(default, skip_serializing_if = "is_default")]
    pub processes: ProcessMode,
    /// Maximum number of processes for clients' sessions in each gateway process, from 1 to 4096. A call that needs a further one is
    /// answered with status 503 and `Retry-After`. The process in which the gateway lists what the server offers does not count.
    #[schemars(range(min = 1, max = 4096), extend("default" = default_max_processes()))]
    #[serde(
        default = "default_max_processes",
        skip_serializing_if = "is_default_max_processes"
    )]
    pub max_processes: u32,
    /// Time without a call after which a session's process ends, from `1s` to `24h`. The next call of the session starts a new one, which
    /// does not have the state of the old one. A session with an open stream keeps its process. A shared process stays.
    #[schemars(
        extend("default" = default_process_idle_timeout().to_string()),
        extend("x-kubernetes-validations" = range::PROCESS_IDLE_TIMEOUT.cel())
    )]
    #[serde(
        default = "default_process_idle_timeout",
        skip_serializing_if = "is_default_process_idle_timeout"
    )]
    pub idle_timeout: Duration,
    /// IP addresses of the URL's host, instead of a DNS lookup, for example `[10.0.0.7]`. A host with several addresses, such as a
    /// headless Service, is treated as several servers with separate sessions: a session stays at the address where it was opened. It is
    /// reopened at another address if that address no longer accepts connections, or, without TLS, if it no longer belongs to the host.
    #[schemars(with = "Vec<address::Ip>", length(max = 64))]
    #[serde(
        default,
        deserialize_with = "address::ips",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub addresses: Vec<IpAddr>,
    /// Trusted authorities and a client certificate, for an `https` URL. Default: the backend's certificate must be signed by an authority
    /// that the system trusts, and the gateway shows none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<BackendTls>,
    /// The transport of the backend. `streamable-http`: Streamable HTTP, since protocol revision 2025-03-26. `sse`: HTTP+SSE of
    /// 2024-11-05, where a session lasts as long as one connection. An `sse` session belongs to one gateway process: each replica opens
    /// its own, and the server's state for it is not shared. When the connection or the process ends, running calls end with an error,
    /// and the next call opens a new session. A client's response to a request of such a server must reach the replica that runs the call.
    #[schemars(extend("default" = BackendTransport::default().as_str()))]
    #[serde(default, skip_serializing_if = "is_default")]
    pub transport: BackendTransport,
    /// Prefix of the names of its tools and prompts, instead of `aggregation.prefixFormat`, for example `t-`; may be empty. Only with
    /// `aggregation.strategy: prefix`.
    #[schemars(
        length(max = 127),
        extend("x-kubernetes-validations" = [cel::rule("self.matches('^[A-Za-z0-9_./-]*$')", rules::PREFIX_EXPECTED)])
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Time limits of connections and calls to the backend.
    #[serde(default, skip_serializing_if = "is_default")]
    pub timeouts: Timeouts,
    /// What happens to a session's calls while the session store is down and its upstream session is not known. `keep`: they are answered
    /// with 503 and `Retry-After`, because the backend may hold state in the existing upstream session. `disposable`: they are served in
    /// a provisional upstream session, which is adopted or deleted after the outage. A backend without session ids is always
    /// `disposable`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub session_state: SessionState,
    /// Where its lists come from. `shared`: from a session of the gateway's own, once for all clients. `perSession`: from each client's own
    /// session at the backend, for servers that add tools to one session or show different tools to different users. The gateway then asks the
    /// backend each time a client asks for a list, and opens the client's session there first if necessary. If the backend does not answer within
    /// 5 s, the client gets the list of the gateway's own session. Names, filters and conflicts work the same way in both.
    #[schemars(extend("default" = CatalogScope::default().as_str()))]
    #[serde(default, skip_serializing_if = "is_default")]
    pub catalog: CatalogScope,
    /// Whether all clients share one session at the backend. Use it for a server that has only one session and rejects a second
    /// `initialize` as "already initialized". The session belongs to the gateway, and with Redis all replicas use the same one.
    /// Features of a single client do not work: the server sees the gateway's name and capabilities, log levels and changes of roots are
    /// not forwarded, clients cannot subscribe to resources, messages that the server sends outside a call are dropped, and a broken call
    /// cannot be resumed. All clients share the state that the server keeps for the session. Only with `transport: streamable-http`, and
    /// not with `catalog: perSession`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub shared_session: bool,
    /// Maximum size of a JSON response that is forwarded, in bytes, at least 1024. A larger response is rejected if the backend declares
    /// its size, and otherwise aborted. The limit of one event in a stream is always 16 MiB.
    #[schemars(range(min = 1024), extend("default" = default_max_answer_bytes()))]
    #[serde(
        default = "default_max_answer_bytes",
        skip_serializing_if = "is_default_max_answer_bytes"
    )]
    pub max_answer_bytes: u64,
    /// Headers of every request to the backend, by name, for example `X-Api-Key: {env: API_KEY}`. Headers that HTTP and MCP set
    /// themselves are not allowed. A backend with a header without a value cannot be called; other backends are not affected.
    #[schemars(extend("maxProperties" = 32, "x-kubernetes-validations" = header_rules()))]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, HeaderSource>,
    /// Names of headers that are forwarded from the client's requests, for example `[X-Tenant]`. `Authorization`, `Cookie` and the
    /// headers that HTTP and MCP set themselves are not allowed. The gateway's own session, in which it fetches the catalog, has no
    /// client and sends none of these headers. A backend that requires them there cannot be listed.
    #[schemars(
        length(max = 64),
        inner(length(max = 256)),
        extend("x-kubernetes-validations" = passed_header_rules())
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pass_headers: Vec<String>,
    /// Filters and overrides for its tools.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tools: ToolRules,
    /// Filters and overrides for its prompts.
    #[serde(default, skip_serializing_if = "is_default")]
    pub prompts: PromptRules,
    /// Filters for its resources and resource templates.
    #[serde(default, skip_serializing_if = "is_default")]
    pub resources: ResourceRules,
    /// Circuit breaker: when calls fail at once because the backend has not been reachable.
    #[serde(default, skip_serializing_if = "is_default")]
    pub breaker: BreakerConfig,
    /// Maximum number of concurrent calls, and the queue for further ones.
    #[serde(default, skip_serializing_if = "is_default")]
    pub concurrency: ConcurrencyConfig,
    /// Health checks of the backend.
    #[serde(default, skip_serializing_if = "is_default")]
    pub health: HealthConfig,
}

/// TLS for connections to a backend. After a change of a file, new requests use new connections within one second, without a restart;
/// requests that run finish on the old ones. Relative paths start at the directory of this configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendTls {
    /// PEM file with trusted certificates, for example `/etc/tls/ca.crt`, instead of those that the system trusts. A server is trusted if
    /// one of them has signed its certificate and the certificate contains the host name of the URL. A server is also trusted if its
    /// certificate is itself in the file, for example a self-signed one: then name and dates are not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// PEM file with the client certificate that the gateway shows to the backend. Requires `keyFile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// PEM file with the private key of the client certificate. Requires `certFile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

/// Whether a backend's state for a session must be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SessionState {
    /// The state must be kept.
    #[default]
    Keep,
    /// The state may be lost.
    Disposable,
}

/// The session from which a backend's lists are fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CatalogScope {
    /// The gateway's own session, once for all clients.
    #[default]
    Shared,
    /// Each client's own session.
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

/// The MCP transport of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BackendTransport {
    /// Streamable HTTP, since protocol revision 2025-03-26.
    #[default]
    StreamableHttp,
    /// HTTP+SSE of protocol revision 2024-11-05.
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
            command: Vec::new(),
            env: Variables::new(),
            working_directory: None,
            processes: ProcessMode::default(),
            max_processes: default_max_processes(),
            idle_timeout: default_process_idle_timeout(),
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

/// Makes `name` a required field of the file.
fn require_name(schema: &mut Schema) {
    schema.insert("required".to_owned(), json!(["name"]));
}

/// Matches a name that an override may give a tool.
const TOOL_NAME: &str = "^[A-Za-z0-9_./-]{1,128}$";
/// Matches a name that an override may give a prompt: without the characters of [`rules::is_unprintable`].
const PROMPT_NAME: &str = r"^[^\\x00-\\x1f\\x7f-\\x9f\\x{2028}-\\x{202e}\\x{2066}-\\x{2069}]+$";

fn backend_rules() -> Json {
    json!([
        cel::rule_of_field(
            "sharedSession",
            "!has(self.sharedSession) || !self.sharedSession || !has(self.transport) || self.transport != 'sse'",
            rules::SHARED_SESSION_WITH_SSE,
        ),
        cel::rule_of_field(
            "sharedSession",
            "!has(self.sharedSession) || !self.sharedSession || !has(self.catalog) || self.catalog != 'perSession'",
            rules::SHARED_SESSION_WITH_CATALOG,
        ),
        cel::rule_of_field(
            "addresses",
            "!has(self.addresses) || size(self.addresses) == 0 \
             || !self.url.matches('^https?://(([0-9]{1,3}[.]){3}[0-9]{1,3}([:/?]|$)|\\\\[)')",
            rules::ADDRESSES_WITHOUT_EFFECT,
        ),
        cel::rule_of_field(
            "tls",
            "!has(self.tls) || !self.url.startsWith('http://')",
            rules::TLS_WITHOUT_EFFECT,
        ),
        cel::rule_of_field(
            "passHeaders",
            "!has(self.passHeaders) || !has(self.headers) \
             || self.passHeaders.all(name, self.headers.all(own, own.lowerAscii() != name.lowerAscii()))",
            rules::HEADER_IN_BOTH,
        ),
    ])
}

fn pattern_rules() -> Json {
    json!([cel::rule(
        "self.all(pattern, size(pattern) > 0)",
        rules::EMPTY_PATTERN
    )])
}

/// The rules for a list of names, or a map by name, of headers that the configuration may set in requests to a backend.
fn header_name_rules() -> Vec<Json> {
    let own: Vec<String> = rules::OWN_HEADERS
        .iter()
        .map(|name| format!("'{name}'"))
        .collect();
    let own = format!(
        "self.all(name, !(name.lowerAscii() in [{}]) && !name.lowerAscii().startsWith('mcp-'))",
        own.join(", ")
    );
    vec![
        cel::rule(
            "self.all(name, name.matches('^[!#$%&`+.^_|~A-Za-z0-9-]+$'))",
            rules::HEADER_NAME_EXPECTED,
        ),
        cel::rule(&own, rules::OWN_HEADER),
    ]
}

fn passed_header_rules() -> Json {
    let mut all = header_name_rules();
    all.push(cel::rule(
        "self.all(name, !(name.lowerAscii() in ['authorization', 'cookie']))",
        rules::CREDENTIAL_HEADER,
    ));
    Json::Array(all)
}

/// The rules for the map of a backend's headers.
pub(crate) fn header_rules() -> Json {
    let mut all = header_name_rules();
    all.push(cel::rule(
        "self.all(name, self.all(other, name == other || name.lowerAscii() != other.lowerAscii()))",
        rules::DUPLICATE_HEADER,
    ));
    Json::Array(all)
}

/// The rules for the names in a map of overrides: each matches `pattern`, and none is given twice.
fn name_rules(pattern: &str) -> Json {
    let valid = format!("self.all(key, !has(self[key].name) || self[key].name.matches('{pattern}'))");
    let unique = "self.all(key, !has(self[key].name) \
                  || self.exists_one(other, has(self[other].name) && self[other].name == self[key].name))";
    json!([
        cel::rule(&valid, rules::NAME_EXPECTED),
        cel::rule(unique, rules::NAME_TWICE),
    ])
}

fn default_max_answer_bytes() -> u64 {
    100 * 1024 * 1024
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_default_max_answer_bytes(value: &u64) -> bool {
    *value == default_max_answer_bytes()
}

/// Filters and overrides for the tools of a backend. All names are the backend's own, without prefix. In a pattern, `*` stands for any
/// number of characters and `?` for one, for example `get_*`. `/status` shows a warning for a name (not a pattern) that the backend
/// does not offer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ToolRules {
    /// Names or patterns of the tools that are advertised; all if empty.
    #[schemars(
        length(max = 1024),
        inner(length(max = 1024)),
        extend("x-kubernetes-validations" = pattern_rules())
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Names or patterns of tools that the gateway ignores, even if `allow` contains them. Another backend may offer the same name.
    #[schemars(
        length(max = 1024),
        inner(length(max = 1024)),
        extend("x-kubernetes-validations" = pattern_rules())
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
    /// Names or patterns of tools that clients can neither see nor call, but that keep their names: no other backend's tool can take
    /// the name.
    #[schemars(
        length(max = 1024),
        inner(length(max = 1024)),
        extend("x-kubernetes-validations" = pattern_rules())
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hidden: Vec<String>,
    /// Changes to what clients see of a tool, by the tool's name at the backend.
    #[schemars(extend("maxProperties" = 128, "x-kubernetes-validations" = name_rules(TOOL_NAME)))]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub overrides: BTreeMap<String, ToolOverride>,
    /// Maximum duration of calls of single tools, by name or pattern, instead of `timeouts.call`, for example `slow_*: 10m`. A name takes
    /// precedence over a pattern, and a longer pattern over a shorter one. At most `24h`.
    #[schemars(extend("maxProperties" = 128, "x-kubernetes-validations" = range::TIMEOUT.cel_of_values()))]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub deadlines: BTreeMap<String, Duration>,
}

/// Changes to what clients see of a tool. Fields that are not set here stay as the backend sent them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [cel::rule(
    "has(self.name) || has(self.title) || has(self.description) || (has(self.annotations) && (has(self.annotations.title) \
     || has(self.annotations.readOnlyHint) || has(self.annotations.destructiveHint) || has(self.annotations.idempotentHint) \
     || has(self.annotations.openWorldHint)))",
    rules::EMPTY_OVERRIDE
)]))]
pub struct ToolOverride {
    /// New name of the tool, without the prefix.
    #[schemars(length(max = 128))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// New title, which is shown to users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// New description, which models read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// New values of the tool's annotations.
    #[serde(default, skip_serializing_if = "is_default")]
    pub annotations: AnnotationOverride,
}

/// New values of a tool's annotations. Annotations that are not set here stay as the backend sent them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AnnotationOverride {
    /// The title in the annotations, which clients before protocol revision 2025-06-18 use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Whether the tool only reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only_hint: Option<bool>,
    /// Whether the tool may delete or overwrite data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destructive_hint: Option<bool>,
    /// Whether a repeated call with the same arguments has no further effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotent_hint: Option<bool>,
    /// Whether the tool interacts with an open world of external entities, such as the web.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_world_hint: Option<bool>,
}

/// Filters and overrides for the prompts of a backend. All names are the backend's own, without prefix. In a pattern, `*` stands for
/// any number of characters and `?` for one. `/status` shows a warning for a name (not a pattern) that the backend does not offer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PromptRules {
    /// Names or patterns of the prompts that are advertised; all if empty.
    #[schemars(
        length(max = 1024),
        inner(length(max = 1024)),
        extend("x-kubernetes-validations" = pattern_rules())
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Names or patterns of prompts that the gateway ignores, even if `allow` contains them.
    #[schemars(
        length(max = 1024),
        inner(length(max = 1024)),
        extend("x-kubernetes-validations" = pattern_rules())
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
    /// Changes to what clients see of a prompt, by the prompt's name at the backend.
    #[schemars(extend("maxProperties" = 128, "x-kubernetes-validations" = name_rules(PROMPT_NAME)))]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub overrides: BTreeMap<String, PromptOverride>,
}

/// Changes to what clients see of a prompt. Fields that are not set here stay as the backend sent them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [cel::rule(
    "has(self.name) || has(self.title) || has(self.description)",
    rules::EMPTY_OVERRIDE
)]))]
pub struct PromptOverride {
    /// New name of the prompt, without the prefix.
    #[schemars(length(max = 1024))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// New title, which is shown to users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// New description of the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// Filters for the resources and resource templates of a backend. In a pattern, `*` stands for any number of characters, including
/// `/`, and `?` for one, for example `file:///docs/*`. `/status` shows a warning for a URI (not a pattern) that the backend does not
/// list and that matches none of its templates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResourceRules {
    /// URIs, URI templates or patterns of the resources that are advertised; all if empty. Clients can read every URI that matches an
    /// advertised template.
    #[schemars(
        length(max = 1024),
        inner(length(max = 1024)),
        extend("x-kubernetes-validations" = pattern_rules())
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// URIs, URI templates or patterns of resources that are not advertised, even if `allow` contains them. They cannot be read through a
    /// template either.
    #[schemars(
        length(max = 1024),
        inner(length(max = 1024)),
        extend("x-kubernetes-validations" = pattern_rules())
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
}
