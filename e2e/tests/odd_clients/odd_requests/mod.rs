//! The corpus of odd requests: clients that deviate from the specification.

mod handshake;
mod headers;
mod http;
mod messages;
mod order;
mod params;

use serde_json::{Value, json};

use crate::conversation::{Conversation, ID, Request, Wanted};

/// What a client does with a server.
type Play = Box<dyn Fn(&mut Conversation<'_>) -> anyhow::Result<()> + Send + Sync>;

/// A client with one oddity.
pub(crate) struct OddClient {
    pub(crate) name: String,
    pub(crate) play: Play,
}

/// The default revision of the sessions.
const REVISION: &str = "2025-11-25";

/// All of them.
pub(crate) fn odd_clients() -> Vec<OddClient> {
    let mut all = vec![call("plain", |request| request)];
    all.extend(headers::all());
    all.extend(http::all());
    all.extend(messages::all());
    all.extend(params::all());
    all.extend(handshake::all());
    all.extend(order::all());
    all
}

fn odd(
    name: impl Into<String>,
    play: impl Fn(&mut Conversation<'_>) -> anyhow::Result<()> + Send + Sync + 'static,
) -> OddClient {
    OddClient {
        name: name.into(),
        play: Box::new(play),
    }
}

/// A client that sends `request` in a session, and then a usual call if `request` is not a call.
fn in_session(name: impl Into<String>, request: Request, wanted: Wanted) -> OddClient {
    odd(name, move |client| {
        client.reuse(REVISION)?;
        client.send(&request, &wanted);
        if !matches!(wanted, Wanted::Results(_)) {
            client.call();
        }
        client.leave();
        Ok(())
    })
}

/// The same in a session of its own, of that revision.
fn in_session_of(
    revision: &'static str,
    name: impl Into<String>,
    request: Request,
    wanted: Wanted,
) -> OddClient {
    odd(name, move |client| {
        client.open(revision)?;
        client.send(&request, &wanted);
        client.call();
        Ok(())
    })
}

fn one() -> Wanted {
    Wanted::Results(vec![json!(ID)])
}

/// A client whose call is usual, but for what `change` makes of it.
fn call(name: impl Into<String>, change: impl FnOnce(Request) -> Request) -> OddClient {
    let usual = Request::post(crate::conversation::call()).in_session();
    in_session(name, change(usual), one())
}

/// A client that asks this, with the id of all requests.
fn asks(name: impl Into<String>, body: impl Into<Vec<u8>>) -> OddClient {
    in_session(name, Request::post(body).in_session(), one())
}

/// A client that calls with the id that is `written`, and expects it in the answer.
fn asks_as(name: impl Into<String>, written: &str) -> OddClient {
    let id: Value = serde_json::from_str(written).unwrap_or_default();
    let body = crate::conversation::call().replace("\"id\":7", &format!("\"id\":{written}"));
    in_session(name, Request::post(body).in_session(), Wanted::Results(vec![id]))
}

/// A client that sends this method with these parameters.
fn with_params(name: impl Into<String>, method: &str, params: &str) -> OddClient {
    let body = format!(r#"{{"jsonrpc":"2.0","id":7,"method":"{method}","params":{params}}}"#);
    asks(name, body)
}

/// A client that sends this and wants no answer.
fn tells(name: impl Into<String>, body: impl Into<Vec<u8>>) -> OddClient {
    in_session(name, Request::post(body).in_session(), Wanted::Accepted)
}
