//! A client that talks to a server over the standard streams of the server, as desktop clients do.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};

use super::message::initialized;
use super::{Call, Outcome};
use crate::samples::Samples;

/// A client and its server. The server ends when the value is dropped.
#[derive(Debug)]
pub struct PipeClient {
    server: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    line: Vec<u8>,
    last_id: u64,
}

impl PipeClient {
    /// Starts the server, and initializes it.
    ///
    /// # Errors
    /// If it does not start, or does not answer.
    pub async fn start(command: Command) -> anyhow::Result<Self> {
        let mut server = tokio::process::Command::from(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the server")?;
        let input = server.stdin.take().context("the server has no input")?;
        let output = server.stdout.take().context("the server has no output")?;
        let mut client = Self {
            server,
            input,
            output: BufReader::new(output),
            line: Vec::new(),
            last_id: 0,
        };
        client.call(Call::Initialize).await?;
        client.send(&initialized()).await?;
        Ok(client)
    }

    /// The id of the server's process.
    ///
    /// # Errors
    /// If it has ended.
    pub fn server(&self) -> anyhow::Result<u32> {
        self.server.id().context("the server has ended")
    }

    /// Calls in a closed loop for `duration`.
    ///
    /// # Errors
    /// If a call fails.
    pub async fn closed_loop(&mut self, call: Call, duration: Duration) -> anyhow::Result<Outcome> {
        let started = Instant::now();
        let mut latencies = Samples::default();
        while started.elapsed() < duration {
            latencies.add(self.call(call).await?);
        }
        Ok(Outcome {
            latencies,
            elapsed: started.elapsed(),
        })
    }

    async fn call(&mut self, call: Call) -> anyhow::Result<Duration> {
        self.last_id += 1;
        let request = call.request(self.last_id, "");
        let started = Instant::now();
        self.send(&request).await?;
        self.line.clear();
        self.output.read_until(b'\n', &mut self.line).await?;
        let latency = started.elapsed();
        if !call.is_answered_by(&self.line, self.last_id) {
            let text = String::from_utf8_lossy(&self.line[..self.line.len().min(300)]);
            bail!("{call:?} got the response {text}");
        }
        Ok(latency)
    }

    /// Sends a message in one write, as SDKs do.
    async fn send(&mut self, message: &[u8]) -> anyhow::Result<()> {
        let line = [message, b"\n"].concat();
        self.input.write_all(&line).await?;
        Ok(self.input.flush().await?)
    }
}
