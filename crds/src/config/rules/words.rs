//! What a field allows, in the words of both the gateway's errors and the API server's.

pub(in crate::config) const ENDPOINT_EXPECTED: &str = "expected an http or https URL without user, password or fragment, for example http://time.tools.svc:8000/mcp";
pub(in crate::config) const HOST_AND_PORT_EXPECTED: &str =
    "expected host:port, for example redis.tools.svc:6379";

// Session storage
pub(in crate::config) const NO_REDIS_SERVER: &str =
    "missing; `provider: redis` needs the server's host:port, or `sentinel`, or `cluster`";
pub(in crate::config) const SEVERAL_REDIS_SERVERS: &str =
    "set only one of `address`, `sentinel` and `cluster`";
pub(in crate::config) const NO_ADDRESS: &str = "is empty; add at least one host:port";
pub(in crate::config) const MASTER_NAME_MISSING: &str =
    "is empty; use the name in the sentinels' `sentinel monitor` line";
pub(in crate::config) const CLUSTER_DATABASE: &str = "a Redis cluster has only database 0";
pub(in crate::config) const KEY_PREFIX_EXPECTED: &str =
    "braces are not allowed: they determine the slot of a key in a Redis cluster";
pub(in crate::config) const REDIS_TEXT_EXPECTED: &str =
    "expected at least one character, without white space and control characters";
pub(in crate::config) const LONGER_THAN_ZERO: &str = "must be longer than 0s";
pub(in crate::config) const TTL_TOO_LONG: &str = "must not be longer than `maxLifetime`";
pub(in crate::config) const MAX_LIFETIME_EXPECTED: &str = "must be at most 366 days";
pub(in crate::config) const WITHOUT_EFFECT_IN_MEMORY: &str =
    "has no effect with `provider: memory`; set `provider: redis` or remove it";

pub(in crate::config) const SKIP_VERIFY_WITH_TRUST: &str =
    "accepts every certificate, so trusted authorities and `serverName` have no effect; remove it or them";
pub(in crate::config) const SERVER_NAME_EXPECTED: &str = "expected a DNS name, for example redis.tools.svc";

// Authentication
pub(in crate::config) const OIDC_MISSING: &str =
    "missing; `type: oidc` needs the issuer and the audience of its tokens";
pub(in crate::config) const OIDC_WITHOUT_EFFECT: &str =
    "has no effect with `type: anonymous`; set `type: oidc` or remove it";
pub(in crate::config) const HTTPS_EXPECTED: &str = "expected https (`insecureAllowHttp: true` accepts http)";
pub(in crate::config) const ISSUER_QUERY: &str = "an issuer has no query";
pub(in crate::config) const NO_AUDIENCE: &str =
    "empty; name the audience that tokens must have, for example the URL of this endpoint";
pub(in crate::config) const RESOURCE_EXPECTED: &str =
    "expected the http or https URL that clients use, without query or fragment";
pub(crate) const NO_RESOURCE: &str = "missing; the first audience is not a URL, so name the URL that clients use, for example https://tools.example.com/mcp";
pub(in crate::config) const SCOPE_EXPECTED: &str =
    "a scope is printable ASCII without space, quote and backslash";
pub(in crate::config) const NO_ALGORITHM: &str = "empty; name at least one signing algorithm";

// Aggregation
pub(in crate::config) const PREFIX_EXPECTED: &str =
    "allowed are fewer than 128 of A-Z a-z 0-9 _ . / -, and in prefixFormat {backend}";
pub(in crate::config) const PREFIX_WITHOUT_EFFECT: &str =
    "has no effect with this `strategy`; set `strategy: prefix` or remove it";
pub(in crate::config) const PRIORITY_MISSING: &str =
    "missing; `strategy: priority` needs the backends' names in order of priority";
pub(in crate::config) const PRIORITY_WITHOUT_EFFECT: &str =
    "has no effect with this `strategy`; set `strategy: priority` or remove it";
pub(in crate::config) const PRIORITY_NAME_EXPECTED: &str = "expected the name of a backend: lower-case letters, digits and `-`, at most 63 characters, no `-` at the ends";
pub(in crate::config) const PRIORITY_NAME_TWICE: &str = "list each backend once";

