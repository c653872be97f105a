//! Checks whether an MCP server responds.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::json;

/// How long one attempt may wait for the server's next bytes.
const PATIENCE: Duration = Duration::from_secs(10);

/// The end of an answer that is longer than any answer to `initialize`.
const LIMIT: usize = 256 * 1024;

/// Opens a session on `http://127.0.0.1:{port}/mcp` and deletes it again, so that the server is as it was.
pub(crate) fn answers(port: u16) -> anyhow::Result<()> {
    let body = json!({
        "jsonrpc": "2.0",
        "id": "probe",
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "vmcp-probe", "version": "0"},
        },
    });
    let answer = exchange(port, "POST", "", &body.to_string(), "\"serverInfo\"")?;
    if !answer.contains("\"serverInfo\"") {
        bail!("initialize was answered with {answer:?}");
    }
    if let Some(session) = session(&answer) {
        let header = format!("Mcp-Session-Id: {session}\r\n");
        exchange(port, "DELETE", &header, "", "\r\n\r\n")?;
    }
    Ok(())
}

/// Opens a stream of HTTP+SSE on `http://127.0.0.1:{port}/sse` and waits until it names its endpoint.
pub(crate) fn streams(port: u16) -> anyhow::Result<()> {
    let answer = exchange_at("/sse", port, "GET", "", "", "event: endpoint")?;
    anyhow::ensure!(
        answer.contains("event: endpoint"),
        "a GET was answered with {answer:?}"
    );
    Ok(())
}

fn exchange(port: u16, method: &str, headers: &str, body: &str, wanted: &str) -> anyhow::Result<String> {
    exchange_at("/mcp", port, method, headers, body, wanted)
}

/// Sends one request and reads until the answer contains `wanted` or ends.
fn exchange_at(
    path: &str,
    port: u16,
    method: &str,
    headers: &str,
    body: &str,
    wanted: &str,
) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("cannot connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\
         Accept: application/json, text/event-stream\r\nContent-Type: application/json\r\n\
         {headers}Content-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let count = stream.read(&mut chunk).context("no answer")?;
        answer.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&answer);
        if count == 0 || text.contains(wanted) || answer.len() > LIMIT {
            return Ok(text.into_owned());
        }
    }
}

fn session(answer: &str) -> Option<&str> {
    let (head, _) = answer.split_once("\r\n\r\n")?;
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("mcp-session-id").then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::session;

    #[test]
    fn session_id_is_read_from_response_head_only() {
        assert_eq!(
            session("HTTP/1.1 200 OK\r\nmcp-session-id: abc\r\n\r\n{}"),
            Some("abc")
        );
        assert_eq!(session("HTTP/1.1 200 OK\r\n\r\nmcp-session-id: abc"), None);
    }
}
