//! What the operator's administrator allows virtual servers to use, whoever may create one.

use std::str::FromStr;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use vmcp_crds::v1alpha1::field_rules::{object_name, shown};

/// The images and the Secrets that a virtual server may name. By default all of its namespace.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// What an image of a spec has to begin with; anything when empty.
    pub image_prefixes: Vec<String>,
    /// The label that a Secret has to bear.
    pub secret_label: Option<SecretLabel>,
}

/// A label, with or without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretLabel {
    key: String,
    value: Option<String>,
}

impl Policy {
    /// Whether a spec may name `image`.
    ///
    /// # Errors
    /// When it may not; the message says what is allowed.
    pub fn check_image(&self, image: &str) -> Result<(), String> {
        if self.image_prefixes.is_empty()
            || self
                .image_prefixes
                .iter()
                .any(|prefix| begins_with(image, prefix))
        {
            return Ok(());
        }
        Err(format!(
            "spec.image is {}, which begins with none of the prefixes that this operator allows ({}): take spec.image away \
             for the operator's own image, or ask its administrator",
            shown(image),
            self.image_prefixes.join(", "),
        ))
    }

    /// Whether a virtual server may use `secret`, which is not this operator's.
    ///
    /// # Errors
    /// When it may not; the message says what is missing.
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
            "Secret {} does not bear the label {label}, without which this operator uses no Secret",
            secret.name_any(),
        ))
    }
}

/// Whether `prefix` is `image` up to a boundary of its parts: `registry.example/team` is not the beginning of
/// `registry.example/team-of-others`.
fn begins_with(image: &str, prefix: &str) -> bool {
    let Some(rest) = image.strip_prefix(prefix) else {
        return false;
    };
    // A colon before a stroke begins the port of another registry, and not a tag.
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
                shown(text)
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

fn is_label_text(text: &str) -> bool {
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
    fn image_is_allowed_up_to_a_boundary_of_a_prefix() {
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
            policy.check_image(image).unwrap();
        }
        for image in [
            "registry.example/team-of-others/x",
            "evil/registry.example/team",
            "gateway",
            "host.example:5000/x",
        ] {
            let message = policy.check_image(image).unwrap_err();
            assert!(message.contains("other.example/"), "{message}");
        }
        Policy::default().check_image("gateway").unwrap();
    }

    #[test]
    fn secret_without_the_label_is_refused() {
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
    fn text_that_is_no_label_is_refused() {
        for text in ["", "=", "=a", "a=b=c", "a b", "a/b/c", "/a", "a=-"] {
            assert!(text.parse::<SecretLabel>().is_err(), "{text}");
        }
        assert_eq!("a.b/c=d".parse::<SecretLabel>().unwrap().to_string(), "a.b/c=d");
    }
}
