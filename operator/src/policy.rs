//! The administrator's policy on the images and Secrets that virtual servers may use.

use std::str::FromStr;

use k8s_openapi::api::core::v1::{PodTemplateSpec, Secret};
use kube::ResourceExt as _;
use vmcp_crds::v1alpha1::field_rules::{object_name, quoted};

use crate::desired::pod_template;

/// The images and Secrets that a virtual server may use. By default any image, and any Secret of its namespace.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Prefixes of the allowed images; empty allows any image.
    pub image_prefixes: Vec<String>,
    /// The label that a Secret must have; `None` allows any Secret.
    pub secret_label: Option<SecretLabel>,
}

/// A required label: a key, and a value or any value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretLabel {
    key: String,
    value: Option<String>,
}

impl Policy {
    /// Checks whether the field `path` of a spec may be `image`.
    ///
    /// # Errors
    /// When the image is not allowed; the message says what is allowed.
    pub fn check_image(&self, path: &str, image: &str) -> Result<(), String> {
        if self.image_prefixes.is_empty()
            || self.image_prefixes.iter().any(|prefix| has_prefix(image, prefix))
        {
            return Ok(());
        }
        Err(format!(
            "{path} {} does not begin with an allowed prefix ({}): remove it to use the operator's default image, or ask the \
             operator's administrator to allow it",
            quoted(image),
            self.image_prefixes.join(", "),
        ))
    }

    /// Checks the images and the Secrets that a pod template names. With a required label, a template may name no Secret: it would reach the
    /// pod without the operator having read its labels.
    ///
    /// # Errors
    /// The reason of the condition and its message, when something is not allowed.
    pub fn check_template(&self, template: &PodTemplateSpec) -> Result<(), (&'static str, String)> {
        for (path, image) in pod_template::images(template) {
            self.check_image(&path, &image)
                .map_err(|message| ("ImageNotAllowed", message))?;
        }
        match (&self.secret_label, pod_template::secret_reference(template)) {
            (Some(label), Some(path)) => Err((
                "SecretNotAllowed",
                format!(
                    "{path}: the operator allows only Secrets with the label {label}, and none in a pod template"
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Checks whether a virtual server may use `secret`, which the operator did not create.
    ///
    /// # Errors
    /// When the required label is missing; the message names it.
    pub fn check_secret(&self, secret: &Secret) -> Result<(), String> {
        let Some(label) = &self.secret_label else {
            return Ok(());
        };
        let found = secret.labels().get(&label.key);
        let allowed = found.is_some_and(|found| label.value.as_ref().is_none_or(|value| value == found));
        if allowed {
            return Ok(());
        }
        Err(format!(
            "Secret {} does not have the label {label}, which the operator requires",
            secret.name_any(),
        ))
    }
}

/// Whether `image` begins with `prefix` and the prefix ends at a boundary of the image's name: `registry.example/team` does not match
/// `registry.example/team-of-others`.
fn has_prefix(image: &str, prefix: &str) -> bool {
    let Some(rest) = image.strip_prefix(prefix) else {
        return false;
    };
    // A colon before a slash begins a registry's port, not a tag.
    let is_tag = rest.starts_with(':') && !rest.contains('/');
    prefix.ends_with(['/', ':', '@']) || rest.is_empty() || rest.starts_with(['/', '@']) || is_tag
}

impl FromStr for SecretLabel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        let name = key.rsplit_once('/').map_or(
            key,
            |(prefix, name)| {
                if object_name(prefix).is_ok() { name } else { "" }
            },
        );
        if !is_label_text(name)
            || !value
                .as_deref()
                .is_none_or(|value| value.is_empty() || is_label_text(value))
        {
            return Err(format!(
                "found {}; expected a label as key or key=value, for example vmcp.dev/usable=true",
                quoted(text)
            ));
        }
        Ok(Self {
            key: key.to_owned(),
            value,
        })
    }
}

impl std::fmt::Display for SecretLabel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.key)?;
        self.value.as_ref().map_or(Ok(()), |value| write!(f, "={value}"))
    }
}

/// Whether `text` can be the name of a label, or its value.
pub(crate) fn is_label_text(text: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.len() <= 63
        && edge(text.bytes().next())
        && edge(text.bytes().next_back())
        && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn image_prefix_matches_at_boundaries_only() {
        let policy = Policy {
            image_prefixes: ["registry.example/team", "other.example/", "host.example"]
                .map(str::to_owned)
                .to_vec(),
            secret_label: None,
        };
        for image in [
            "registry.example/team/gateway:1",
            "registry.example/team:1",
            "other.example/x",
            "host.example/x:1",
        ] {
            policy.check_image("spec.image", image).unwrap();
        }
        for image in [
            "registry.example/team-of-others/x",
            "evil/registry.example/team",
            "gateway",
            "host.example:5000/x",
        ] {
            let message = policy.check_image("spec.image", image).unwrap_err();
            assert!(message.contains("other.example/"), "{message}");
        }
        Policy::default().check_image("spec.image", "gateway").unwrap();
    }

    #[test]
    fn secret_without_required_label_is_rejected() {
        let secret = |labels: serde_json::Value| -> Secret {
            serde_json::from_value(json!({"metadata": {"name": "redis", "labels": labels}})).unwrap()
        };
        let policy = |label: &str| Policy {
            image_prefixes: Vec::new(),
            secret_label: Some(label.parse().unwrap()),
        };
        policy("vmcp.dev/usable")
            .check_secret(&secret(json!({"vmcp.dev/usable": "no matter"})))
            .unwrap();
        policy("a=b").check_secret(&secret(json!({"a": "b"}))).unwrap();
        for labels in [json!({}), json!({"a": "c"}), json!({"b": "b"})] {
            let message = policy("a=b").check_secret(&secret(labels)).unwrap_err();
            assert!(message.contains("the label a=b"), "{message}");
        }
    }

    #[test]
    fn invalid_label_is_rejected() {
        for text in ["", "=", "=a", "a=b=c", "a b", "a/b/c", "/a", "a=-"] {
            assert!(text.parse::<SecretLabel>().is_err(), "{text}");
        }
        assert_eq!("a.b/c=d".parse::<SecretLabel>().unwrap().to_string(), "a.b/c=d");
    }
}
