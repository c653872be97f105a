//! The list of all metrics: name, type, labels and help text. The help texts of a scrape and the table in docs/OPERATIONS.md come from it.

/// Description of one metric.
#[derive(Clone, Copy, Debug)]
pub struct MetricEntry {
    /// Name without the prefix and, for a counter, without `_total`.
    pub(super) name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub(super) kind: &'static str,
    /// Names of the labels.
    pub(super) labels: &'static [&'static str],
    /// Help text.
    pub(super) help: &'static str,
}

impl MetricEntry {
    /// The type of the metric: `counter`, `gauge` or `histogram`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The name that queries use. Of a histogram, the name without `_bucket`, `_sum` and `_count`.
    #[must_use]
    pub fn query_name(&self) -> String {
        let total = if self.kind == "counter" { "_total" } else { "" };
        format!("{}_{}{total}", super::PREFIX, self.name)
    }
}

macro_rules! entries {
    ($($constant:ident: $kind:literal $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) const $constant: MetricEntry = MetricEntry {
            name: $name,
            kind: $kind,
            labels: &[$($label),*],
            help: $help,
        };)*
        /// All metrics in the order of a scrape.
        pub const ENTRIES: &[MetricEntry] = &[$($constant),*];
    };
}

entries! {
    REQUESTS: "counter" "requests" ["method", "status", "outcome"]
        "Requests at the MCP endpoint. method: the JSON-RPC method, GET, DELETE, response (the client's response to a request of a backend) or other. status: the HTTP status, 499 if the client disconnected before there was one. outcome: ok; failed (a backend did not respond, although the status is 200, or the response was cut off); rejected (4xx); unavailable (5xx); gone (the client disconnected)";
    REQUEST_DURATION: "histogram" "request_duration_seconds" ["method"]
        "Duration of requests, from the request head to the last byte of the response. Streams that belong to no call (GET) are not included";
    REQUESTS_IN_FLIGHT: "gauge" "requests_in_flight" []
        "Requests whose response is not complete, without streams that belong to no call";
    STREAMS: "gauge" "streams_open" ["kind"]
        "Open event streams to clients. kind: session (GET), call (the response to a request) or resumed (the rest of an interrupted one, by GET)";
    BUFFERED: "gauge" "buffered_bytes" []
        "Buffered bytes of requests, responses and catalogs. The limit is limits.bufferedBytes";
    BUFFER_REFUSALS: "counter" "buffer_refusals" []
        "Requests and responses that were refused or cut off because the buffers were full";
    UNREAD_CLOSED: "counter" "unread_answers_closed" []
        "Responses that were cut off because their clients did not read them and other responses needed the room";
    SESSIONS: "gauge" "sessions" ["state"]
        "Sessions in the cache of this process. state: calling (a request is running), listening (a GET stream is open), idle (neither) or provisional (they use an upstream session that is not in the session store yet, because the store is unavailable). A session may be calling, listening and provisional at the same time; an idle session is neither calling nor listening";
    SESSIONS_CREATED: "counter" "sessions_created" []
        "Sessions that clients opened at this replica with initialize";
    SESSIONS_TERMINATED: "counter" "sessions_terminated" []
        "Sessions that clients terminated at this replica with DELETE. Expired sessions are not included";
    SESSIONS_RECOVERED: "counter" "sessions_recovered" []
        "Sessions that were stored again after the session store had lost them";
    SERVED_WITHOUT_STORE: "counter" "sessions_served_without_store" []
        "Requests that were served from the cache because the session store was unavailable";
    STORE_UP: "gauge" "session_store_up" []
        "1 while the session store is available, otherwise 0. At 0, requests that need the store get 503";
    STORE_UNAVAILABLE: "counter" "session_store_unavailable" []
        "Operations of the session store that got no response";
    BACKEND_REQUESTS: "counter" "backend_requests" ["backend", "outcome"]
        "Calls to backends. outcome: answered (with a result or an error); invalid (an invalid response, or a status from 400 to 499); unreachable (no connection, a broken connection, no response in time, or a status of 500 and above); blocked (not sent, because the circuit breaker is open); overloaded (not sent, because of the concurrency limit); abandoned (the client disconnected first)";
    BACKEND_DURATION: "histogram" "backend_request_duration_seconds" ["backend"]
        "Duration of calls to backends, from the permit of the concurrency limit to the last byte of the response";
    BACKEND_IN_FLIGHT: "gauge" "backend_requests_in_flight" ["backend"]
        "Running calls to a backend. The limit is concurrency.limit";
    BACKEND_CONNECTIONS: "gauge" "backend_connections" ["backend"]
        "Open connections to a backend, for calls, streams and probes, including idle ones";
    BACKEND_HEALTH: "gauge" "backend_health" ["backend", "state"]
        "1 for the current state of the backend, otherwise 0. state: unknown, healthy, degraded (recent failures, rejected discovery requests, or a circuit breaker that is not closed) or unavailable";
    BREAKER_STATE: "gauge" "backend_breaker_state" ["backend", "state"]
        "1 for the current state of the backend's circuit breaker, otherwise 0. state: closed, half_open or open (calls fail at once)";
    BREAKER_OPENED: "counter" "backend_breaker_opened" ["backend"]
        "Transitions of the backend's circuit breaker from closed to open";
    HANDSHAKES: "counter" "upstream_handshakes" ["backend"]
        "Upstream sessions that were opened, including the gateway's own. In a steady state, it hardly grows";
    REPAIRS: "counter" "upstream_repairs" ["backend"]
        "Calls that found their upstream session lost and opened another one. If it keeps growing, the backend has replicas and needs session affinity";
    UNCHECKED: "counter" "answers_unchecked" ["backend"]
        "JSON responses that were passed on without validation, because they were larger than 256 KiB";
    ABORTED: "counter" "answers_aborted" []
        "Responses that a backend cut off after a part of them had been sent to the client. The connection to the client was closed";
    CATALOG_ITEMS: "gauge" "catalog_items" ["kind"]
        "Items that are advertised to clients. kind: tools, prompts, resources or templates";
    CATALOG_CONFLICTS: "gauge" "catalog_conflicts" []
        "Names that more than one item claims, of several backends or of one, so that not all of these items are advertised. /status lists each with its owner and the items that lost it";
    CATALOG_FAULTS: "gauge" "catalog_faults" []
        "Items and lists of backends that are not advertised for other reasons, such as an invalid name or a list that cannot be read. /status lists each with the reason";
    CATALOG_WARNINGS: "gauge" "catalog_warnings" []
        "Advertised items that not all clients can use, and names in the configuration that no backend has. /status lists each with the reason";
    RELOADS: "counter" "config_reloads" ["outcome"]
        "Changes of the hot configuration. outcome: accepted, or refused (it is invalid, and the previous one stays in use)";
    AUTHENTICATIONS: "counter" "authentications" ["outcome"]
        "Authentications of requests. outcome: accepted, or the reason of the rejection";
    ISSUER_FETCHES: "counter" "token_issuer_fetches" ["outcome"]
        "Attempts to fetch the keys of the token issuer. outcome: succeeded or failed";
    TASKS: "gauge" "tasks" []
        "Running tasks: one for each client connection and for each backend, and background work";
    READY: "gauge" "ready" []
        "1 if /readyz responds with 200, otherwise 0";
    BUILD_INFO: "gauge" "build_info" ["version"]
        "Always 1; the label is the gateway's version";
}

/// The table of all metrics in docs/OPERATIONS.md, as Markdown.
#[must_use]
pub fn table() -> String {
    let mut page = String::from("| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n");
    for entry in ENTRIES {
        let labels: Vec<_> = entry.labels.iter().map(|label| format!("`{label}`")).collect();
        page.push_str(&format!(
            "| `{}` | {} | {} | {}. |\n",
            entry.query_name(),
            entry.kind,
            labels.join(", "),
            entry.help
        ));
    }
    page
}
