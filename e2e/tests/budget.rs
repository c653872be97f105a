//! Memory budget: a client or a backend gets its share of the buffered bytes. Beyond it requests are rejected, and no other client notices.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use vmcp_crds::config::LimitsConfig;
use vmcp_e2e::harness::Harness;
use vmcp_e2e::hostile::Hostile;
use vmcp_e2e::http_client::{self, Session};
use vmcp_e2e::scripted_server::{Reply, ScriptedServer};
use vmcp_e2e::stream::Stream;
use vmcp_e2e::wait;

const MIB: u64 = 1024 * 1024;
const LIMIT: Duration = Duration::from_secs(20);

/// A gateway with these limits in front of the backends `good`, and `endless`, which a test can make send without an end.
fn start(limits: LimitsConfig) -> anyhow::Result<(Harness, Hostile)> {
    let hostile = Hostile::start()?;
    let builder = Harness::builder().test_server("good", &[]);
    let builder = builder.backend("endless", &hostile.url("endless"));
    let builder = builder.configure(|recipe| recipe.hot().limits = limits);
    Ok((builder.without_session_keys().start()?, hostile))
}

/// Sends a request, and leaves its answer unread.
fn send(mcp: SocketAddr, session: &Session, message: &Value) -> anyhow::Result<TcpStream> {
    let body = message.to_string();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: {mcp}\r\ncontent-type: application/json\r\nmcp-session-id: {}\r\n\
         accept: application/json, text/event-stream\r\ncontent-length: {}\r\n\r\n",
        session.id,
        body.len()
    );
    let mut stream = TcpStream::connect(mcp)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    Ok(stream)
}

fn is_served(mcp: SocketAddr) -> anyhow::Result<()> {
    let session = Session::open(mcp)?;
    let echo = session.call(mcp, "good_echo", &json!({"message": "nonce"}))?;
    ensure!(echo.tool_text()? == "nonce", "{echo:?}");
    Ok(())
}

fn call(id: usize, tool: &str) -> Value {
    let params = json!({"name": tool, "arguments": {}});
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})
}

/// Whether the first message on `stream` is the error that the budget is used up.
fn says_no_room(mut stream: TcpStream) -> anyhow::Result<bool> {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer)?;
        text.extend_from_slice(&buffer[..count]);
        let said = String::from_utf8_lossy(&text);
        if said.contains("limits.bufferedBytes") {
            return Ok(true);
        }
        if count == 0 || said.contains("\"result\"") || said.contains("\"error\"") {
            return Ok(false);
        }
    }
}

/// 24 endless responses of 16 MiB get a quarter of the budget. The other calls end with an error for their ids.
#[test]
fn endless_events_use_memory_share_of_their_backend() -> anyhow::Result<()> {
    let (harness, hostile) = start(LimitsConfig {
        buffered_bytes: Some(128 * MIB),
        ..LimitsConfig::default()
    })?;
    let (gateway, mcp) = (harness.gateway(), harness.address());
    hostile.set_hostile(true);
    let session = Session::open(mcp)?;
    let calls = (0..24).map(|id| send(mcp, &session, &call(id, "endless_endless")));
    let calls: Vec<_> = calls.collect::<anyhow::Result<_>>()?;
    is_served(mcp)?;
    let mut refused = 0;
    for call in calls {
        refused += usize::from(says_no_room(call)?);
    }
    assert!(refused >= 20, "{refused} of 24 were told that there is no room");
    let peak = gateway.peak_memory()?;
    assert!(peak < 200 * MIB, "{} MiB", peak / MIB);
    wait::until("nothing is buffered any more", LIMIT, || {
        let buffered = gateway.metric("vmcp_buffered_bytes", "")?;
        ensure!(buffered < MIB as f64, "{buffered}");
        Ok(())
    })?;
    assert!(gateway.metric("vmcp_buffer_refusals_total", "")? >= 20.0);
    Ok(())
}

