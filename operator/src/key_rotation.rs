//! Decides whether to rotate the session keys. Pure functions.
//!
//! A rotation moves `next` to `current`, `current` to `previous`, and makes a new `next`. A session is valid while one of the three signs its id,
//! so a second rotation before the last session of the first has ended would end sessions, and is refused.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use vmcp_crds::config::SessionStorage;
use vmcp_crds::session_key::{CURRENT, NEXT, PREVIOUS, SessionKey};
use vmcp_crds::v1alpha1::VirtualMCPServer;

use crate::desired::labels;
use crate::error::Error;

/// Maximum length of a request, which is copied to the Secret.
const MAX_REQUEST_BYTES: usize = 256;

/// What to do about a request to rotate the keys.
#[derive(Debug)]
pub enum RotationStep {
    /// There is no request, or it has been answered.
    Nothing,
    /// Write this Secret, which has the rotated keys.
    Rotate(Box<Secret>),
    /// Write this Secret, which records that the request was refused, and why.
    Refuse(Box<Secret>, String),
    /// The request was refused before, or cannot be recorded.
    Refused(String),
}

/// The request in the annotation of `server`.
#[must_use]
pub fn request(server: &VirtualMCPServer) -> Option<&str> {
    let request = server.annotations().get(labels::ROTATE_SESSION_KEYS)?;
    (!request.is_empty()).then_some(request)
}

/// The next step for `secret`, which holds the keys of `server`. `is_ours`: the operator created it.
///
/// # Errors
/// When no random bytes are available.
pub fn next_step(
    server: &VirtualMCPServer,
    secret: &Secret,
    is_ours: bool,
    now: Timestamp,
) -> Result<RotationStep, Error> {
    let Some(request) = request(server) else {
        return Ok(RotationStep::Nothing);
    };
    let annotation = |name: &str| secret.annotations().get(name).map(String::as_str);
    if annotation(labels::ROTATION) == Some(request) {
        return Ok(RotationStep::Nothing);
    }
    let refusal = |why: &str| {
        format!(
            "the session keys were not rotated for the annotation {}: {why}",
            labels::ROTATE_SESSION_KEYS
        )
    };
    if request.len() > MAX_REQUEST_BYTES {
        let why = format!("its value has more than {MAX_REQUEST_BYTES} bytes");
        return Ok(RotationStep::Refused(refusal(&why)));
    }
    if !is_ours {
        let why = format!(
            "the operator did not create Secret {}; change the keys in it yourself",
            secret.name_any()
        );
        return Ok(RotationStep::Refused(refusal(&why)));
    }
    let until = rotation_allowed_at(server, secret);
    let why = match until {
        Some(until) if until > now => format!(
            "the last rotation is too recent, and sessions of the previous key are valid until {until}; after that, set another value"
        ),
        _ => "the last rotation was too recent; set another value".to_owned(),
    };
    if annotation(labels::REFUSED_ROTATION) == Some(request) {
        return Ok(RotationStep::Refused(refusal(&why)));
    }
    let mut secret = secret.clone();
    if until.is_some_and(|until| until > now) {
        annotate(&mut secret, labels::REFUSED_ROTATION, request);
        return Ok(RotationStep::Refuse(Box::new(secret), refusal(&why)));
    }
    let data = secret.data.get_or_insert_default();
    if !has_key(data, NEXT) {
        let why = format!("the Secret has no valid key in `{NEXT}`, which the pods would know already");
        return Ok(RotationStep::Refused(refusal(&why)));
    }
    let next = data.insert(NEXT.to_owned(), new_key()?);
    let current = next.and_then(|next| data.insert(CURRENT.to_owned(), next));
    if let Some(current) = current {
        data.insert(PREVIOUS.to_owned(), current);
    }
    annotate(&mut secret, labels::ROTATION, request);
    annotate(&mut secret, labels::ROTATED_AT, &now.to_string());
    Ok(RotationStep::Rotate(Box::new(secret)))
}

/// The text form of a new key.
///
/// # Errors
/// When no random bytes are available.
pub fn new_key() -> Result<ByteString, Error> {
    let key = SessionKey::generate().map_err(|error| Error::Randomness {
        purpose: "session keys",
        cause: error.to_string(),
    })?;
    Ok(ByteString(key.to_text().into_bytes()))
}

