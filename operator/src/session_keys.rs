//! The Secret with the session keys. It is created once and never applied, because an apply would undo a rotation.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::{Client, ResourceExt as _};
use vmcp_crds::session_key::{CURRENT, NEXT, SessionKey};
use vmcp_crds::v1alpha1::VirtualMCPServer;

use crate::api_server::{ObjectApi, ObjectName};
use crate::desired::{metadata, names};
use crate::error::Error;
use crate::owner;
use crate::policy::Policy;

/// The session keys of a virtual server.
#[derive(Debug)]
pub enum SessionKeySecret {
    /// The keys exist.
    Ready {
        /// The key that signs new session ids.
        current: SessionKey,
        /// Whether the keys have just been created.
        new: bool,
    },
    /// The Secret exists but holds no valid keys. It is left unchanged: overwriting it could end every session.
    Unusable(String),
    /// The Secret exists, but the policy does not allow its use.
    NotAllowed(String),
}

/// Reads the keys of `server`, and creates them if there are none.
///
/// A Secret that a deleted virtual server left, or that is being deleted, is an error: sessions would be signed with a key that is
/// gone a moment later. A Secret without a controller was provided by a user, and is used if `policy` allows it.
///
/// # Errors
/// When the API server rejects a request or does not answer, the Secret has another owner or is being deleted, or no random bytes
/// are available.
pub async fn ensure(
    client: &Client,
    server: &VirtualMCPServer,
    policy: &Policy,
) -> Result<SessionKeySecret, Error> {
    let namespace = server.namespace().unwrap_or_default();
    let secrets = ObjectApi::<Secret>::in_namespace(client, &namespace)?;
    let name = ObjectName::parse(&names::session_keys(server))?;
    if let Some(secret) = secrets.get(&name).await? {
        return existing(&secret, server, policy);
    }
    match secrets.create(&new_secret(server, name.as_str())?).await {
        Ok(secret) => Ok(read(&secret, true)),
        // Another operator created them first: use those.
        Err(conflict) if conflict.is_already_exists() => match secrets.get(&name).await? {
            Some(secret) => existing(&secret, server, policy),
            None => Err(conflict),
        },
        Err(other) => Err(other),
    }
}

fn existing(secret: &Secret, server: &VirtualMCPServer, policy: &Policy) -> Result<SessionKeySecret, Error> {
    let (namespace, name) = (secret.namespace().unwrap_or_default(), secret.name_any());
    if secret.metadata.deletion_timestamp.is_some() {
        return Err(Error::being_deleted::<Secret>(&namespace, &name));
    }
    match owner::controller(&secret.metadata) {
        Some(_) if owner::is_controlled_by(secret, server) => {}
        Some(_) => {
            let wanted = metadata(server, name.clone());
            return Err(Error::not_owned::<Secret>(
                &namespace,
                &name,
                &wanted,
                &secret.metadata,
            ));
        }
        None => {
            if let Err(message) = policy.check_secret(secret) {
                return Ok(SessionKeySecret::NotAllowed(message));
            }
        }
    }
    Ok(read(secret, false))
}

fn read(secret: &Secret, new: bool) -> SessionKeySecret {
    let entry = secret.data.as_ref().and_then(|data| data.get(CURRENT));
    let key = entry
        .and_then(|bytes| std::str::from_utf8(&bytes.0).ok())
        .and_then(|text| SessionKey::parse(text).ok());
    match key {
        Some(current) => SessionKeySecret::Ready { current, new },
        None => SessionKeySecret::Unusable(format!(
            "Secret {} has no valid session key in `{CURRENT}`: set it to the output of `vmcp-gateway keygen`, or delete the \
             Secret to create new keys, which ends all sessions",
            secret.name_any(),
        )),
    }
}

fn new_secret(server: &VirtualMCPServer, name: &str) -> Result<Secret, Error> {
    let mut data = BTreeMap::new();
    for slot in [CURRENT, NEXT] {
        let key = SessionKey::generate().map_err(|error| Error::Randomness {
            purpose: "session keys",
            cause: error.to_string(),
        })?;
        data.insert(slot.to_owned(), ByteString(key.to_text().into_bytes()));
    }
    Ok(Secret {
        metadata: metadata(server, name.to_owned()),
        type_: Some("Opaque".to_owned()),
        data: Some(data),
        ..Secret::default()
    })
}
