//! The one way to the API server: it turns names into requests, and refuses what is not a name.
//!
//! A name of an object is part of a URL, and the client library puts it there as it is: `?watch=1` as the name of a Secret is a
//! watch of all Secrets. So [`Objects`] takes an [`ObjectName`], which only [`ObjectName::parse`] makes, and the [`client`] checks
//! each request again, whoever made it, and gives each one a deadline. `clippy.toml` refuses the library's own constructors
//! elsewhere.

mod deadline;
mod guard;
mod name;
mod objects;
mod words;

use kube::client::ClientBuilder;
use kube::{Client, Config};

pub use guard::REQUEST_DEADLINE;
pub use name::ObjectName;
pub use objects::{Object, Objects};
pub use words::{explain, explain_watch};

/// A client that refuses requests that no names make, and ends each request at its deadline.
///
/// # Errors
/// When `config` names credentials or certificates that cannot be used.
pub fn client(config: Config) -> Result<Client, kube::Error> {
    Ok(ClientBuilder::try_from(config)?
        .with_layer(&guard::GuardLayer)
        .build())
}
