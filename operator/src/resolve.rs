//! References: what the spec names, as values.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt as _};
use vmcp_crds::session_key::SessionKey;
use vmcp_crds::v1alpha1::{SecretKeyRef, SessionStorageProvider, VirtualMCPServer};

use crate::api_server::{ObjectName, Objects};
use crate::desired::Backend;
use crate::error::Error;
use crate::policy::Policy;
use crate::session_keys::{self, SessionKeys};
use crate::watch::Stores;

/// The members of the group of `server`, sorted by name; `None` when there is no such group.
#[must_use]
pub fn backends(server: &VirtualMCPServer, stores: &Stores) -> Option<Vec<Backend>> {
    let namespace = server.namespace().unwrap_or_default();
    let group = &server.spec.group_ref.name;
    stores.groups.get(&ObjectRef::new(group).within(&namespace))?;
    let members = stores.entries.state_filter(|entry| {
        entry.metadata.namespace.as_deref() == Some(namespace.as_str()) && entry.spec.group_ref.name == *group
    });
    let mut backends: Vec<Backend> = members
        .iter()
        .map(|entry| Backend {
            name: entry.name_any(),
            url: entry.spec.url.clone(),
        })
        .collect();
    backends.sort_by(|a, b| a.name.cmp(&b.name));
    Some(backends)
}

/// The Secrets that a virtual server needs.
#[derive(Debug)]
pub enum Secrets {
    /// They are there.
    Resolved {
        /// The key that signs session ids.
        key: SessionKey,
        /// Whether the session keys were made just now.
        new_keys: bool,
        /// A MAC of the Redis password under that key, if the spec names a password.
        password_mac: Option<String>,
    },
    /// One is missing or does not hold what it should.
    Unresolved {
        /// Why, in one word.
        reason: &'static str,
        /// Why, for people.
        message: String,
        /// Whether only a person can help; otherwise the operator waits for the Secret.
        stalled: bool,
    },
}

/// Reads the Secrets of `server`, and makes its session keys when there are none.
///
/// # Errors
/// When the API server refuses or does not answer.
pub async fn secrets(client: &Client, server: &VirtualMCPServer, policy: &Policy) -> Result<Secrets, Error> {
    let (key, new_keys) = match session_keys::ensure(client, server, policy).await? {
        SessionKeys::Ready { current, new } => (current, new),
        SessionKeys::Unusable(message) => {
            return Ok(Secrets::Unresolved {
                reason: "SessionKeysInvalid",
                message,
                stalled: true,
            });
        }
        SessionKeys::NotAllowed(message) => {
            return Ok(Secrets::Unresolved {
                reason: "SecretNotAllowed",
                message,
                stalled: false,
            });
        }
    };
    let mut password_mac = None;
    if let Some(reference) = password_ref(server) {
        let namespace = server.namespace().unwrap_or_default();
        let secrets = Objects::<Secret>::of(client, &namespace)?;
        let secret = secrets.get(&ObjectName::parse(&reference.name)?).await?;
        let allowed = secret
            .as_ref()
            .map_or(Ok(()), |secret| policy.check_secret(secret));
        if let Err(message) = allowed {
            return Ok(Secrets::Unresolved {
                reason: "SecretNotAllowed",
                message: format!("spec.sessionStorage.passwordRef: {message}"),
                stalled: false,
            });
        }
        match password(reference, secret.as_ref()) {
            Ok(password) => {
                let mac = key.mac("vmcp redis password", &[password]);
                password_mac = Some(BASE64_URL_SAFE_NO_PAD.encode(mac));
            }
            Err((reason, message)) => {
                return Ok(Secrets::Unresolved {
                    reason,
                    message,
                    stalled: false,
                });
            }
        }
    }
    Ok(Secrets::Resolved {
        key,
        new_keys,
        password_mac,
    })
}

/// The reference to the Redis password, if there is one and it matters.
#[must_use]
pub fn password_ref(server: &VirtualMCPServer) -> Option<&SecretKeyRef> {
    let storage = server.spec.session_storage.as_ref()?;
    let reference = storage.password_ref.as_ref()?;
    (storage.provider == SessionStorageProvider::Redis).then_some(reference)
}

fn password<'a>(
    reference: &SecretKeyRef,
    secret: Option<&'a Secret>,
) -> Result<&'a [u8], (&'static str, String)> {
    let SecretKeyRef { name, key } = reference;
    let Some(secret) = secret else {
        return Err((
            "SecretNotFound",
            format!(
                "spec.sessionStorage.passwordRef names Secret {name}, which does not exist in this namespace"
            ),
        ));
    };
    let value = secret.data.as_ref().and_then(|data| data.get(key));
    value.map(|value| value.0.as_slice()).ok_or_else(|| {
        (
            "SecretKeyNotFound",
            format!(
                "spec.sessionStorage.passwordRef names key {key} of Secret {name}, which has no such key"
            ),
        )
    })
}