// Backends
pub(in crate::config) const EMPTY_PATTERN: &str =
    "found \"\", which matches nothing; expected a name or a pattern, for example get_*";
pub(in crate::config) const EMPTY_OVERRIDE: &str =
    "overrides nothing; set a name, title, description or annotations, or remove it";
pub(in crate::config) const NAME_EXPECTED: &str = "a new name has 1 to 128 of A-Z a-z 0-9 _ . / - with the prefix; that of a prompt has at most 1024 bytes without control \
     characters";
pub(in crate::config) const NAME_TWICE: &str = "give each name once";
pub(in crate::config) const HEADER_NAME_EXPECTED: &str =
    "expected the name of a header; wildcards are not allowed, so list each header by its name";
pub(in crate::config) const OWN_HEADER: &str = "HTTP and MCP set it themselves";
pub(in crate::config) const CREDENTIAL_HEADER: &str = "it authenticates the client to the gateway and is never forwarded; set the backend's own header in `headers`";
pub(in crate::config) const DUPLICATE_HEADER: &str = "duplicate header; names are not case-sensitive";
pub(in crate::config) const HEADER_SOURCE_EXPECTED: &str = "needs exactly one of `env`, `file` and `value`";
pub(in crate::config) const HEADER_PREFIX_EXPECTED: &str =
    "`prefix` has characters that are not allowed in a header";
pub(in crate::config) const HEADER_VALUE_EXPECTED: &str =
    "`value` is empty or has characters that are not allowed in a header";
pub(in crate::config) const HEADER_IN_BOTH: &str = "is also in `headers`; remove it from one of them";
pub(in crate::config) const TLS_WITHOUT_EFFECT: &str =
    "has no effect with an http URL; use https in the URL, or remove it";
pub(in crate::config) const SHARED_SESSION_WITH_SSE: &str = "has no effect with `transport: sse`, where a session is a connection of one replica; remove one of the two";
pub(in crate::config) const SHARED_SESSION_WITH_CATALOG: &str =
    "has no effect with `catalog: perSession`, because no client has its own session; remove one of the two";
pub(in crate::config) const URL_OR_COMMAND_EXPECTED: &str =
    "missing; a backend needs the URL of its endpoint, or in `command` the program to run";
pub(in crate::config) const WITHOUT_EFFECT_BESIDE_COMMAND: &str =
    "has no effect with `command`, because the server is not reached over HTTP; remove it";
pub(in crate::config) const WITHOUT_EFFECT_BESIDE_URL: &str =
    "has no effect with `url`, because the gateway does not run the server; remove it";
pub(in crate::config) const PROGRAM_EXPECTED: &str = "expected the program to run";
pub(in crate::config) const NUL_IN_COMMAND: &str = "has a NUL character, which no argument can have";
pub(in crate::config) const SHARED_PROCESS_WITH_CATALOG: &str =
    "has no effect with `catalog: perSession`, because no client has its own process; remove one of the two";
pub(in crate::config) const VARIABLE_NAME_EXPECTED: &str =
    "expected the name of an environment variable: letters, digits and `_`, not beginning with a digit";
pub(in crate::config) const VARIABLE_SOURCE_EXPECTED: &str = "needs exactly one of `env`, `file` and `value`";
pub(in crate::config) const ADDRESSES_WITHOUT_EFFECT: &str =
    "has no effect, because the host in the URL is an IP address; remove it";

// Access, limits, identity
pub(in crate::config) const HOST_EXPECTED: &str =
    "expected a host name or address, alone or with a port, for example mcp.example.com";
pub(in crate::config) const ORIGIN_EXPECTED: &str = "expected the scheme, host and port of a page as browsers send them, for example https://app.example.com, the origin of an \
     app or an extension, for example app://obsidian.md, or null; there is no wildcard";
pub(in crate::config) const EMPTY_SERVER_INFO: &str = "empty; remove it to use the default";
pub(in crate::config) const REQUEST_BYTES_IN_FLIGHT_EXPECTED: &str = "must be at least `requestBytes`";
pub(in crate::config) const BUFFERED_BYTES_EXPECTED: &str = "must be at least 1048576 and `requestBytes`";
