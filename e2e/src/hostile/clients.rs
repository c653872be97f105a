//! Fifty anonymous clients, each of which repeats one attack.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Attack;
use crate::http_client::Session;

/// How long a connection is waited for, and how long one that says nothing is kept.
const PATIENCE: Duration = Duration::from_secs(3);
/// The pause after a rejection, so that the gateway does not only reject requests.
const PAUSE: Duration = Duration::from_millis(20);
/// How often one event id is used at a time.
const RESUMES: usize = 50;

/// The attacks, and the number of clients for each.
type Row = (usize, fn(&Client));

const ROWS: [Row; 10] = [
    (5, wide_initialize),
    (5, batches_that_are_read),
    (5, batches_that_are_not_read),
    (8, events_without_an_end),
    (4, long_uris),
    (6, heavy_sessions),
    (6, resumed_again_and_again),
    (4, answers_of_hostile_backends),
    (4, streams_again_and_again),
    (3, large_bodies),
];

struct Client {
    gateway: SocketAddr,
    attack: Arc<Attack>,
}

/// Starts them all.
pub(super) fn start(gateway: SocketAddr, attack: &Arc<Attack>) -> Vec<JoinHandle<()>> {
    let rows = ROWS
        .iter()
        .flat_map(|(clients, row)| std::iter::repeat_n(*row, *clients));
    rows.map(|row| {
        let client = Client {
            gateway,
            attack: Arc::clone(attack),
        };
        std::thread::spawn(move || {
            while !client.attack.is_over() {
                row(&client);
                std::thread::sleep(PAUSE);
            }
        })
    })
    .collect()
}

impl Client {
    fn head(&self, method: &str, session: Option<&Session>, length: usize, more: &str) -> String {
        let session = session.map_or_else(String::new, |session| {
            format!("mcp-session-id: {}\r\n", session.id)
        });
        format!(
            "{method} /mcp HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\n\
             accept: application/json, text/event-stream\r\ncontent-length: {length}\r\n{session}{more}\r\n",
            self.gateway
        )
    }

    /// Sends a request, and gives the connection on which it is answered.
    fn send(&self, head: &str, body: &[u8]) -> std::io::Result<TcpStream> {
        let mut stream = TcpStream::connect_timeout(&self.gateway, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        Ok(stream)
    }

    /// Sends a message, and reads its answer to the end, for a while.
    fn post(&self, session: Option<&Session>, body: &str) -> Option<u16> {
        let head = self.head("POST", session, body.len(), "");
        let status = self
            .send(&head, body.as_bytes())
            .and_then(|stream| self.read(stream));
        let status = status.ok();
        self.attack.count(status);
        status
    }

    /// Reads until the end, or until the attack is over; gives the status.
    fn read(&self, mut stream: TcpStream) -> std::io::Result<u16> {
        let (mut buffer, mut status) = (vec![0; 64 * 1024], 0);
        loop {
            let count = stream.read(&mut buffer)?;
            if status == 0 {
                let head = String::from_utf8_lossy(&buffer[..count.min(16)]);
                status = head
                    .split(' ')
                    .nth(1)
                    .and_then(|code| code.parse().ok())
                    .unwrap_or(0);
            }
            if count == 0 || self.attack.is_over() {
                return Ok(status);
            }
        }
    }

    fn open(&self, revision: &str) -> Option<Session> {
        let session = Session::open_with(self.gateway, revision, &json!({})).ok();
        self.attack.count(session.as_ref().map(|_| 200));
        session
    }

    /// Holds connections without reading, and then closes them.
    fn neglect(&self, connections: Vec<std::io::Result<TcpStream>>) {
        let began = Instant::now();
        while began.elapsed() < PATIENCE && !self.attack.is_over() {
            std::thread::sleep(Duration::from_millis(50));
        }
        for connection in connections {
            self.attack.count(connection.ok().map(|_| 200));
        }
    }

    fn call(&self, session: &Session, id: usize, tool: &str) -> (String, String) {
        let params = json!({"name": tool, "arguments": {}});
        let body = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}).to_string();
        (self.head("POST", Some(session), body.len(), ""), body)
    }
}

fn initialize(capabilities: &Value, info: &str) -> String {
    let params = json!({
        "protocolVersion": "2025-11-25",
        "capabilities": capabilities,
        "clientInfo": {"name": "hostile", "version": info},
    });
    json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}).to_string()
}

