//! The upstream side: MCP servers and how to talk to them.
//!
//! A [`Backend`] is one server. What it has to be told per client session is an [`UpstreamSession`], which is data: whoever
//! holds it, in whichever process, can go on with it.

mod admission;
mod answer;
mod breaker;
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

use http::{HeaderValue, Uri};
use sha2::{Digest as _, Sha256};

use crate::config::BackendName;
use crate::wire::revision::Revision;

pub use admission::Admitted;
pub use answer::{Answer, check};
pub use breaker::BreakerState;
pub use error::BackendError;
pub use events::Events;
pub use greeting::{Capabilities, Greeting};
pub use handshake::Hello;
pub use list::{Kind, List, Listed};
pub use listen::{Listener, Silent, position, retry};
pub use transport::{Transport, UpstreamBody};

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
    /// The backend `name` at `url`.
    #[must_use]
    pub fn new(name: BackendName, url: Uri, transport: Transport) -> Self {
        let origin = origin(&url);
        Self {
            inner: Arc::new(Inner {
                name,
                url,
                origin,
                transport,
                admission: admission::Admission::default(),
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