/// A thousand lists of a megabyte, requested by ten batches whose responses are not read, are one list in memory.
#[test]
fn lists_in_batches_share_their_memory() -> anyhow::Result<()> {
    let large = Hostile::start()?;
    let builder = Harness::builder().backend("large", &large.url("large"));
    let harness = builder.without_session_keys().start()?;
    let (gateway, mcp) = (harness.gateway(), harness.address());
    let session = Session::open_with(mcp, "2025-03-26", &json!({}))?;
    let list = session.request(mcp, "tools/list", &json!({}))?;
    ensure!(
        list.body.len() > 900_000,
        "the list has {} bytes",
        list.body.len()
    );
    let before = gateway.resident_bytes()?;
    let lists = (0..100).map(|id| json!({"jsonrpc": "2.0", "id": id, "method": "tools/list"}));
    let batch = Value::Array(lists.collect());
    let unread = (0..10).map(|_| send(mcp, &session, &batch));
    let mut unread: Vec<_> = unread.collect::<anyhow::Result<_>>()?;
    // One response is read to its end, and is complete.
    let mut last = unread.pop().ok_or_else(|| anyhow::anyhow!("no batch"))?;
    let (mut read, mut buffer) = (0, vec![0; 64 * 1024]);
    while read < 100 * list.body.len() {
        let count = last.read(&mut buffer)?;
        ensure!(count > 0, "the answer ends after {read} bytes");
        read += count;
    }
    let peak = gateway.peak_memory()?;
    assert!(
        peak < before + 64 * MIB,
        "{} MiB, and {} before",
        peak / MIB,
        before / MIB
    );
    drop(unread);
    Ok(())
}

/// A stream is resumed by one request at a time, within the limits of the session and the backend, and the metrics show it.
#[test]
fn event_id_used_many_times_opens_one_stream() -> anyhow::Result<()> {
    let (harness, hostile) = start(LimitsConfig {
        requests_in_flight_per_session: 2,
        ..LimitsConfig::default()
    })?;
    let (gateway, mcp) = (harness.gateway(), harness.address());
    hostile.set_hostile(true);
    let session = Session::open(mcp)?;
    let mut broken = Stream::call(mcp, &session, &json!(1), "endless_resumable", &json!({}))?;
    // The first event id is the gateway's own. From the second on it is a position at the backend.
    let mut id = None;
    for _ in 0..2 {
        id = broken.next_event()?.and_then(|event| event.id);
    }
    let id = id.ok_or_else(|| anyhow::anyhow!("no event id"))?;
    broken.abandon()?;
    let mut streams = Vec::new();
    for _ in 0..30 {
        streams.push(Stream::get(mcp, &session, Some(&id))?);
    }
    let refused = streams.iter().filter(|stream| stream.status == 503).count();
    assert!(refused >= 15, "{refused} of 30 were refused");
    wait::until("one stream is open", LIMIT, || {
        let open = gateway.metric("vmcp_streams_open", "resumed")?;
        ensure!((open - 1.0).abs() < f64::EPSILON, "{open}");
        Ok(())
    })?;
    let at_backend = gateway.metric("vmcp_backend_requests_in_flight", "endless")?;
    assert!((at_backend - 1.0).abs() < f64::EPSILON, "{at_backend}");
    Ok(())
}

/// Each GET writes to the store and sends an event to all replicas, so its rate is limited per session. Other sessions are not affected.
#[test]
fn session_opens_streams_at_limited_rate() -> anyhow::Result<()> {
    let (harness, _hostile) = start(LimitsConfig::default())?;
    let mcp = harness.address();
    let (session, other) = (Session::open(mcp)?, Session::open(mcp)?);
    // At the same time: a stream that replaces another one waits for a moment.
    let opening: Vec<_> = (0..40)
        .map(|_| {
            let session = session.clone();
            std::thread::spawn(move || Stream::get(mcp, &session, None).map(|stream| stream.status))
        })
        .collect();
    let mut served = 0;
    for opened in opening {
        let status = opened
            .join()
            .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        ensure!(matches!(status, 200 | 503), "{status}");
        served += usize::from(status == 200);
    }
    assert!((10..30).contains(&served), "{served} of 40 were served");
    assert_eq!(Stream::get(mcp, &other, None)?.status, 200);
    Ok(())
}

/// A stream of notifications, 12 MiB in all, as one zstd frame that wants a window of 8 MiB and is not compressed (RFC 8878, 3.1.1).
fn zstd_stream() -> Vec<u8> {
    let notification = json!({
        "jsonrpc": "2.0",
        "method": "notifications/message",
        "params": {"level": "emergency", "data": "x".repeat(60_000)},
    });
    let events = format!("event: message\ndata: {notification}\n\n").repeat(200);
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 13 << 3];
    for block in events.as_bytes().chunks(128 * 1024) {
        frame.extend_from_slice(&(block.len() << 3).to_le_bytes()[..3]);
        frame.extend_from_slice(block);
    }
    frame.extend_from_slice(&[1, 0, 0]);
    frame
}

