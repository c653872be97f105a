//! The Secret with the session keys. It is created once, and replaced by a rotation. It is never applied, because an apply would undo a
//! rotation.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Client, ResourceExt as _};
use vmcp_crds::session_key::{CURRENT, NEXT, PREVIOUS, SessionKey};
use vmcp_crds::v1alpha1::VirtualMCPServer;

use crate::api_server::{ObjectApi, ObjectName};
use crate::desired::{labels, metadata, names};
use crate::error::Error;
use crate::key_rotation::{self, RotationStep};
use crate::owner;
use crate::policy::Policy;

/// The session keys of a virtual server.
#[derive(Debug)]
pub enum SessionKeySecret {
    /// The keys exist.
    Ready {
        /// The keys.
        keys: SessionKeySet,
        /// What has just been done to them.
        change: Option<KeyChange>,
        /// Why a rotation was not done, if one was asked for.
        warning: Option<String>,
    },
    /// The Secret exists but holds no valid keys. It is left unchanged: overwriting it could end every session.
    Unusable(String),
    /// The Secret exists, but the policy does not allow its use.
    NotAllowed(String),
}

/// The keys that the operator needs.
#[derive(Debug)]
pub struct SessionKeySet {
    /// The key that signs new session ids.
    pub current: SessionKey,
    /// The key that signed them before the last rotation.
    pub previous: Option<SessionKey>,
    /// Whether pods may have mounted other keys: these were rotated, or replace lost ones.
    pub were_changed: bool,
}

/// What has been done to the keys.
#[derive(Debug)]
pub enum KeyChange {
    /// They have been created.
    Created,
    /// They have been rotated.
    Rotated,
    /// A rotation has been refused, for this reason.
    RotationRefused(String),
}

/// Reads the keys of `server`. Creates missing keys, and rotates them if the server's annotation asks for it.
///
/// A Secret that a deleted virtual server left, or that is being deleted, is an error: sessions would be signed with a key that is
/// gone a moment later. A Secret without a controller was provided by a user, and is used if `policy` allows it. With `has_deployment`, new
/// keys replace lost ones, which pods still have.
///
/// # Errors
/// When the API server rejects a request or does not answer, the Secret has another owner or is being deleted, or no random bytes
/// are available.
pub async fn ensure(
    client: &Client,
    server: &VirtualMCPServer,
    policy: &Policy,
    has_deployment: bool,
    now: Timestamp,
) -> Result<SessionKeySecret, Error> {
    let namespace = server.namespace().unwrap_or_default();
    let secrets = ObjectApi::<Secret>::in_namespace(client, &namespace)?;
    let name = ObjectName::parse(&names::session_keys(server))?;
    if let Some(secret) = secrets.get(&name).await? {
        return existing(&secrets, secret, server, policy, now).await;
    }
    match secrets
        .create(&new_secret(server, name.as_str(), has_deployment)?)
        .await
    {
        Ok(secret) => Ok(read(&secret, Some(KeyChange::Created), None)),
        // Another operator created them first: use those.
        Err(conflict) if conflict.is_already_exists() => match secrets.get(&name).await? {
            Some(secret) => existing(&secrets, secret, server, policy, now).await,
            None => Err(conflict),
        },
        Err(other) => Err(other),
    }
}

async fn existing(
    secrets: &ObjectApi<Secret>,
    secret: Secret,
    server: &VirtualMCPServer,
    policy: &Policy,
    now: Timestamp,
) -> Result<SessionKeySecret, Error> {
    let (namespace, name) = (secret.namespace().unwrap_or_default(), secret.name_any());
    if secret.metadata.deletion_timestamp.is_some() {
        return Err(Error::being_deleted::<Secret>(&namespace, &name));
    }
    let is_ours = match owner::controller(&secret.metadata) {
        Some(_) if owner::is_controlled_by(&secret, server) => true,
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
            if let Err(message) = policy.check_secret(&secret) {
                return Ok(SessionKeySecret::NotAllowed(message));
            }
            false
        }
    };
    match key_rotation::next_step(server, &secret, is_ours, now)? {
        RotationStep::Nothing => Ok(read(&secret, None, None)),
        RotationStep::Refused(warning) => Ok(read(&secret, None, Some(warning))),
        RotationStep::Rotate(rotated) => {
            let secret = secrets.replace(&rotated).await?;
            Ok(read(&secret, Some(KeyChange::Rotated), None))
        }
        RotationStep::Refuse(marked, warning) => {
            let secret = secrets.replace(&marked).await?;
            let change = KeyChange::RotationRefused(warning.clone());
            Ok(read(&secret, Some(change), Some(warning)))
        }
    }
}

fn read(secret: &Secret, change: Option<KeyChange>, warning: Option<String>) -> SessionKeySecret {
    let key = |slot: &str| {
        let bytes = secret.data.as_ref()?.get(slot)?;
        SessionKey::parse(std::str::from_utf8(&bytes.0).ok()?).ok()
    };
    match key(CURRENT) {
        Some(current) => SessionKeySecret::Ready {
            keys: SessionKeySet {
                current,
                previous: key(PREVIOUS),
                were_changed: [labels::ROTATED_AT, labels::REPLACES_LOST_KEYS]
                    .iter()
                    .any(|name| secret.annotations().contains_key(*name)),
            },
            change,
            warning,
        },
        None => SessionKeySecret::Unusable(format!(
            "Secret {} has no valid session key in `{CURRENT}`: set it to the output of `vmcp-gateway keygen`, or delete the \
             Secret to create new keys, which ends all sessions",
            secret.name_any(),
        )),
    }
}

fn new_secret(server: &VirtualMCPServer, name: &str, replaces_lost: bool) -> Result<Secret, Error> {
    let mut data = BTreeMap::new();
    for slot in [CURRENT, NEXT] {
        data.insert(slot.to_owned(), key_rotation::new_key()?);
    }
    let mut metadata = metadata(server, name.to_owned());
    // New keys answer a request to rotate them.
    let request = key_rotation::request(server).map(|request| (labels::ROTATION, request));
    let lost = replaces_lost.then_some((labels::REPLACES_LOST_KEYS, "true"));
    let annotations: BTreeMap<String, String> = request
        .into_iter()
        .chain(lost)
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    metadata.annotations = (!annotations.is_empty()).then_some(annotations);
    Ok(Secret {
        metadata,
        type_: Some("Opaque".to_owned()),
        data: Some(data),
        ..Secret::default()
    })
}
