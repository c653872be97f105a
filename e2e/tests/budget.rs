//! One client or one backend takes its share of what the process buffers, and no more: the rest is refused, and nobody else notices.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use vmcp_crds::config::LimitsConfig;
use vmcp_e2e::fixture::Fixture;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::hostile::Hostile;
use vmcp_e2e::raw::{self, Session};
use vmcp_e2e::scripted_server::{Reply, ScriptedServer};
use vmcp_e2e::stream::Stream;
use vmcp_e2e::wait;

const MIB: u64 = 1024 * 1024;
const LIMIT: Duration = Duration::from_secs(20);

/// A gateway in front of a backend as it should be, and of one that is not.
struct Scene {
    gateway: Gateway,
    hostile: Hostile,
    _good: Fixture,
}

impl Scene {
    fn start(limits: LimitsConfig) -> anyhow::Result<Self> {
        let (good, hostile) = (Fixture::start(&[])?, Hostile::start()?);
        let url = hostile.url("endless");
        let mut recipe = Recipe::in_memory(&[("good", &good.url), ("endless", &url)])?;
        recipe.config.hot.get_or_insert_default().limits = limits;
        Ok(Self {
            gateway: recipe.start()?,
            hostile,
            _good: good,
        })
    }

    /// Sends a request, and leaves its answer unread.
    fn send(&self, session: &Session, message: &Value) -> anyhow::Result<TcpStream> {
        let body = message.to_string();
        let mcp = self.gateway.mcp;
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

    fn is_served(&self) -> anyhow::Result<()> {
        let session = Session::open(self.gateway.mcp)?;
        let echo = session.call(self.gateway.mcp, "good_echo", &json!({"message": "nonce"}))?;
        ensure!(echo.tool_text()? == "nonce", "{echo:?}");
        Ok(())
    }
}

fn call(id: usize, tool: &str) -> Value {
    let params = json!({"name": tool, "arguments": {}});
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})
}

/// Whether `stream` says that there was no room, before it says anything else of the call.
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

/// 24 answers of 16 MiB that do not end take a quarter of the budget. The others end with an error for their ids.
#[test]
fn events_without_an_end_take_the_share_of_their_backend() -> anyhow::Result<()> {
    let scene = Scene::start(LimitsConfig {
        buffered_bytes: Some(128 * MIB),
        ..LimitsConfig::default()
    })?;
    scene.hostile.set_hostile(true);
    let session = Session::open(scene.gateway.mcp)?;
    let calls = (0..24).map(|id| scene.send(&session, &call(id, "endless_endless")));
    let calls: Vec<_> = calls.collect::<anyhow::Result<_>>()?;
    scene.is_served()?;
    let mut refused = 0;
    for call in calls {
        refused += usize::from(says_no_room(call)?);
    }
    assert!(refused >= 20, "{refused} of 24 were told that there is no room");
    let peak = scene.gateway.peak_memory()?;
    assert!(peak < 200 * MIB, "{} MiB", peak / MIB);
    wait::until("nothing is buffered any more", LIMIT, || {
        let buffered = scene.gateway.metric("vmcp_buffered_bytes", "")?;
        ensure!(buffered < MIB as f64, "{buffered}");
        Ok(())
    })?;
    assert!(scene.gateway.metric("vmcp_buffer_refusals_total", "")? >= 20.0);
    Ok(())
}

/// A thousand lists of a megabyte, asked for in ten requests whose answers nobody reads, are one list in memory.
#[test]
fn lists_in_batches_share_their_memory() -> anyhow::Result<()> {
    let scene = Scene::start(LimitsConfig::default())?;
    let large = Hostile::start()?;
    let recipe = Recipe::in_memory(&[("large", &large.url("large"))])?;
    let scene = Scene {
        gateway: recipe.start()?,
        ..scene
    };
    let mcp = scene.gateway.mcp;
    let session = Session::open_with(mcp, "2025-03-26", &json!({}))?;
    let list = session.request(mcp, "tools/list", &json!({}))?;
    ensure!(
        list.body.len() > 900_000,
        "the list has {} bytes",
        list.body.len()
    );
    let before = scene.gateway.resident_bytes()?;
    let lists = (0..100).map(|id| json!({"jsonrpc": "2.0", "id": id, "method": "tools/list"}));
    let batch = Value::Array(lists.collect());
    let unread = (0..10).map(|_| scene.send(&session, &batch));
    let mut unread: Vec<_> = unread.collect::<anyhow::Result<_>>()?;
    // One of them is read to its end: nothing of it is missing.
    let mut last = unread.pop().ok_or_else(|| anyhow::anyhow!("no batch"))?;
    let (mut read, mut buffer) = (0, vec![0; 64 * 1024]);
    while read < 100 * list.body.len() {
        let count = last.read(&mut buffer)?;
        ensure!(count > 0, "the answer ends after {read} bytes");
        read += count;
    }
    let peak = scene.gateway.peak_memory()?;
    assert!(
        peak < before + 64 * MIB,
        "{} MiB, and {} before",
        peak / MIB,
        before / MIB
    );
    drop(unread);
    Ok(())
}

