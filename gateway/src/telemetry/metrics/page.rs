//! Every metric there is: its name, its labels and what it tells. The help texts of a scrape and the page of the operators' handbook
//! come from here.

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct MetricEntry {
    /// Its name without the prefix and, for a counter, without `_total`.
    pub(super) name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub(super) kind: &'static str,
    /// Its labels.
    pub(super) labels: &'static [&'static str],
    /// What it tells.
    pub(super) help: &'static str,
}

impl MetricEntry {
    /// `counter`, `gauge` or `histogram`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The name as queries use it; of a histogram without `_bucket`, `_sum` and `_count`.
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
        /// All there are, in the order of a scrape.
        pub const ENTRIES: &[MetricEntry] = &[$($constant),*];
    };
}

entries! {
    REQUESTS: "counter" "requests" ["method", "status", "outcome"]
        "Requests at the MCP endpoint. method: the JSON-RPC method, GET, DELETE, response (the client's answer to a backend) or other. status: the HTTP status, 499 when the client went away before there was one. outcome: ok; failed (a backend did not answer, although the status is 200, or the answer broke off); rejected (4xx); unavailable (5xx); gone (the client went away)";
    REQUEST_DURATION: "histogram" "request_duration_seconds" ["method"]
        "How long requests take, from their head to the last byte of the answer. Streams that belong to no call (GET) are not among them";
    REQUESTS_IN_FLIGHT: "gauge" "requests_in_flight" []
        "Requests whose answer is not complete, without streams that belong to no call";
    STREAMS: "gauge" "streams_open" ["kind"]
        "Event streams that clients hold open. kind: session (GET), call (the answer of a request) or resumed (the rest of one that broke off, by GET)";
    BUFFERED: "gauge" "buffered_bytes" []
        "Bytes of requests, answers and catalogs that are buffered, of limits.bufferedBytes";
    BUFFER_REFUSALS: "counter" "buffer_refusals" []
        "Requests and answers that were refused, or broken off, because what is buffered left no room for them";
    UNREAD_CLOSED: "counter" "unread_answers_closed" []
        "Answers that were broken off because their clients did not read them, and others needed the room";
    SESSIONS: "gauge" "sessions" ["state"]
        "Sessions that this process knows. state: calling (a request of theirs runs), listening (they hold a GET stream), idle (remembered, and neither) or provisional (they use an upstream session that no record names yet, because the session store does not answer). One session may be calling, listening and provisional at a time; none that is idle is calling or listening";
    SESSIONS_CREATED: "counter" "sessions_created" []
        "Sessions that clients opened here with initialize";
    SESSIONS_TERMINATED: "counter" "sessions_terminated" []
        "Sessions that clients ended here with DELETE. Those that expire are not among them";
    SESSIONS_RECOVERED: "counter" "sessions_recovered" []
        "Sessions that were brought back into a session store that had lost them";
    SERVED_WITHOUT_STORE: "counter" "sessions_served_without_store" []
        "Requests that were served from memory because the session store did not answer";
    STORE_UP: "gauge" "session_store_up" []
        "1 while the session store answers, otherwise 0. At 0, what needs the store is answered with 503";
    STORE_UNAVAILABLE: "counter" "session_store_unavailable" []
        "Operations of the session store that had no answer";
    BACKEND_REQUESTS: "counter" "backend_requests" ["backend", "outcome"]
        "Calls to backends. outcome: answered (whatever the answer says); invalid (it is none, or a refusal); unreachable (no connection, a broken one, no answer in time, or a status of 500 and above); blocked (the breaker is open) and overloaded (the concurrency limit), which were not sent; abandoned (the client went away first)";
    BACKEND_DURATION: "histogram" "backend_request_duration_seconds" ["backend"]
        "How long calls to backends take, from their place at the backend to the last byte of the answer";
    BACKEND_IN_FLIGHT: "gauge" "backend_requests_in_flight" ["backend"]
        "Calls that run at a backend and hold one of its concurrency.limit places";
    BACKEND_CONNECTIONS: "gauge" "backend_connections" ["backend"]
        "Connections to a backend that are open: those of calls, streams and probes, and those that are kept for the next";
    BACKEND_HEALTH: "gauge" "backend_health" ["backend", "state"]
        "1 for the state that the backend is in, otherwise 0. state: unknown, healthy, degraded (it failed lately, refuses what the gateway asks, or its breaker is not closed) or unavailable";
    BREAKER_STATE: "gauge" "backend_breaker_state" ["backend", "state"]
        "1 for the state that the backend's breaker is in, otherwise 0. state: closed, half_open or open, when its calls are answered at once with an error";
    BREAKER_OPENED: "counter" "backend_breaker_opened" ["backend"]
        "How often the backend's breaker has opened after having been closed";
    HANDSHAKES: "counter" "upstream_handshakes" ["backend"]
        "Upstream sessions that were opened, the gateway's own included. In a steady state it hardly grows";
    REPAIRS: "counter" "upstream_repairs" ["backend"]
        "Calls that met a backend which had lost their session, and that opened another one. Where it keeps growing, the backend has replicas and needs affinity";
    UNCHECKED: "counter" "answers_unchecked" ["backend"]
        "JSON answers that were too large to be checked (over 256 KiB) and passed on as they came";
    ABORTED: "counter" "answers_aborted" []
        "Answers that a backend broke off when a part of them was with the client; the connection was closed to say so";
    CATALOG_ITEMS: "gauge" "catalog_items" ["kind"]
        "What clients are offered. kind: tools, prompts, resources or templates";
    CATALOG_CONFLICTS: "gauge" "catalog_conflicts" []
        "Names that several backends, or several things of one, claim, so that clients are not offered all that have them; /status names each with who has it and who has lost";
    CATALOG_FAULTS: "gauge" "catalog_faults" []
        "What backends offer, or say that they do, and clients are not offered for other reasons, such as a name that is not allowed or a list that cannot be had; /status names each with its reason";
    CATALOG_WARNINGS: "gauge" "catalog_warnings" []
        "What is offered, but not to everybody's use, and names in the configuration that no backend offers; /status names each with its reason";
    RELOADS: "counter" "config_reloads" ["outcome"]
        "Changes of the hot configuration. outcome: accepted, or refused (it is not allowed; the one before stays in use)";
    AUTHENTICATIONS: "counter" "authentications" ["outcome"]
        "Requests whose caller had to be known. outcome: accepted, or why it is not known";
    ISSUER_FETCHES: "counter" "token_issuer_fetches" ["outcome"]
        "Attempts to fetch the keys of the token issuer. outcome: succeeded or failed";
    TASKS: "gauge" "tasks" []
        "Tasks that run: one for each connection of a client and for each backend, and what goes on behind requests";
    READY: "gauge" "ready" []
        "1 when /readyz says yes, otherwise 0";
    BUILD_INFO: "gauge" "build_info" ["version"]
        "Always 1; the label is the gateway's version";
}

/// The table of all metrics for the operators' handbook.
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