/// Row 2: capabilities with very many keys.
fn wide_initialize(client: &Client) {
    let keys = (0..40_000).map(|key| (format!("key-{key}"), json!({})));
    let capabilities = Value::Object(keys.collect());
    client.post(None, &initialize(&capabilities, "1"));
}

fn batch() -> String {
    let list = |id| json!({"jsonrpc": "2.0", "id": id, "method": "tools/list"});
    Value::Array((0..100).map(list).collect()).to_string()
}

/// Row 3: a hundred lists in one request.
fn batches_that_are_read(client: &Client) {
    let Some(session) = client.open("2025-03-26") else {
        return;
    };
    client.post(Some(&session), &batch());
}

/// Row 3, by clients that do not read.
fn batches_that_are_not_read(client: &Client) {
    let Some(session) = client.open("2025-03-26") else {
        return;
    };
    let body = batch();
    let head = client.head("POST", Some(&session), body.len(), "");
    let send = |_| client.send(&head, body.as_bytes());
    client.neglect((0..2).map(send).collect());
}

/// Row 4: answers of 16 MiB that never end.
fn events_without_an_end(client: &Client) {
    let Some(session) = client.open("2025-11-25") else {
        return;
    };
    let calls = (0..3).map(|id| {
        let (head, body) = client.call(&session, id, "endless_endless");
        client.send(&head, body.as_bytes())
    });
    client.neglect(calls.collect());
}

/// Row 5: a URI that every template of the hostile backend nearly matches.
fn long_uris(client: &Client) {
    let Some(session) = client.open("2025-11-25") else {
        return;
    };
    for _ in 0..10 {
        let uri = format!("test://{}", "a/".repeat(1000));
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {"uri": uri}});
        client.post(Some(&session), &body.to_string());
    }
}

/// Row 6: sessions with capabilities of the maximum size.
fn heavy_sessions(client: &Client) {
    let capabilities = json!({"experimental": {"x": "y".repeat(15_000)}});
    client.post(None, &initialize(&capabilities, &"z".repeat(15_000)));
}

/// Row 7: many streams that resume from one event id.
fn resumed_again_and_again(client: &Client) {
    let Some(session) = client.open("2025-11-25") else {
        return;
    };
    let (head, body) = client.call(&session, 1, "endless_resumable");
    let Some(id) = client.send(&head, body.as_bytes()).ok().and_then(event_id) else {
        client.attack.count(None);
        return;
    };
    let more = format!("last-event-id: {id}\r\n");
    let head = client.head("GET", Some(&session), 0, &more);
    let connections = (0..RESUMES).map(|_| client.send(&head, b""));
    client.neglect(connections.collect());
}

/// The second event id on a stream, which is the first that a backend has given.
fn event_id(mut stream: TcpStream) -> Option<String> {
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        let mut ids = text.lines().filter_map(|line| line.strip_prefix("id: "));
        // The last line may not be whole.
        if let Some(id) = ids.nth(1).filter(|_| text.ends_with('\n')) {
            return Some(id.to_owned());
        }
    }
}

/// Rows 9 and 11: backends that name a revision of 3 MB, and that say 18 MB of nothing before they answer.
fn answers_of_hostile_backends(client: &Client) {
    let Some(session) = client.open("2025-11-25") else {
        return;
    };
    for tool in ["endless_comments", "version_any"] {
        let (head, body) = client.call(&session, 1, tool);
        let status = client
            .send(&head, body.as_bytes())
            .and_then(|stream| client.read(stream));
        client.attack.count(status.ok());
    }
}

/// Row 12: a write in the store with each request.
fn streams_again_and_again(client: &Client) {
    let Some(session) = client.open("2025-11-25") else {
        return;
    };
    let head = client.head("GET", Some(&session), 0, "");
    for _ in 0..100 {
        if client.attack.is_over() {
            return;
        }
        let opened = client.send(&head, b"").ok().and_then(|mut stream| {
            let mut buffer = [0; 12];
            stream.read_exact(&mut buffer).ok()?;
            String::from_utf8_lossy(&buffer).split(' ').nth(1)?.parse().ok()
        });
        client.attack.count(opened);
    }
}

/// Bodies as large as they may be, whose last byte does not come.
fn large_bodies(client: &Client) {
    const BYTES: usize = 4 * 1024 * 1024;
    let head = client.head("POST", None, BYTES, "");
    let body = vec![b' '; BYTES - 1];
    let send = |_| client.send(&head, &body);
    client.neglect((0..8).map(send).collect());
}
