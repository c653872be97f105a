//! The upstream side: MCP servers and the client for them.
//!
//! A [`Backend`] is one server. An [`UpstreamSession`] is plain data, so any replica that has the data can continue the session.

mod admission;
mod backend_era;
mod breaker;
mod client_headers;
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
mod http_request;
mod initialize;
mod initialize_result;
mod list_pages;
mod listed_items;
mod listen;
mod own_request_id;
mod request_headers;
mod response_events;
mod response_reader;
mod session_list_hint;
mod shared_session;
mod tls_files;
mod transport;
mod upstream_body;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Uri};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use vmcp_crds::config::CatalogScope;
use vmcp_crds::status::ProtocolEra;

use crate::budget::Account;
use crate::config::{self, BackendEndpoint, BackendName, BackendTransport, ServerCommand, UpstreamSettings};
use crate::mcp::revision::Revision;
use crate::runtime::clock;
use crate::runtime::compute::{ComputeMeter, WorkFailed};
use crate::runtime::tasks::Tasks;

use connection_pools::ConnectionPools;
use request_headers::RequestHeaders;
use transport::Transport;

pub use admission::CallPermit;
pub use breaker::BreakerState;
pub use client_headers::ClientHeaders;
pub use cookies::Cookies;
pub use deadline::Deadline;
pub use error::BackendError;
pub use http_client::HttpClient;
pub use initialize::InitializeParams;
pub use initialize_result::{InitializeResult, ServerCapabilities};
pub use listed_items::{BackendItem, BackendList, ListKind, MAX_ITEM_BYTES, MendedItems, OversizedItems};
pub use listen::{ListenStream, NoStream, position, retry};
pub use response_events::ResponseEvents;
pub use response_reader::{BackendResponse, MessageRole};
pub use shared_session::{ID_BLOCKS, SharedSession, random_id_block};
pub use transport::{ProcessExit, SessionScope};
pub use upstream_body::UpstreamBody;

/// How long a backend counts as losing its sessions after it was seen to.
const SESSION_LOSS_MEMORY: Duration = Duration::from_secs(600);

/// One MCP server. A cheap-clone handle.
///
/// ```
/// use vmcp_gateway::backend::{Backend, BreakerState, HttpClient};
/// use vmcp_gateway::config::HotSettings;
/// use vmcp_gateway::runtime::tasks::Tasks;
///
/// let directory = tempfile::tempdir().unwrap();
/// let file = directory.path().join("hot.yaml");
/// std::fs::write(&file, "backends: [{name: time, url: 'http://localhost:8000/mcp'}]").unwrap();
/// let settings = HotSettings::load(&file).unwrap();
/// let backend = Backend::new(&settings.backends[0], HttpClient::new(Tasks::default()));
/// assert_eq!(backend.name().as_str(), "time");
/// assert_eq!(backend.breaker(), BreakerState::Closed);
/// ```
#[derive(Clone, Debug)]
pub struct Backend {
    inner: Arc<Inner>,
    /// The client's headers that are passed through.
    passed: Option<Arc<HeaderMap>>,
    /// The owner of the sessions that the gateway's own requests use.
    session_owner: own_request_id::SessionOwner,
}

#[derive(Debug)]
struct Inner {
    name: BackendName,
    /// The URL of the MCP endpoint; `/` for a program.
    url: Uri,
    /// The `Host` header of requests over plain HTTP. Over TLS the connection may be HTTP/2, which has none.
    host_header: Option<HeaderValue>,
    origin: String,
    http_client: HttpClient,
    admission: admission::BackendAdmission,
    closing: delete_queue::DeleteQueue,
    pools: ArcSwap<ConnectionPools>,
    contact: ArcSwap<UpstreamSettings>,
    /// Copy of the flag in `contact`: each call reads it several times.
    shares_session: AtomicBool,
    /// Whether the state of a session may be lost (`sessionState: disposable`).
    is_disposable: AtomicBool,
    headers: ArcSwap<RequestHeaders>,
    transport: Transport,
    /// When it was last seen to lose a session repeatedly.
    lost_sessions_at: ArcSwapOption<Instant>,
    /// The CPU time spent on its lists.
    meter: Arc<ComputeMeter>,
    requests: own_request_id::RequestCounter,
    /// The budget account of its buffered responses.
    account: Account,
    /// The budget account of its lists.
    catalog_account: Account,
    /// The budget account of its lists for single sessions.
    session_catalog_account: Account,
    session_list_hint: session_list_hint::SessionListHint,
    /// The session of all clients, with `sharedSession`.
    shared: shared_session::SharedSessionState,
    /// Whether it last refused `initialize` because all clients have one session.
    has_single_session: AtomicBool,
    era: backend_era::ObservedEra,
}

