//! The Secret with the session keys: made once, then only rotated, never applied.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt as _};
use vmcp_crds::session_key::{CURRENT, NEXT, SessionKey};
use vmcp_crds::v1alpha1::VirtualMCPServer;

use crate::desired::{metadata, names};
use crate::error::{self, Error};

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
}

/// Reads the keys of `server`, and makes them when there are none.
///
/// # Errors
/// When the API server refuses or does not answer, or there is no randomness.
pub async fn ensure(client: &Client, server: &VirtualMCPServer) -> Result<SessionKeys, Error> {
    let namespace = server.namespace().unwrap_or_default();
    let name = names::session_keys(server);
    let api: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let failed = |action| {
        let (namespace, name) = (namespace.clone(), name.clone());
        move |source| Error::api::<Secret>(action, &namespace, &name, source)
    };
    if let Some(secret) = api.get_opt(&name).await.map_err(failed("read"))? {
        return Ok(read(&secret, false));
    }
    match api
        .create(&PostParams::default(), &new_secret(server, &name)?)
        .await
    {
        Ok(secret) => Ok(read(&secret, true)),
        // Somebody was faster; the keys that are there are the keys.
        Err(conflict) if error::code(&conflict) == Some(409) => {
            Ok(read(&api.get(&name).await.map_err(failed("read"))?, false))
        }
        Err(other) => Err(failed("create")(other)),
    }
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
