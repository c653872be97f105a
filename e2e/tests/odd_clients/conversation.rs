//! The conversation of an odd client with one server, directly or through a gateway, and the outcome of each step.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::connection::{Answer, Connection, Until};

/// What a client sends.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) verb: &'static str,
    pub(crate) path: String,
    pub(crate) version: &'static str,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Its bytes: the pieces in which it is written.
    pub(crate) wire: fn(&Request) -> Vec<Vec<u8>>,
}

/// The response that a client expects.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    /// Results for requests with these ids, in any order.
    Results(Vec<Value>),
    /// Accepted without a body.
    Accepted,
    /// A stream of events that begins.
    Stream,
    /// Any status of success.
    Success,
}

/// The outcome of a step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// With the relevant part of the result.
    Works(String),
    /// With the error of the server.
    Fails(String),
}

/// Healthy sessions that the next client can reuse.
pub(crate) type Sessions = Mutex<Vec<String>>;

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A conversation that goes on.
pub(crate) struct Conversation<'a> {
    server: SocketAddr,
    /// The prefix of the names of tools and prompts.
    prefix: &'static str,
    open: &'a Sessions,
    pub(crate) session: String,
    pub(crate) steps: Vec<Step>,
}

/// The id that requests have where nothing else is said.
pub(crate) const ID: i64 = 7;

impl Request {
    fn of(verb: &'static str) -> Self {
        Self {
            verb,
            path: "/mcp".to_owned(),
            version: "HTTP/1.1",
            headers: Vec::new(),
            body: Vec::new(),
            wire: |request| vec![[request.head(true), request.body.clone()].concat()],
        }
        .header("Host", "$host")
    }

    /// A POST of this body with the headers that the specification asks for, but those of a session.
    pub(crate) fn post(body: impl Into<Vec<u8>>) -> Self {
        let mut request = Self::of("POST")
            .header("Content-Type", "application/json")
            .header("Accept", "application/json, text/event-stream");
        request.body = body.into();
        request
    }

    /// A GET of the session's own stream.
    pub(crate) fn get() -> Self {
        Self::of("GET").header("Accept", "text/event-stream").in_session()
    }

    /// The end of the session.
    pub(crate) fn delete() -> Self {
        Self::of("DELETE").in_session()
    }

    /// With the headers of a session.
    pub(crate) fn in_session(self) -> Self {
        self.header("Mcp-Session-Id", "$session")
            .header("MCP-Protocol-Version", "2025-11-25")
    }

    /// Replaces the headers of that name with this one.
    pub(crate) fn header(self, name: &str, value: &str) -> Self {
        self.without(name).and(name, value)
    }

    /// With one more header.
    pub(crate) fn and(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Without the headers of that name.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers
            .retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        self
    }

    pub(crate) fn verb(mut self, verb: &'static str) -> Self {
        self.verb = verb;
        self
    }

    pub(crate) fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    pub(crate) fn version(mut self, version: &'static str) -> Self {
        self.version = version;
        self
    }

    pub(crate) fn wire(mut self, wire: fn(&Request) -> Vec<Vec<u8>>) -> Self {
        self.wire = wire;
        self
    }