/// A session at a backend, as plain data.
///
/// ```
/// use http::HeaderValue;
/// use vmcp_gateway::backend::{Cookies, UpstreamSession};
/// use vmcp_gateway::mcp::revision::Revision;
///
/// let session = UpstreamSession {
///     id: Some(HeaderValue::from_static("s1")),
///     revision: Revision::LATEST,
///     address: None,
///     cookies: Cookies::default(),
/// };
/// assert!(!session.has_cookies_to_store());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamSession {
    /// The backend's session id. Many backends give none.
    pub id: Option<HeaderValue>,
    /// The negotiated protocol revision.
    pub revision: Revision,
    /// The address that opened the session, where the host is a name and the backend gives ids. The id is never sent to another address.
    pub address: Option<IpAddr>,
    /// The cookies by which a load balancer finds the session's server. They do not take part in comparisons.
    pub cookies: Cookies,
}

impl UpstreamSession {
    /// Whether responses have set cookies that the store should have.
    #[must_use]
    pub fn has_cookies_to_store(&self) -> bool {
        self.cookies.is_store_due(clock::unix_seconds)
    }
}

impl Backend {
    /// Creates the backend for its configuration.
    #[must_use]
    pub fn new(configured: &config::BackendSettings, http_client: HttpClient) -> Self {
        let config::BackendSettings {
            name,
            endpoint,
            upstream: contact,
            disposable,
            ..
        } = configured.clone();
        let (origin, transport) = (origin(&endpoint), Transport::new(&endpoint));
        let url = match endpoint {
            BackendEndpoint::Http { url, .. } => url,
            BackendEndpoint::Command(_) => Uri::default(),
        };
        let host_header = host_header(&url);
        let http_client = http_client.with_own_gauge();
        let (account, catalog_account) = (http_client.budget().backend(), http_client.budget().catalog());
        let session_catalog_account = http_client.budget().session_catalog();
        let pools = ConnectionPools::new(&http_client, &url, &contact);
        Self {
            inner: Arc::new(Inner {
                name,
                url,
                host_header,
                origin,
                http_client,
                admission: admission::BackendAdmission::default(),
                closing: delete_queue::DeleteQueue::default(),
                pools: ArcSwap::from_pointee(pools),
                headers: ArcSwap::from_pointee(RequestHeaders::new(&contact.headers)),
                shares_session: AtomicBool::new(contact.shares_session),
                is_disposable: AtomicBool::new(disposable),
                contact: ArcSwap::new(contact),
                transport,
                lost_sessions_at: ArcSwapOption::empty(),
                meter: Arc::default(),
                requests: own_request_id::RequestCounter::default(),
                account,
                catalog_account,
                session_catalog_account,
                session_list_hint: session_list_hint::SessionListHint::default(),
                shared: shared_session::SharedSessionState::default(),
                has_single_session: AtomicBool::new(false),
                era: backend_era::ObservedEra::default(),
            }),
            passed: None,
            session_owner: own_request_id::SessionOwner::default(),
        }
    }

    /// The name in the configuration, for logs and metrics.
    #[must_use]
    pub fn name(&self) -> &BackendName {
        &self.inner.name
    }

    /// The URL of the MCP endpoint; `/` for a program.
    #[must_use]
    pub fn url(&self) -> &Uri {
        &self.inner.url
    }

    /// Whether `configured` describes this backend, apart from settings that can change at run time.
    #[must_use]
    pub fn is_configured_as(&self, configured: &config::BackendSettings) -> bool {
        let inner = &self.inner;
        let is_same_url = match &configured.endpoint {
            BackendEndpoint::Http { url, .. } => *url == inner.url,
            BackendEndpoint::Command(_) => true,
        };
        inner.name == configured.name && is_same_url && inner.transport.is_for(&configured.endpoint)
    }

    /// Records that the backend loses a session repeatedly, so that its sessions are not reopened for a while.
    pub fn note_repeated_session_loss(&self) {
        if !self.needs_affinity() {
            tracing::warn!(backend = %self.name(), "backend loses its sessions repeatedly; not reopening them for a while");
        }
        self.inner.lost_sessions_at.store(Some(Arc::new(Instant::now())));
    }

    /// Whether it recently lost a session repeatedly, like a server with replicas and no session affinity.
    #[must_use]
    pub fn needs_affinity(&self) -> bool {
        let lost_at = self.inner.lost_sessions_at.load();
        lost_at
            .as_ref()
            .is_some_and(|at| at.elapsed() < SESSION_LOSS_MEMORY)
    }

    /// Whether it has one session for all clients, so calls of clients fail.
    #[must_use]
    pub fn has_single_session(&self) -> bool {
        self.inner.has_single_session.load(Ordering::Relaxed)
    }

    /// The protocol era that its last answer to `initialize` showed; `None` until then.
    #[must_use]
    pub fn era(&self) -> Option<ProtocolEra> {
        self.inner.era.get()
    }

    /// The revision that its last answer to `initialize` negotiated; `None` until then.
    #[must_use]
    pub fn revision(&self) -> Option<Revision> {
        self.inner.era.revision()
    }

    /// Whether each client's session has its own lists.
    #[must_use]
    pub fn lists_per_session(&self) -> bool {
        self.contact().catalog == CatalogScope::PerSession
    }

    fn tasks(&self) -> &Tasks {
        self.inner.http_client.tasks()
    }

