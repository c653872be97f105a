//! Resolves the references of a spec: the group's members and the Secrets.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt as _};
use vmcp_crds::config::BackendConfig;
use vmcp_crds::session_key::SessionKey;
use vmcp_crds::v1alpha1::{MCPGroup, MCPServerEntry, SecretKeyRef, VirtualMCPServer};

use crate::api_server::{ObjectApi, ObjectName};
use crate::desired::Backend;
use crate::endpoint_certificate;
use crate::error::Error;
use crate::policy::Policy;
use crate::session_keys::{self, SessionKeySecret};
use crate::watch::ReflectorStores;

/// The members of the group of `server`, sorted by name; `None` if the group does not exist.
#[must_use]
pub fn backends(server: &VirtualMCPServer, stores: &ReflectorStores) -> Option<Vec<Backend>> {
    let namespace = server.namespace().unwrap_or_default();
    let group = &server.spec.group_ref.name;
    let group = stores.groups.get(&ObjectRef::new(group).within(&namespace))?;
    let timeouts = &server.spec.operational.timeouts;
    let members = members(&group, stores);
    let configs: Vec<BackendConfig> = members.iter().map(|entry| entry.to_config(timeouts)).collect();
    Some(Backend::check_all(configs, &server.spec.hot.aggregation))
}

/// The members of `group`, sorted by name.
#[must_use]
pub fn members(group: &MCPGroup, stores: &ReflectorStores) -> Vec<Arc<MCPServerEntry>> {
    let mut members = stores.entries.state_filter(|entry| {
        entry.metadata.namespace == group.metadata.namespace && group.has_member(entry)
    });
    members.sort_by_key(|entry| entry.name_any());
    members
}

/// Result of resolving the Secrets that a virtual server needs.
#[derive(Debug)]
pub enum SecretResolution {
    /// All Secrets exist and are valid.
    Resolved {
        /// The key that signs session ids.
        key: SessionKey,
        /// Whether the session keys have just been created.
        new_keys: bool,
        /// A MAC of the Redis password, keyed with that key, if the spec references a password.
        password_mac: Option<String>,
    },
    /// A Secret is missing, invalid, or not allowed.
    Unresolved {
        /// The reason of the condition, in CamelCase.
        reason: &'static str,
        /// The message of the condition.
        message: String,
        /// Whether a user has to act; otherwise the operator waits for the Secret.
        stalled: bool,
    },
}

/// Reads the Secrets of `server`, and creates its session keys if there are none.
///
/// # Errors
/// When the API server rejects a request or does not answer.
pub async fn secrets(
    client: &Client,
    server: &VirtualMCPServer,
    policy: &Policy,
) -> Result<SecretResolution, Error> {
    let (key, new_keys) = match session_keys::ensure(client, server, policy).await? {
        SessionKeySecret::Ready { current, new } => (current, new),
        SessionKeySecret::Unusable(message) => {
            return Ok(SecretResolution::Unresolved {
                reason: "SessionKeysInvalid",
                message,
                stalled: true,
            });
        }
        SessionKeySecret::NotAllowed(message) => {
            return Ok(SecretResolution::Unresolved {
                reason: "SecretNotAllowed",
                message,
                stalled: false,
            });
        }
    };
    let mut password_mac = None;
    if let Some(reference) = server.spec.redis_password_ref() {
        let namespace = server.namespace().unwrap_or_default();
        let secrets = ObjectApi::<Secret>::in_namespace(client, &namespace)?;
        let secret = secrets.get(&ObjectName::parse(&reference.name)?).await?;
        let allowed = secret
            .as_ref()
            .map_or(Ok(()), |secret| policy.check_secret(secret));
        if let Err(message) = allowed {
            return Ok(SecretResolution::Unresolved {
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
                return Ok(SecretResolution::Unresolved {
                    reason,
                    message,
                    stalled: false,
                });
            }
        }
    }
    if let Some((reason, message)) = endpoint_certificate::problem(client, server, policy).await? {
        return Ok(SecretResolution::Unresolved {
            reason,
            message,
            stalled: false,
        });
    }
    Ok(SecretResolution::Resolved {
        key,
        new_keys,
        password_mac,
    })
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