fn annotate(secret: &mut Secret, name: &str, value: &str) {
    secret.annotations_mut().insert(name.to_owned(), value.to_owned());
}

fn has_key(data: &BTreeMap<String, ByteString>, slot: &str) -> bool {
    let text = data
        .get(slot)
        .and_then(|bytes| std::str::from_utf8(&bytes.0).ok());
    text.is_some_and(|text| SessionKey::parse(text).is_ok())
}

/// When no session of the previous key can be valid any more; `None` if the keys have not been rotated.
fn rotation_allowed_at(server: &VirtualMCPServer, secret: &Secret) -> Option<Timestamp> {
    let rotated_at: Timestamp = secret.annotations().get(labels::ROTATED_AT)?.parse().ok()?;
    let storage = server.spec.session_storage.as_ref();
    let max_lifetime = storage.map_or_else(SessionStorage::default, |storage| storage.settings.clone());
    rotated_at.checked_add(max_lifetime.max_lifetime.get()).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    fn server(request: &str) -> VirtualMCPServer {
        serde_json::from_value(json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "VirtualMCPServer",
            "metadata": {"name": "x", "namespace": "n", "annotations": {labels::ROTATE_SESSION_KEYS: request}},
            "spec": {"groupRef": {"name": "g"}, "sessionStorage": {"provider": "memory", "maxLifetime": "1h"}},
        }))
        .unwrap()
    }

    fn secret() -> Secret {
        let mut secret: Secret = serde_json::from_value(json!({"metadata": {"name": "keys"}})).unwrap();
        let key = || new_key().unwrap();
        secret.data = Some([(CURRENT.to_owned(), key()), (NEXT.to_owned(), key())].into());
        secret
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn rotate(secret: &Secret, request: &str, second: i64) -> Secret {
        match next_step(&server(request), secret, true, at(second)).unwrap() {
            RotationStep::Rotate(secret) => *secret,
            other => panic!("{other:?}"),
        }
    }

    // The keys move by one slot, once for each request.
    #[test]
    fn rotation_moves_keys_once() {
        let first = secret();
        let second = rotate(&first, "a", 0);
        let (before, after) = (first.data.unwrap(), second.data.clone().unwrap());
        assert_eq!(after[CURRENT], before[NEXT]);
        assert_eq!(after[PREVIOUS], before[CURRENT]);
        assert!(!before.values().any(|key| *key == after[NEXT]));
        let again = next_step(&server("a"), &second, true, at(9_999_999)).unwrap();
        assert!(matches!(again, RotationStep::Nothing), "{again:?}");
        let none = next_step(&server(""), &second, true, at(0)).unwrap();
        assert!(matches!(none, RotationStep::Nothing), "{none:?}");
    }

    // A second rotation while sessions of the previous key may be valid is refused for good, and a later request is not.
    #[test]
    fn rotation_within_max_lifetime_is_refused() {
        let rotated = rotate(&secret(), "a", 0);
        let RotationStep::Refuse(refused, message) =
            next_step(&server("b"), &rotated, true, at(3599)).unwrap()
        else {
            panic!("it must be refused");
        };
        assert!(message.contains("1970-01-01T01:00:00Z"), "{message}");
        assert_eq!(refused.data, rotated.data);
        for second in [3599, 9999] {
            let again = next_step(&server("b"), &refused, true, at(second)).unwrap();
            assert!(matches!(again, RotationStep::Refused(_)), "{again:?}");
        }
        rotate(&refused, "c", 3600);
    }

    #[test]
    fn unsuitable_secret_or_request_is_refused() {
        let step = |request: &str, secret: &Secret, is_ours| {
            next_step(&server(request), secret, is_ours, at(0)).unwrap()
        };
        let mut without_next = secret();
        without_next.data.as_mut().unwrap().remove(NEXT);
        for (step, expected) in [
            (step("a", &secret(), false), "did not create Secret keys"),
            (step("a", &without_next, true), "no valid key in `next`"),
            (step(&"x".repeat(257), &secret(), true), "more than 256 bytes"),
        ] {
            let RotationStep::Refused(message) = step else {
                panic!("{step:?}");
            };
            assert!(message.contains(expected), "{message}");
            assert!(!Json::from(message).to_string().contains("xxxxx"));
        }
    }
}
