//! The upstream side: MCP servers and how to talk to them.
//!
//! A [`BackendSettings`] is one server. What it has to be told per client session is an [`UpstreamSession`], which is data: whoever
//! holds it, in whichever process, can go on with it.

mod admission;
mod breaker;
mod ca_file;
mod client_settings;
mod concurrency;
mod connection_gauge;
mod connection_pools;
mod content_encoding;
mod cookies;
mod deadline;
mod delete_queue;
mod error;
mod host_addresses;
#[cfg(test)]
mod http2_tests;
mod http_client;
mod http_sse;
mod initialize;
mod initialize_result;
mod list_pages;
mod listed_items;
mod listen;
mod own_request_id;
mod post;
mod request_headers;
mod response_events;
mod response_reader;
mod session_list_hint;
mod shared_session;
mod upstream_body;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use http::{HeaderMap, HeaderValue, Uri};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use vmcp_crds::config::CatalogScope;

use crate::budget::Account;
use crate::config::{self, BackendName, Protocol, UpstreamSettings};
use crate::mcp::revision::Revision;
use crate::runtime::clock;
use crate::runtime::compute::{ComputeMeter, WorkFailed};
use crate::runtime::tasks::Tasks;

use connection_pools::ConnectionPools;
use request_headers::RequestHeaders;

pub use admission::CallPermit;
pub use breaker::BreakerState;
pub use cookies::Cookies;
pub use deadline::Deadline;
pub use error::BackendError;
pub use http_client::HttpClient;
pub use initialize::InitializeParams;
pub use initialize_result::{InitializeResult, ServerCapabilities};
pub use listed_items::{BackendItem, BackendList, ListKind, MAX_ITEM_BYTES, MendedItems, OversizedItems};
pub use listen::{ListenStream, NoStream, position, retry};
pub use response_events::ResponseEvents;
pub use response_reader::{BackendResponse, MessageRole, read};
pub use shared_session::SharedSession;
pub use upstream_body::UpstreamBody;

/// For how long a backend counts as one that loses its sessions.
const FORGETFUL_FOR: Duration = Duration::from_secs(600);

/// One MCP server. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct Backend {
    inner: Arc<Inner>,
    /// What is passed on of the headers of the client for whom it is called.
    passed: Option<Arc<HeaderMap>>,
    /// In whose sessions the gateway's own requests are sent.
    session_owner: own_request_id::SessionOwner,
}

#[derive(Debug)]
struct Inner {
    name: BackendName,
    url: Uri,
    /// What requests name it by in `Host`, where that is known to be wanted: HTTP/2, which is only ever agreed on over TLS, has none.
    host_header: Option<HeaderValue>,
    origin: String,
    transport: HttpClient,
    admission: admission::BackendAdmission,
    closing: delete_queue::DeleteQueue,
    pools: ArcSwap<ConnectionPools>,
    contact: ArcSwap<UpstreamSettings>,
    /// Copy of the flag in `contact`: each call reads it several times.
    shares_session: AtomicBool,
    headers: ArcSwap<RequestHeaders>,
    protocol: Protocol,
    /// When it was last seen to lose a session again and again.
    forgot: ArcSwapOption<Instant>,
    /// What is open of HTTP+SSE.
    sse: http_sse::SseStreams,
    /// The processor time that its lists have taken.
    meter: Arc<ComputeMeter>,
    requests: own_request_id::RequestCounter,
    /// Where what is buffered of its answers is counted.
    account: Account,
    /// Where what it offers is counted.
    catalog_account: Account,
    /// Where what it lists to single sessions is counted.
    session_catalog_account: Account,
    session_list_hint: session_list_hint::SessionListHint,
    /// The session of all clients, where they share one.
    shared: shared_session::SharedSessionState,
    /// It has refused a session because it has one for everybody, and no other was opened since.
    has_single_session: AtomicBool,
}

/// A session at a backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamSession {
    /// The id that the backend gave, if it gives ids; many do not.
    pub id: Option<HeaderValue>,
    /// The revision that the backend agreed to.
    pub revision: Revision,
    /// The address at which it is, where the backend's host is a name and gives ids: the id is never sent to another.
    pub address: Option<IpAddr>,
    /// What a balancer in front of the backend finds its server by. They tell no two sessions apart.
    pub cookies: Cookies,
}

impl UpstreamSession {
    /// Whether answers have set cookies that no other process knows and should.
    #[must_use]
    pub fn has_cookies_to_store(&self) -> bool {
        self.cookies.want_storing(clock::unix_seconds)
    }
}

impl Backend {
    /// The backend that is configured so.
    #[must_use]
    pub fn new(configured: &config::BackendSettings, transport: HttpClient) -> Self {
        let config::BackendSettings {
            name,
            url,
            protocol,
            contact,
            ..
        } = configured.clone();
        let (origin, host_header) = (origin(&url, protocol), host_header(&url));
        let transport = transport.counted_apart();
        let (account, catalog_account) = (transport.budget().backend(), transport.budget().catalog());
        let session_catalog_account = transport.budget().session_catalog();
        let pools = ConnectionPools::new(&transport, &url, &contact);
        Self {
            inner: Arc::new(Inner {
                name,
                url,
                host_header,
                origin,
                transport,
                admission: admission::BackendAdmission::default(),
                closing: delete_queue::DeleteQueue::default(),
                pools: ArcSwap::from_pointee(pools),
                headers: ArcSwap::from_pointee(RequestHeaders::new(&contact.headers)),
                shares_session: AtomicBool::new(contact.shares_session),
                contact: ArcSwap::new(contact),
                protocol,
                forgot: ArcSwapOption::empty(),
                sse: http_sse::SseStreams::default(),
                meter: Arc::default(),
                requests: own_request_id::RequestCounter::default(),
                account,
                catalog_account,
                session_catalog_account,
                session_list_hint: session_list_hint::SessionListHint::default(),
                shared: shared_session::SharedSessionState::default(),
                has_single_session: AtomicBool::new(false),
            }),
            passed: None,
            session_owner: own_request_id::SessionOwner::default(),
        }
    }