    /// The head, with or without the length of the body.
    pub(crate) fn head(&self, has_length: bool) -> Vec<u8> {
        let mut head = format!("{} {} {}\r\n", self.verb, self.path, self.version);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if has_length && (self.verb == "POST" || !self.body.is_empty()) {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

impl<'a> Conversation<'a> {
    pub(crate) fn new(server: SocketAddr, prefix: &'static str, open: &'a Sessions) -> Self {
        Self {
            server,
            prefix,
            open,
            session: String::new(),
            steps: Vec::new(),
        }
    }

    /// Replaces `$echo`, `$greet`, `$host` and `$session` with the names of this server.
    pub(crate) fn fill(&self, text: &[u8]) -> Vec<u8> {
        let Ok(text) = std::str::from_utf8(text) else {
            return text.to_vec();
        };
        let filled = text
            .replace("$echo", &format!("{}echo", self.prefix))
            .replace("$greet", &format!("{}greet", self.prefix))
            .replace("$host", &self.server.to_string())
            .replace("$session", &self.session);
        filled.into_bytes()
    }

    /// The pieces of `request` for this server.
    pub(crate) fn pieces(&self, request: &Request) -> Vec<Vec<u8>> {
        let fill = |text: &str| String::from_utf8_lossy(&self.fill(text.as_bytes())).into_owned();
        let mut request = request.clone();
        request.path = fill(&request.path);
        request.body = self.fill(&request.body);
        for (_, value) in &mut request.headers {
            *value = fill(value);
        }
        (request.wire)(&request)
    }

    /// Takes a session that another client has left as it was, or opens one.
    pub(crate) fn reuse(&mut self, revision: &str) -> anyhow::Result<()> {
        match locked(self.open).pop() {
            Some(session) => self.session = session,
            None => self.open(revision)?,
        }
        Ok(())
    }

    /// Leaves the session to the next client if it has served everything.
    pub(crate) fn leave(&mut self) {
        let all_work = self.steps.iter().all(|step| matches!(step, Step::Works(_)));
        if all_work {
            locked(self.open).push(std::mem::take(&mut self.session));
        }
    }

    /// Opens a session of that revision in the usual way.
    pub(crate) fn open(&mut self, revision: &str) -> anyhow::Result<()> {
        self.initialize(&Request::post(initialize(&json!({"protocolVersion": revision}))))?;
        let last = self.steps.pop();
        ensure!(matches!(last, Some(Step::Works(_))), "no session: {last:?}");
        self.tell_initialized();
        let last = self.steps.pop();
        ensure!(matches!(last, Some(Step::Works(_))), "initialized: {last:?}");
        Ok(())
    }

    /// Sends this `initialize`, and goes on in the session that it opens.
    pub(crate) fn initialize(&mut self, request: &Request) -> anyhow::Result<()> {
        let id: Option<Value> = serde_json::from_slice::<Value>(&self.fill(&request.body))
            .ok()
            .and_then(|message| message.get("id").cloned());
        let mut connection = Connection::open(self.server)?;
        connection.write(&self.pieces(request));
        // The Go SDK closes the session of a refused `initialize` behind its answer, and before the answer ends.
        let answer = connection.read(Until::End);
        if let Ok(answer) = &answer
            && let Some(session) = answer.header("mcp-session-id")
        {
            session.clone_into(&mut self.session);
        }
        self.note(answer, &Wanted::Results(id.into_iter().collect()));
        Ok(())
    }

    pub(crate) fn tell_initialized(&mut self) {
        let body = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        self.send(&Request::post(body.to_string()).in_session(), &Wanted::Accepted);
    }

    /// A usual call of the session.
    pub(crate) fn call(&mut self) {
        self.send(
            &Request::post(call()).in_session(),
            &Wanted::Results(vec![json!(ID)]),
        );
    }

    /// Sends a request on a new connection, and records the outcome.
    pub(crate) fn send(&mut self, request: &Request, wanted: &Wanted) {
        let answer = Connection::open(self.server).and_then(|mut connection| {
            connection.write(&self.pieces(request));
            // The response to HEAD has no body, whatever its headers say.
            let is_head = request.verb == "HEAD";
            let answer = connection.read(if is_head { Until::Head } else { wanted.until() });
            connection.close();
            answer
        });
        self.note(answer, wanted);
    }

    /// A connection on which several requests go.
    pub(crate) fn connect(&self) -> anyhow::Result<Connection> {
        Connection::open(self.server)
    }

    /// Records the outcome of a step.
    pub(crate) fn note(&mut self, answer: anyhow::Result<Answer>, wanted: &Wanted) {
        let step = match answer.and_then(|answer| judge(&answer, wanted)) {
            Ok(what) => Step::Works(what),
            Err(error) => Step::Fails(format!("{error:#}")),
        };
        self.steps.push(step);
    }
}

impl Wanted {
    pub(crate) fn until(&self) -> Until {
        match self {
            Self::Stream => Until::Head,
            Self::Results(ids) => Until::Answers(ids.len()),
            Self::Accepted | Self::Success => Until::Answers(1),
        }
    }
}

/// The body of a usual call.
pub(crate) fn call() -> String {
    let params = json!({"name": "$echo", "arguments": {"message": "hi"}});
    json!({"jsonrpc": "2.0", "id": ID, "method": "tools/call", "params": params}).to_string()
}

/// The body of `initialize`, with these parameters instead of the usual ones. Those that are `(none)` are omitted.
pub(crate) fn initialize(changes: &Value) -> String {
    let mut params = json!({
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "odd", "version": "1"},
    });
    for (key, value) in changes.as_object().into_iter().flatten() {
        if value == "(none)" {
            params.as_object_mut().map(|params| params.remove(key));
        } else {
            params[key] = value.clone();
        }
    }
    json!({"jsonrpc": "2.0", "id": ID, "method": "initialize", "params": params}).to_string()
}

/// The relevant part of a response, or why it is not the expected one.
fn judge(answer: &Answer, wanted: &Wanted) -> anyhow::Result<String> {
    let is_success = (200..300).contains(&answer.status);
    match wanted {
        Wanted::Stream => answer.ensure_stream().map(|()| "a stream".to_owned()),
        Wanted::Success => {
            ensure!(is_success, "{}", answer.refusal());
            Ok("success".to_owned())
        }
        Wanted::Accepted => {
            ensure!(
                is_success && answer.answers().next().is_none(),
                "{}",
                answer.refusal()
            );
            Ok("accepted".to_owned())
        }
        Wanted::Results(ids) => {
            ensure!(is_success, "{}", answer.refusal());
            let result = |id: &Value| {
                let mut answers = answer.answers();
                let found = answers.find(|message| same_id(&message["id"], id));
                let found = found.with_context(|| answer.refusal())?;
                ensure!(found["jsonrpc"] == "2.0", "no version: {found}");
                summary(found).with_context(|| answer.refusal())
            };
            let all: Vec<_> = ids.iter().map(result).collect::<anyhow::Result<_>>()?;
            ensure!(
                answer.answers().count() == ids.len(),
                "more answers than requests"
            );
            Ok(all.join(", "))
        }
    }
}

/// Numbers are compared as most parsers read them.
fn same_id(one: &Value, other: &Value) -> bool {
    one == other || one.as_f64().is_some_and(|number| Some(number) == other.as_f64())
}

/// The relevant part of a result.
fn summary(message: &Value) -> anyhow::Result<String> {
    let result = message.get("result").context("an error")?;
    ensure!(result["isError"] != true, "the tool fails: {result}");
    for path in [
        "/content/0/text",
        "/messages/0/content/text",
        "/contents/0/text",
        "/completion/values/0",
        "/protocolVersion",
    ] {
        if let Some(text) = result.pointer(path).and_then(Value::as_str) {
            return Ok(text.to_owned());
        }
    }
    for list in ["tools", "prompts", "resources", "resourceTemplates"] {
        if let Some(items) = result[list].as_array() {
            return Ok(format!("{} {list}", items.len()));
        }
    }
    Ok("a result".to_owned())
}
