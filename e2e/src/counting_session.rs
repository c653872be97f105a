//! A session whose upstream state is checked: it calls the test server's tool `counter`, which counts the calls of each upstream session.

use std::net::SocketAddr;

use anyhow::ensure;
use serde_json::json;

use crate::http_client::Session;

/// A session that counts.
#[derive(Debug)]
pub struct CountingSession {
    session: Session,
    /// The advertised name of `counter`.
    tool: &'static str,
    /// The counts that may be next: a failed call may have been executed.
    lowest: u64,
    highest: u64,
}

impl CountingSession {
    /// Opens a session that calls `tool`, which is the advertised name of `counter`.
    ///
    /// # Errors
    /// When the gateway refuses.
    pub fn open(gateway: SocketAddr, tool: &'static str) -> anyhow::Result<Self> {
        let session = Session::open(gateway)?;
        Ok(Self {
            session,
            tool,
            lowest: 1,
            highest: 1,
        })
    }

    /// The session.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Makes one call.
    ///
    /// # Errors
    /// When the call fails.
    ///
    /// # Panics
    /// When the count repeats or skips an answered call: the upstream session was lost or replaced.
    pub fn call(&mut self, gateway: SocketAddr) -> anyhow::Result<()> {
        let answer = self.session.call(gateway, self.tool, &json!({}));
        let text = answer.and_then(|answer| {
            ensure!(
                answer.status == 200,
                "status {}: {}",
                answer.status,
                answer.text()
            );
            answer.tool_text()
        });
        match text {
            Ok(text) => {
                let count: u64 = text.parse()?;
                assert!(
                    (self.lowest..=self.highest).contains(&count),
                    "the backend's state is lost: {count}, and not {} to {}",
                    self.lowest,
                    self.highest
                );
                (self.lowest, self.highest) = (count + 1, count + 1);
                Ok(())
            }
            Err(error) => {
                self.highest += 1;
                Err(error)
            }
        }
    }
}