    /// The name under which it is configured.
    #[must_use]
    pub fn name(&self) -> &BackendName {
        &self.inner.name
    }

    /// Its endpoint.
    #[must_use]
    pub fn url(&self) -> &Uri {
        &self.inner.url
    }

    /// Whether it is the one that is configured so, if perhaps talked to in another manner.
    #[must_use]
    pub fn is(&self, configured: &config::BackendSettings) -> bool {
        let inner = &self.inner;
        (&inner.name, &inner.url, inner.protocol) == (&configured.name, &configured.url, configured.protocol)
    }

    /// Whether its sessions live in connections of this process, and mean nothing to any other.
    #[must_use]
    pub fn has_streams_for_sessions(&self) -> bool {
        self.inner.protocol == Protocol::Sse
    }

    /// Says that it loses a session again and again.
    pub fn forgets_sessions(&self) {
        if !self.needs_affinity() {
            tracing::warn!(backend = %self.name(), "the backend loses its sessions again and again; they are not opened anew for a while");
        }
        self.inner.forgot.store(Some(Arc::new(Instant::now())));
    }

    /// Whether it has lost a session again and again lately, as a server does that has replicas and no session affinity.
    #[must_use]
    pub fn needs_affinity(&self) -> bool {
        let forgot = self.inner.forgot.load();
        forgot.as_ref().is_some_and(|at| at.elapsed() < FORGETFUL_FOR)
    }

    /// Whether it has one session for everybody, so that calls of clients fail.
    #[must_use]
    pub fn has_single_session(&self) -> bool {
        self.inner.has_single_session.load(Ordering::Relaxed)
    }

    /// Whether it is listed in each client's own session.
    #[must_use]
    pub fn lists_per_session(&self) -> bool {
        self.contact().catalog == CatalogScope::PerSession
    }

    fn tasks(&self) -> &Tasks {
        self.inner.transport.tasks()
    }

    /// Runs `work` on the threads for what may take long. It counts as the backend's.
    ///
    /// # Errors
    /// When it fails.
    pub(crate) async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WorkFailed> {
        self.tasks().compute().run(self.meter(), work).await
    }

    /// The processor time that its lists have taken: to read them, and to offer what they hold.
    #[must_use]
    pub(crate) fn meter(&self) -> &Arc<ComputeMeter> {
        &self.inner.meter
    }

    /// How it is talked to.
    #[must_use]
    pub fn contact(&self) -> Guard<Arc<UpstreamSettings>> {
        self.inner.contact.load()
    }

    /// How many connections to it are open, in use or not.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.inner.transport.open()
    }

    /// Talks to it as `contact` says from now on. Requests under way go on as they began.
    pub fn set_contact(&self, contact: &Arc<UpstreamSettings>) {
        let inner = &*self.inner;
        if !inner.pools.load().fit(contact) {
            let pools = ConnectionPools::new(&inner.transport, &inner.url, contact);
            inner.pools.store(Arc::new(pools));
        }
        if self.contact().headers != contact.headers {
            self.inner
                .headers
                .store(Arc::new(RequestHeaders::new(&contact.headers)));
        }
        inner
            .shares_session
            .store(contact.shares_session, Ordering::Relaxed);
        inner.contact.store(Arc::clone(contact));
    }

    /// The same backend, called for a client whose request had these headers: those that may be passed on are.
    #[must_use]
    pub fn on_behalf_of(mut self, client: &HeaderMap) -> Self {
        let mut passed = HeaderMap::new();
        for name in &self.contact().pass_headers {
            for value in client.get_all(name) {
                passed.append(name.clone(), value.clone());
            }
        }
        self.passed = (!passed.is_empty()).then(|| Arc::new(passed));
        self
    }

    /// The deadline of a call that begins now: of the tool of that name there, or of anything else.
    #[must_use]
    pub fn deadline(&self, tool: Option<&str>) -> Deadline {
        let timeouts = &self.contact().timeouts;
        Deadline::new(timeouts.of_call(tool), timeouts.extend_on_progress)
    }

    /// The deadline of a call that goes on now, and of which it is not known whether it is of a tool, or of which.
    #[must_use]
    pub fn deadline_of_any(&self) -> Deadline {
        let timeouts = &self.contact().timeouts;
        Deadline::new(timeouts.longest_call(), timeouts.extend_on_progress)
    }

    /// Where what is buffered of its answers is counted.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.inner.account
    }

    /// Where what it lists to single sessions is counted.
    #[must_use]
    pub fn session_catalog_account(&self) -> &Account {
        &self.inner.session_catalog_account
    }

    /// A digest of where it is. A session id that one origin gave is never sent to another.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.inner.origin
    }
}

/// The connection would write it anew for each request.
fn host_header(url: &Uri) -> Option<HeaderValue> {
    if url.scheme() != Some(&http::uri::Scheme::HTTP) {
        return None;
    }
    let name = url.host()?;
    let host = match url.port_u16() {
        None | Some(80) => HeaderValue::try_from(name),
        Some(port) => HeaderValue::try_from(format!("{name}:{port}")),
    };
    host.ok()
}

fn origin(url: &Uri, protocol: Protocol) -> String {
    // The two transports of one URL know nothing of each other's sessions.
    let place = match protocol {
        Protocol::StreamableHttp => url.to_string(),
        Protocol::Sse => format!("sse {url}"),
    };
    let digest = Sha256::digest(place.as_bytes());
    base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, &digest[..12])
}
