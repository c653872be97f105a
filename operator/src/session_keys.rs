//! The Secret with the session keys: made once, then only rotated, never applied.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::{Client, ResourceExt as _};
use vmcp_crds::session_key::{CURRENT, NEXT, SessionKey};
use vmcp_crds::v1alpha1::VirtualMCPServer;

use crate::api_server::{ObjectName, Objects};
use crate::desired::{metadata, names};
use crate::error::Error;
use crate::owner;
use crate::policy::Policy;

/// The session keys of a virtual server.
#[derive(Debug)]
pub enum SessionKeys {
    /// They are there.
    Ready {
        /// The key that signs.
        current: SessionKey,
        /// Whether they were made just now.
        new: bool,
    },
    /// A Secret of their name is there, but holds no keys. It is left alone: overwriting it could end every session.
    Unusable(String),
    /// A Secret of their name is there, which this operator must not use.
    NotAllowed(String),
}

/// Reads the keys of `server`, and makes them when there are none. Keys that another virtual server left, or that are about to
/// go, are not taken: sessions would be signed with a key that is gone a moment later. Keys that nobody controls are somebody's
/// to give, and are used if `policy` allows it.
///
/// # Errors
/// When the API server refuses or does not answer, the Secret is of another owner or is being deleted, or there is no randomness.
pub async fn ensure(
    client: &Client,
    server: &VirtualMCPServer,
    policy: &Policy,
) -> Result<SessionKeys, Error> {
    let namespace = server.namespace().unwrap_or_default();
    let secrets = Objects::<Secret>::of(client, &namespace)?;
    let name = ObjectName::parse(&names::session_keys(server))?;
    if let Some(secret) = secrets.get(&name).await? {
        return existing(&secret, server, policy);
    }
    match secrets.create(&new_secret(server, name.as_str())?).await {
        Ok(secret) => Ok(read(&secret, true)),
        // Another operator was faster; the keys that are there are the keys.
        Err(conflict) if conflict.is_lost_race() => match secrets.get(&name).await? {
            Some(secret) => existing(&secret, server, policy),
            None => Err(conflict),
        },
        Err(other) => Err(other),
    }
}

fn existing(secret: &Secret, server: &VirtualMCPServer, policy: &Policy) -> Result<SessionKeys, Error> {
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
                return Ok(SessionKeys::NotAllowed(message));
            }
        }
    }
    Ok(read(secret, false))
}

fn read(secret: &Secret, new: bool) -> SessionKeys {
    let entry = secret.data.as_ref().and_then(|data| data.get(CURRENT));
    let key = entry
        .and_then(|bytes| std::str::from_utf8(&bytes.0).ok())
        .and_then(|text| SessionKey::parse(text).ok());
    match key {
        Some(current) => SessionKeys::Ready { current, new },
        None => SessionKeys::Unusable(format!(
            "Secret {} holds no session key under `{CURRENT}`: put one there as `vmcp-gateway keygen` prints it, or \
             delete the Secret to have new keys made, which ends all sessions",
            secret.name_any(),
        )),
    }
}

fn new_secret(server: &VirtualMCPServer, name: &str) -> Result<Secret, Error> {
    let mut data = BTreeMap::new();
    for slot in [CURRENT, NEXT] {
        let key = SessionKey::generate().map_err(|error| Error::Randomness {
            wanted: "session keys",
            why: error.to_string(),
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