/// A stream is resumed once at a time, within the limits of the session and the backend, and can be seen.
#[test]
fn event_id_used_many_times_opens_one_stream() -> anyhow::Result<()> {
    let scene = Scene::start(LimitsConfig {
        requests_in_flight_per_session: 2,
        ..LimitsConfig::default()
    })?;
    scene.hostile.set_hostile(true);
    let mcp = scene.gateway.mcp;
    let session = Session::open(mcp)?;
    let mut broken = Stream::call(mcp, &session, &json!(1), "endless_resumable", &json!({}))?;
    // The first is the gateway's own; from the second on it is a position at the backend.
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
        let open = scene.gateway.metric("vmcp_streams_open", "resumed")?;
        ensure!((open - 1.0).abs() < f64::EPSILON, "{open}");
        Ok(())
    })?;
    let at_backend = scene
        .gateway
        .metric("vmcp_backend_requests_in_flight", "endless")?;
    assert!((at_backend - 1.0).abs() < f64::EPSILON, "{at_backend}");
    Ok(())
}

/// Each GET is a write in the store that all processes hear of: a session has so many in a second, and others are not disturbed.
#[test]
fn session_opens_streams_at_a_bounded_rate() -> anyhow::Result<()> {
    let scene = Scene::start(LimitsConfig::default())?;
    let mcp = scene.gateway.mcp;
    let (session, other) = (Session::open(mcp)?, Session::open(mcp)?);
    // Together: one that takes the place of another waits for a moment.
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

/// Reads so many bytes of `stream`, or until it says that there is no room; whether it says so.
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

/// A backend that compresses what it sends makes the gateway keep windows: they take its share, and are gone with their streams.
#[test]
fn windows_of_decoders_take_the_share_of_their_backend() -> anyhow::Result<()> {
    let stream = zstd_stream();
    let server = ScriptedServer::start(move |request| {
        let is_call = request.method() == "tools/call" && request.message["params"]["arguments"] == json!({});
        is_call.then(|| Reply::new(200, "text/event-stream", &stream).with("content-encoding", "zstd"))
    })?;
    let mut recipe = Recipe::in_memory(&[("good", &server.url)])?;
    recipe.config.hot.get_or_insert_default().limits.buffered_bytes = Some(64 * MIB);
    let scene = Scene {
        gateway: recipe.start()?,
        hostile: Hostile::start()?,
        _good: Fixture::start(&[])?,
    };
    let before = scene.gateway.resident_bytes()?;
    let session = Session::open(scene.gateway.mcp)?;
    let calls = (0..8).map(|id| scene.send(&session, &call(id, "good_echo")));
    let calls: Vec<_> = calls.collect::<anyhow::Result<_>>()?;
    let refused = std::thread::scope(|scope| {
        // More than a window, and not all: those that have room keep their decoders.
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
    let peak = scene.gateway.peak_memory()?;
    assert!(
        peak < before + 40 * MIB,
        "{} MiB, and {} before",
        peak / MIB,
        before / MIB
    );
    assert!((6..8).contains(&refused), "{refused} of 8 found no room");
    let buffered = || scene.gateway.metric("vmcp_buffered_bytes", "");
    assert!(buffered()? > 8.0 * MIB as f64, "{}", buffered()?);
    drop(calls);
    wait::until("nothing is buffered any more", LIMIT, || {
        ensure!(buffered()? < MIB as f64, "{}", buffered()?);
        Ok(())
    })?;
    scene.is_served()
}

fn initialize(mcp: SocketAddr, bytes: usize) -> anyhow::Result<u16> {
    let capabilities = json!({"experimental": {"x": "y".repeat(bytes)}});
    Ok(raw::initialize_with(mcp, "2025-11-25", &capabilities)?.status)
}

/// A session whose client says much of itself counts as many, so that as many as there may be always fit.
#[test]
fn heavy_sessions_are_as_many_as_their_weight_allows() -> anyhow::Result<()> {
    let limits = LimitsConfig {
        sessions: 64,
        ..LimitsConfig::default()
    };
    let mut recipe = Recipe::in_memory(&[])?;
    recipe.config.hot.get_or_insert_default().limits = limits;
    let gateway = recipe.start()?;
    let open = |bytes| -> anyhow::Result<usize> {
        let mut opened = 0;
        while initialize(gateway.mcp, bytes)? == 200 {
            opened += 1;
        }
        Ok(opened)
    };
    assert_eq!(open(15_000)?, 4, "15 KiB weigh as much as 15 or 16 sessions");
    assert_eq!(open(10)?, 60, "light ones still find their places");
    Ok(())
}
