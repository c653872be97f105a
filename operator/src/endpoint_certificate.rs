//! The Secret with the certificate of the MCP endpoint.

use k8s_openapi::api::core::v1::Secret;
use kube::{Client, ResourceExt as _};
use vmcp_crds::v1alpha1::VirtualMCPServer;

use crate::api_server::{ObjectApi, ObjectName};
use crate::desired::CERTIFICATE_KEYS;
use crate::error::Error;
use crate::policy::Policy;

/// The field that names the Secret.
const FIELD: &str = "spec.tls.certificateRef";

/// Why the certificate of the endpoint cannot be used: the reason and the message of the condition. `None` if it can, or if the endpoint has
/// no TLS.
///
/// # Errors
/// When the API server rejects the request or does not answer.
pub async fn problem(
    client: &Client,
    server: &VirtualMCPServer,
    policy: &Policy,
) -> Result<Option<(&'static str, String)>, Error> {
    let Some(tls) = &server.spec.tls else {
        return Ok(None);
    };
    let name = &tls.certificate_ref.name;
    let secrets = ObjectApi::<Secret>::in_namespace(client, &server.namespace().unwrap_or_default())?;
    let secret = secrets.get(&ObjectName::parse(name)?).await?;
    Ok(problem_of(name, secret.as_ref(), policy))
}

fn problem_of(name: &str, secret: Option<&Secret>, policy: &Policy) -> Option<(&'static str, String)> {
    let Some(secret) = secret else {
        let message = format!("{FIELD} names Secret {name}, which does not exist in this namespace");
        return Some(("SecretNotFound", message));
    };
    if let Err(message) = policy.check_secret(secret) {
        return Some(("SecretNotAllowed", format!("{FIELD}: {message}")));
    }
    let is_filled = |key: &&str| {
        let value = secret.data.as_ref().and_then(|data| data.get(*key));
        value.is_some_and(|value| !value.0.is_empty())
    };
    let missing = CERTIFICATE_KEYS.iter().find(|key| !is_filled(key))?;
    let message = format!(
        "{FIELD} names Secret {name}, which has no key {missing}: it must be of the type kubernetes.io/tls, with tls.crt and tls.key"
    );
    Some(("SecretKeyNotFound", message))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "the calls read better")]
    fn reason(data: Json, policy: &Policy) -> Option<(&'static str, String)> {
        let secret: Secret =
            serde_json::from_value(json!({"metadata": {"name": "cert"}, "data": data})).unwrap();
        problem_of("cert", Some(&secret), policy)
    }

    #[test]
    fn unusable_certificate_is_reported_with_field() {
        let policy = Policy::default();
        let full = json!({"tls.crt": "YQ==", "tls.key": "YQ=="});
        assert_eq!(reason(full.clone(), &policy), None);
        for (data, expected) in [
            (json!({"tls.crt": "YQ=="}), "has no key tls.key"),
            (json!({"tls.crt": "", "tls.key": "YQ=="}), "has no key tls.crt"),
        ] {
            let (reason, message) = reason(data, &policy).unwrap();
            assert_eq!(reason, "SecretKeyNotFound");
            assert!(
                message.starts_with("spec.tls.certificateRef ") && message.contains(expected),
                "{message}"
            );
        }
        assert_eq!(problem_of("cert", None, &policy).unwrap().0, "SecretNotFound");
        let strict = Policy {
            secret_label: Some("vmcp.dev/usable".parse().unwrap()),
            ..Policy::default()
        };
        assert_eq!(reason(full, &strict).unwrap().0, "SecretNotAllowed");
    }
}