    /// Runs `work` on the compute threads and charges it to the backend.
    ///
    /// # Errors
    /// When `work` panics or the process is ending.
    pub(crate) async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WorkFailed> {
        self.tasks().compute().run(self.meter(), work).await
    }

    /// The CPU time spent on its lists: to read and to advertise them.
    #[must_use]
    pub(crate) fn meter(&self) -> &Arc<ComputeMeter> {
        &self.inner.meter
    }

    /// The connection settings in use: timeouts, headers, addresses.
    #[must_use]
    pub fn contact(&self) -> Guard<Arc<UpstreamSettings>> {
        self.inner.contact.load()
    }

    /// The number of open connections, in use or idle.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.inner.http_client.open()
    }

    /// Applies new connection settings. Running requests keep the old ones.
    pub fn set_contact(&self, contact: &Arc<UpstreamSettings>) {
        let inner = &*self.inner;
        if !inner.pools.load().is_valid_for(contact) {
            let pools = ConnectionPools::new(&inner.http_client, &inner.url, contact);
            inner.pools.store(Arc::new(pools));
        }
        if self.contact().headers != contact.headers {
            let headers = RequestHeaders::replacing(&inner.headers.load(), &contact.headers);
            inner.headers.store(Arc::new(headers));
        }
        inner
            .shares_session
            .store(contact.shares_session, Ordering::Relaxed);
        inner.contact.store(Arc::clone(contact));
    }

    /// Whether the state of a session may be lost, so that another upstream session is as good.
    #[must_use]
    pub fn is_disposable(&self) -> bool {
        self.inner.is_disposable.load(Ordering::Relaxed)
    }

    /// Applies the configured `sessionState`.
    pub fn set_disposable(&self, disposable: bool) {
        self.inner.is_disposable.store(disposable, Ordering::Relaxed);
    }

    /// Returns the backend for requests on behalf of a client, with the configured headers of `client` passed through.
    #[must_use]
    pub fn on_behalf_of(mut self, client: &ClientHeaders) -> Self {
        let Some(client) = client.get() else {
            return self;
        };
        let mut passed = HeaderMap::new();
        for name in &self.contact().pass_headers {
            for value in client.get_all(name) {
                passed.append(name.clone(), value.clone());
            }
        }
        self.passed = (!passed.is_empty()).then(|| Arc::new(passed));
        self
    }

    /// Starts the deadline of a call: of `tool`, or of another method.
    #[must_use]
    pub fn deadline(&self, tool: Option<&str>) -> Deadline {
        let timeouts = &self.contact().timeouts;
        Deadline::new(timeouts.for_call(tool), timeouts.extend_on_progress)
    }

    /// Starts the deadline of a resumed call whose tool is unknown.
    #[must_use]
    pub fn deadline_of_any(&self) -> Deadline {
        let timeouts = &self.contact().timeouts;
        Deadline::new(timeouts.longest_call(), timeouts.extend_on_progress)
    }

    /// Hides the values of the configured headers in the text of `error` that the backend may have written.
    fn hide_values(&self, error: BackendError) -> BackendError {
        error.hide_values(&self.inner.headers.load())
    }

    /// Hides the values of the configured headers in `text`, which the backend may have written.
    #[must_use]
    pub fn hide_values_in(&self, text: &str) -> String {
        self.inner.headers.load().hide_values(text)
    }

    /// Classifies a message on the stream of the request `id`, which carries requests and notifications of the backend, then the response.
    /// An error does not contain the values of the configured headers.
    #[must_use]
    pub fn read_message(&self, message: &Bytes, id: &RawValue) -> MessageRole {
        match response_reader::read(message, id) {
            MessageRole::MalformedAnswer(error) => MessageRole::MalformedAnswer(self.hide_values(error)),
            MessageRole::Unreadable(error) => MessageRole::Unreadable(self.hide_values(error)),
            role @ (MessageRole::Answer(_) | MessageRole::Other) => role,
        }
    }

    /// The budget account of its buffered responses.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.inner.account
    }

    /// The budget account of its lists for single sessions.
    #[must_use]
    pub fn session_catalog_account(&self) -> &Account {
        &self.inner.session_catalog_account
    }

    /// A digest of transport and URL, or of the program. A session id of one origin is never sent to another.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.inner.origin
    }
}

/// Formats the `Host` header once. Otherwise hyper would format it for each request.
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

fn origin(endpoint: &BackendEndpoint) -> String {
    // Two transports of one URL do not share sessions.
    let place = match endpoint {
        BackendEndpoint::Http {
            url,
            transport: BackendTransport::StreamableHttp,
        } => url.to_string(),
        BackendEndpoint::Http {
            url,
            transport: BackendTransport::Sse,
        } => format!("sse {url}"),
        BackendEndpoint::Command(command) => {
            let ServerCommand {
                program, arguments, ..
            } = &**command;
            format!("stdio {program:?} {arguments:?}")
        }
    };
    let digest = Sha256::digest(place.as_bytes());
    base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, &digest[..12])
}
