//! Honest sessions: each call has a response that no other call gets, so that a mixed-up response is seen.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use serde_json::json;

use crate::http_client::Session;
use crate::load::{Load, LoadReport, Turn};
use crate::wait;

/// How many there are.
const SESSIONS: usize = 20;
/// How often each of them calls.
const EVERY: Duration = Duration::from_millis(250);
/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(10);
/// The backends that they call.
const BACKENDS: [&str; 2] = ["one", "two"];

pub(super) struct Honest {
    gateway: SocketAddr,
    sessions: Vec<Session>,
}

impl Honest {
    pub(super) fn open(gateway: SocketAddr) -> anyhow::Result<Self> {
        let open = |_| Session::open(gateway);
        let sessions: Vec<_> = (0..SESSIONS).map(open).collect::<anyhow::Result<_>>()?;
        let honest = Self { gateway, sessions };
        // The first calls open sessions at the backends, which no figure is about.
        for session in &honest.sessions {
            for backend in BACKENDS {
                wait::until("the backends are served", LIMIT, || {
                    call(gateway, session, backend, "first")
                })?;
            }
        }
        Ok(honest)
    }

    /// Calls for as long as `duration`.
    pub(super) fn run(&self, duration: Duration) -> LoadReport {
        let load = Load::start(self.sessions.len(), EVERY, |worker| {
            let (gateway, session) = (self.gateway, self.sessions[worker].clone());
            let turn: Turn = Box::new(move |turn| {
                let backend = BACKENDS[usize::from(turn % 2 == 1)];
                call(gateway, &session, backend, &format!("{worker}-{turn}"))
            });
            turn
        });
        std::thread::sleep(duration);
        load.finish()
    }
}

fn call(gateway: SocketAddr, session: &Session, backend: &str, nonce: &str) -> anyhow::Result<()> {
    let answer = session.call(gateway, &format!("{backend}_echo"), &json!({"message": nonce}))?;
    let text = answer.tool_text()?;
    ensure!(text == nonce, "{text} in the place of {nonce}");
    Ok(())
}
