//! The upstream side: MCP servers and how to talk to them.
//!
//! A [`Backend`] is one server. What it has to be told per client session is an [`UpstreamSession`], which is data: whoever
//! holds it, in whichever process, can go on with it.

mod admission;
mod answer;
mod body;
mod breaker;
mod deadline;
mod error;
mod events;
mod greeting;
mod handshake;
mod list;
mod listen;
mod post;
mod settings;
mod slots;
mod transport;

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use http::{HeaderValue, Uri};
use sha2::{Digest as _, Sha256};

use crate::config::{BackendName, Contact};
use crate::wire::revision::Revision;

use transport::Pool;

pub use admission::Admitted;
pub use answer::{Answer, check};
pub use body::UpstreamBody;
pub use breaker::BreakerState;
pub use deadline::Deadline;
pub use error::BackendError;
pub use events::Events;
pub use greeting::{Capabilities, Greeting};
pub use handshake::Hello;
pub use list::{Kind, List, Listed};
pub use listen::{Listener, Silent, position, retry};
pub use transport::Transport;

/// One MCP server. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct Backend {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: BackendName,
    url: Uri,
    origin: String,
    transport: Transport,
    admission: admission::Admission,
    pool: ArcSwap<Pool>,
    contact: ArcSwap<Contact>,
}

/// A session at a backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamSession {
    /// The id that the backend gave, if it gives ids; many do not.
    pub id: Option<HeaderValue>,
    /// The revision that the backend agreed to.
    pub revision: Revision,
}

impl Backend {
    /// The backend `name` at `url`, talked to as `contact` says.
    #[must_use]
    pub fn new(name: BackendName, url: Uri, contact: Arc<Contact>, transport: Transport) -> Self {
        let origin = origin(&url);
        let pool = transport.pool(contact.timeouts.connect);
        Self {
            inner: Arc::new(Inner {
                name,
                url,
                origin,
                transport,
                admission: admission::Admission::default(),
                pool: ArcSwap::from_pointee(pool),
                contact: ArcSwap::new(contact),
            }),
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

    /// How it is talked to.
    #[must_use]
    pub fn contact(&self) -> Guard<Arc<Contact>> {
        self.inner.contact.load()
    }

    /// Talks to it as `contact` says from now on. Requests under way go on as they began.
    pub fn set_contact(&self, contact: &Arc<Contact>) {
        let connect = contact.timeouts.connect;
        if self.inner.pool.load().connect() != connect {
            self.inner
                .pool
                .store(Arc::new(self.inner.transport.pool(connect)));
        }
        self.inner.contact.store(Arc::clone(contact));
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

    /// A digest of where it is. A session id that one origin gave is never sent to another.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.inner.origin
    }
}

fn origin(url: &Uri) -> String {
    let digest = Sha256::digest(url.to_string().as_bytes());
    base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, &digest[..12])
}
