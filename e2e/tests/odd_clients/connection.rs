//! HTTP/1.1 of an odd client: bytes that a test writes, and the responses.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

/// How long an answer may take on a machine that is busy with other work. Every server answers every client.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between the pieces of a request that does not come in one.
const PAUSE: Duration = Duration::from_millis(20);

/// A connection to a server.
pub(crate) struct Connection(BufReader<TcpStream>);

/// A response up to where it was read: to the end of its body, or to the expected message.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    /// The messages in the body, in their order; those of a batch one by one.
    pub(crate) messages: Vec<Value>,
    /// The body, where it is no JSON.
    text: String,
}

/// How far the body of an answer is read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// To its head.
    Head,
    /// To so many answers to requests, or to its end.
    Answers(usize),
    /// To its end, also behind the answers.
    End,
}

impl Connection {
    pub(crate) fn open(server: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&server, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Writes the pieces of a request. A server may have answered, and closed the connection, before the last one.
    pub(crate) fn write(&mut self, pieces: &[Vec<u8>]) {
        for (index, piece) in pieces.iter().enumerate() {
            if index > 0 {
                thread::sleep(PAUSE);
            }
            if self.0.get_mut().write_all(piece).is_err() {
                return;
            }
        }
    }

    /// Reads the next answer.
    pub(crate) fn read(&mut self, until: Until) -> anyhow::Result<Answer> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut answer = self.head()?;
            // Interim responses announce the answer.
            if (100..200).contains(&answer.status) && answer.status != 101 {
                continue;
            }
            let count = match until {
                Until::Head => None,
                Until::Answers(count) => Some(count),
                Until::End => Some(usize::MAX),
            };
            if let Some(count) = count.filter(|_| ![204, 304].contains(&answer.status)) {
                self.body(&mut answer, count, deadline)?;
            }
            return Ok(answer);
        }
    }

    /// Ends it, whatever the server is about to send.
    pub(crate) fn close(self) {
        // The other side may have closed it before.
        drop(self.0.get_ref().shutdown(Shutdown::Both));
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line).context("no answer")?;
        ensure!(!line.is_empty(), "the connection ends without an answer");
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    fn head(&mut self) -> anyhow::Result<Answer> {
        let line = self.line()?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let mut answer = Answer {
            status: status.with_context(|| format!("not an HTTP answer: {line:?}"))?,
            headers: Vec::new(),
            messages: Vec::new(),
            text: String::new(),
        };
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else {
                return Ok(answer);
            };
            let header = (name.to_ascii_lowercase(), value.trim().to_owned());
            answer.headers.push(header);
        }
    }

    fn body(&mut self, answer: &mut Answer, count: usize, deadline: Instant) -> anyhow::Result<()> {
        let is_chunked = answer.header("transfer-encoding") == Some("chunked");
        let is_stream = answer.has_type("text/event-stream");
        let length = answer.header("content-length").map(str::parse::<usize>);
        let mut left = length.transpose()?;
        let mut body = Vec::new();
        loop {
            ensure!(Instant::now() < deadline, "the answer does not end");
            let piece = if is_chunked {
                self.chunk()?
            } else {
                self.piece(&mut left)?
            };
            body.extend_from_slice(&piece);
            let is_whole = piece.is_empty();
            if is_whole || is_stream {
                answer.read_messages(&body, is_stream);
            }
            if is_whole || (is_stream && answer.answers().count() >= count) {
                return Ok(());
            }
        }
    }

    fn chunk(&mut self) -> anyhow::Result<Vec<u8>> {
        let line = self.line()?;
        let size = line.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size, 16).with_context(|| format!("not a chunk: {line:?}"))?;
        let mut chunk = vec![0; size];
        self.0.read_exact(&mut chunk)?;
        let mut end = [0; 2];
        self.0.read_exact(&mut end)?;
        Ok(chunk)
    }

    /// The next piece of a body that is so long, or that ends with the connection.
    fn piece(&mut self, left: &mut Option<usize>) -> anyhow::Result<Vec<u8>> {
        if *left == Some(0) {
            return Ok(Vec::new());
        }
        let mut piece = vec![0; left.unwrap_or(4096).min(64 * 1024)];
        let read = self.0.read(&mut piece)?;
        piece.truncate(read);
        if let Some(left) = left {
            ensure!(read > 0, "the body breaks off");
            *left -= read;
        }
        Ok(piece)
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    fn has_type(&self, kind: &str) -> bool {
        self.header("content-type")
            .is_some_and(|value| value.starts_with(kind))
    }

    fn read_messages(&mut self, body: &[u8], is_stream: bool) {
        let text = String::from_utf8_lossy(body).into_owned();
        let data = |event: &str| -> String {
            let lines = event.lines().filter_map(|line| line.strip_prefix("data:"));
            lines.collect()
        };
        let parts: Vec<String> = if is_stream {
            // The Python SDK ends lines as Windows does.
            let text = text.replace("\r\n", "\n");
            text.split_inclusive("\n\n")
                .filter(|event| event.ends_with("\n\n"))
                .map(data)
                .collect()
        } else {
            vec![text.clone()]
        };
        let values = parts.iter().filter_map(|part| serde_json::from_str(part).ok());
        self.messages = values
            .flat_map(|value| match value {
                Value::Array(messages) => messages,
                message => vec![message],
            })
            .collect();
        self.text = text;
    }

    /// The messages that answer requests.
    pub(crate) fn answers(&self) -> impl Iterator<Item = &Value> {
        let is_answer = |message: &&Value| message.get("result").is_some() || message.get("error").is_some();
        self.messages.iter().filter(is_answer)
    }

    /// What there is to say of an answer that is not what was waited for.
    pub(crate) fn refusal(&self) -> String {
        let error = self.messages.iter().find_map(|message| message.get("error"));
        match error {
            Some(error) => {
                let message = error["message"].as_str().unwrap_or_default();
                format!("{} {} {message}", self.status, error["code"])
            }
            None => format!("{} {}", self.status, self.text.trim()),
        }
    }

    /// Fails unless it is a stream of events that has begun.
    pub(crate) fn ensure_stream(&self) -> anyhow::Result<()> {
        if self.status != 200 || !self.has_type("text/event-stream") {
            bail!("{}", self.refusal());
        }
        Ok(())
    }
}
