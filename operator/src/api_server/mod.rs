//! The only access to the API server. It validates object names and request URLs.
//!
//! The client library puts an object's name into the URL without escaping it: a read of the Secret `?watch=1` would be a watch of
//! all Secrets. So [`ObjectApi`] takes an [`ObjectName`], which only [`ObjectName::parse`] makes, and the [`client`] checks every
//! request once more and gives it a deadline. `clippy.toml` forbids the library's own constructors elsewhere.

mod deadline;
mod namespace;
mod object_api;
mod object_name;
mod request_guard;
mod write_fence;

use kube::client::ClientBuilder;
use kube::{Client, Config};

pub use namespace::namespace_metadata;
pub use object_api::{NamespacedObject, ObjectApi};
pub use object_name::ObjectName;
pub use request_guard::REQUEST_TIMEOUT;
pub use write_fence::WriteFence;

/// A client that rejects requests that no valid object names produce, and ends each request at its deadline.
///
/// # Errors
/// When `config` names credentials or certificates that cannot be used.
pub fn client(config: Config) -> Result<Client, kube::Error> {
    fenced_client(config, WriteFence::default())
}

/// As [`client`]. Requests that write anything but a Lease are also rejected while `fence` is closed.
///
/// # Errors
/// As [`client`].
pub fn fenced_client(config: Config, fence: WriteFence) -> Result<Client, kube::Error> {
    Ok(ClientBuilder::try_from(config)?
        .with_layer(&request_guard::GuardLayer { fence })
        .build())
}