/// Reads `bytes` of `stream`, or up to the error that the budget is used up. Returns whether that error came.
fn reads_no_room(mut stream: &TcpStream, bytes: usize) -> anyhow::Result<bool> {
    let (mut read, mut buffer) = (0, vec![0; 64 * 1024]);
    while read < bytes {
        let count = stream.read(&mut buffer)?;
        let is_refusal = String::from_utf8_lossy(&buffer[..count]).contains("limits.bufferedBytes");
        if is_refusal || count == 0 {
            return Ok(is_refusal);
        }
        read += count;
    }
    Ok(false)
}

/// The decoder windows of compressed streams count against the share of their backend until the streams end.
#[test]
fn decoder_windows_use_memory_share_of_their_backend() -> anyhow::Result<()> {
    let stream = zstd_stream();
    let server = ScriptedServer::start(move |request| {
        let is_call = request.method() == "tools/call" && request.message["params"]["arguments"] == json!({});
        is_call.then(|| Reply::new(200, "text/event-stream", &stream).with("content-encoding", "zstd"))
    })?;
    let harness = Harness::builder()
        .backend("good", &server.url)
        .configure(|recipe| recipe.hot().limits.buffered_bytes = Some(64 * MIB))
        .without_session_keys()
        .start()?;
    let (gateway, mcp) = (harness.gateway(), harness.address());
    let before = gateway.resident_bytes()?;
    let session = Session::open(mcp)?;
    let calls = (0..8).map(|id| send(mcp, &session, &call(id, "good_echo")));
    let calls: Vec<_> = calls.collect::<anyhow::Result<_>>()?;
    let refused = std::thread::scope(|scope| {
        // More than a window, and not everything: calls within the budget keep their decoders.
        let reading = calls
            .iter()
            .map(|call| scope.spawn(move || reads_no_room(call, 10 << 20)));
        let reading: Vec<_> = reading.collect();
        let refused = reading.into_iter().map(|reading| {
            let refused = reading
                .join()
                .map_err(|_| anyhow::anyhow!("a reader panicked"))??;
            Ok(usize::from(refused))
        });
        refused.sum::<anyhow::Result<usize>>()
    })?;
    let peak = gateway.peak_memory()?;
    assert!(
        peak < before + 40 * MIB,
        "{} MiB, and {} before",
        peak / MIB,
        before / MIB
    );
    assert!((6..8).contains(&refused), "{refused} of 8 found no room");
    let buffered = || gateway.metric("vmcp_buffered_bytes", "");
    assert!(buffered()? > 8.0 * MIB as f64, "{}", buffered()?);
    drop(calls);
    wait::until("nothing is buffered any more", LIMIT, || {
        ensure!(buffered()? < MIB as f64, "{}", buffered()?);
        Ok(())
    })?;
    is_served(mcp)
}

fn initialize(mcp: SocketAddr, bytes: usize) -> anyhow::Result<u16> {
    let capabilities = json!({"experimental": {"x": {"y": "y".repeat(bytes)}}});
    Ok(http_client::initialize_with(mcp, "2025-11-25", &capabilities)?.status)
}

/// A session with large client capabilities counts as several, so that the allowed number of sessions always fits into the budget.
#[test]
fn heavy_session_counts_as_several() -> anyhow::Result<()> {
    let limits = LimitsConfig {
        sessions: 64,
        ..LimitsConfig::default()
    };
    let builder = Harness::builder().configure(|recipe| recipe.hot().limits = limits);
    let harness = builder.without_session_keys().start()?;
    let open = |bytes| -> anyhow::Result<usize> {
        let mut opened = 0;
        while initialize(harness.address(), bytes)? == 200 {
            opened += 1;
        }
        Ok(opened)
    };
    assert_eq!(open(15_000)?, 4, "15 KiB weigh as much as 15 or 16 sessions");
    assert_eq!(open(10)?, 60, "light ones still find their places");
    Ok(())
}
