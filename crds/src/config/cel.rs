//! Rules for the API server, in CEL, on types that are part of the gateway's file and of a custom resource.
//!
//! With them the API server rejects at `kubectl apply` what the gateway would reject in its file, in the same words. The schema of the
//! file does not contain these rules: there [`super::rules`] checks them.

use serde_json::{Map, Value as Json, json};

/// What a duration must look like, for messages.
pub(super) const DURATION_EXPECTED: &str =
    "expected a duration with units, for example 250ms, 5s, 30m or 1h30m";
/// Maximum length of a duration in a custom resource.
pub(super) const MAX_DURATION_CHARS: u32 = 32;

/// Matches `host:port`.
pub(super) const HOST_AND_PORT: &str = r"^([a-zA-Z0-9._-]+|\\[[0-9a-fA-F:.]+\\]):(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})$";
/// Matches a host, or an address in brackets, with a port or without one. What is in the brackets is checked separately.
const HOST_AND_OPTIONAL_PORT: &str = r"^([a-zA-Z0-9._-]*[a-zA-Z0-9_-][.]?|\\[[0-9a-fA-F:.]+\\])(:(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3}))?$";
/// Matches an http or https URL without user, password and fragment. The path has the characters that the gateway's parser accepts.
const ENDPOINT: &str = r"://([a-zA-Z0-9._-]+|\\[[0-9a-fA-F:.]+\\])(:(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3}))?";
const PATH: &str = "[!$-;=?-_a-z|~]*";
/// Matches DNS labels in lower case, joined by dots. So the name of a Kubernetes object looks.
#[cfg(feature = "k8s")]
const DNS_NAME: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// Matches an image reference: `[registry/]path[:tag][@digest]`.
#[cfg(feature = "k8s")]
const IMAGE: &str = r"^([a-zA-Z0-9._-]+(:[0-9]+)?/|\\[[0-9a-fA-F:.]+\\](:[0-9]+)?/)?[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*(:[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127})?(@[a-zA-Z0-9_][a-zA-Z0-9+._-]*:[0-9a-fA-F]+)?$";

/// What an image reference must look like, for messages.
#[cfg(feature = "k8s")]
pub(crate) const IMAGE_EXPECTED: &str =
    "image must be an image reference, for example registry.example/team/gateway:1.2";

/// What the name of an object must look like, for messages.
#[cfg(feature = "k8s")]
pub(crate) const OBJECT_NAME_EXPECTED: &str = "must be the name of an object: lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit";

/// A rule as `x-kubernetes-validations` has it.
pub(crate) fn rule(rule: &str, message: &str) -> Json {
    json!({"rule": rule, "message": message})
}

/// A rule about the field `field` of `self`, so that the API server names this field.
pub(crate) fn rule_of_field(field: &str, rule: &str, message: &str) -> Json {
    json!({"rule": rule, "message": message, "fieldPath": format!(".{field}")})
}

/// The expression that is true if `value` is a duration, such as `1h30m`.
pub(super) fn is_duration(value: &str) -> String {
    format!(
        "size({value}) > 0 && {value}.matches('^([0-9]{{1,6}}h)?([0-9]{{1,7}}m)?([0-9]{{1,9}}s)?([0-9]{{1,12}}ms)?$')"
    )
}

/// The expression that is true if `value` is a host name or address, alone or with a port. An IPv6 address is in brackets.
pub(super) fn is_host_and_optional_port(value: &str) -> String {
    let address = format!("{value}.substring(1, {value}.indexOf(']'))");
    format!(
        "{value}.matches('{HOST_AND_OPTIONAL_PORT}') \
         && (!{value}.startsWith('[') || (isIP({address}) && ip({address}).family() == 6))"
    )
}

/// The expression that is true if `value` is the origin of a page, of an app or extension, or `null`.
pub(super) fn is_origin(value: &str) -> String {
    let authority = format!("{value}.substring({value}.indexOf('://') + 3)");
    format!(
        "{value} == 'null' || ({value}.matches('^https?://') && {}) \
         || ({value}.matches('^[a-z][a-z0-9+.-]*://[a-zA-Z0-9._:-]*$') && !{value}.matches('^https?:'))",
        is_host_and_optional_port(&authority)
    )
}

/// The expression that is true if `value` is an http or https URL that can be called.
pub(super) fn is_endpoint(value: &str) -> String {
    format!("{value}.matches('^https?{ENDPOINT}([/?]{PATH})?$')")
}

/// The expression that is true if `value` is an http or https URL without a query.
pub(super) fn is_endpoint_without_query(value: &str) -> String {
    // The path without `?`.
    format!("{value}.matches('^https?{ENDPOINT}(/[!$-;=@-_a-z|~]*)?$') && !{value}.contains('?')")
}

/// The expression that is true if `value` is the URL of a protected resource: an http or https URL that can be quoted in a header.
pub(crate) fn is_resource(value: &str) -> String {
    format!(
        "{} && !{value}.contains('\\\\')",
        is_endpoint_without_query(value)
    )
}

/// The expression that is true if `value` is a DNS name in lower case, or the name of a Kubernetes object.
#[cfg(feature = "k8s")]
pub(crate) fn is_dns_name(value: &str) -> String {
    format!("{value}.matches('{DNS_NAME}')")
}

/// The expression that is true if `value` is the reference of a container image.
#[cfg(feature = "k8s")]
pub(crate) fn is_image(value: &str) -> String {
    format!("{value}.matches('{IMAGE}') && !{value}.contains('..')")
}

/// Removes the rule with this message from the schema of a struct. A custom resource has it elsewhere.
#[cfg(feature = "k8s")]
pub(crate) fn remove_rule(schema: &mut schemars::Schema, message: &str) {
    let rules = schema
        .as_object_mut()
        .and_then(|object| object.get_mut("x-kubernetes-validations"));
    if let Some(Json::Array(rules)) = rules {
        rules.retain(|rule| rule["message"] != message);
    }
}

/// Removes the rules about the properties `names` from the schema of a struct that does not have them.
#[cfg(feature = "k8s")]
pub(crate) fn remove_rules_about(schema: &mut schemars::Schema, names: &[&str]) {
    let rules = schema
        .as_object_mut()
        .and_then(|object| object.get_mut("x-kubernetes-validations"));
    let mentions = |rule: &Json, name: &str| {
        let words = rule["rule"].as_str().unwrap_or_default();
        let is_end = |rest: &str| !rest.starts_with(|next: char| next.is_ascii_alphanumeric());
        words.split(&format!("self.{name}")).skip(1).any(is_end)
    };
    if let Some(Json::Array(rules)) = rules {
        rules.retain(|rule| !names.iter().any(|name| mentions(rule, name)));
    }
}

/// Removes the properties `names` from the schema of a struct. A custom resource has other fields in their place, or none.
#[cfg(feature = "k8s")]
pub(crate) fn remove_properties(schema: &mut schemars::Schema, names: &[&str]) {
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    if let Some(Json::Object(properties)) = object.get_mut("properties") {
        properties.retain(|name, _| !names.contains(&name.as_str()));
    }
    if let Some(Json::Array(required)) = object.get_mut("required") {
        required.retain(|name| !names.iter().any(|removed| name == removed));
    }
}

/// Replaces the description of the property `name`, which means something else in a custom resource.
#[cfg(feature = "k8s")]
pub(crate) fn describe_property(schema: &mut schemars::Schema, name: &str, description: &str) {
    let properties = schema
        .as_object_mut()
        .and_then(|object| object.get_mut("properties"));
    if let Some(property) = properties.and_then(|properties| properties.get_mut(name)) {
        property["description"] = Json::from(description);
    }
}

/// Keywords that only the API server needs: rules in CEL, and the bounds by which it estimates their cost.
const API_SERVER_KEYWORDS: [&str; 5] = [
    "x-kubernetes-validations",
    "minLength",
    "maxLength",
    "maxItems",
    "maxProperties",
];

/// Removes the keywords that only the API server needs.
pub(super) fn remove_api_server_keywords(schema: &mut schemars::Schema) {
    let keywords: Option<&mut Map<String, Json>> = schema.as_object_mut();
    if let Some(keywords) = keywords {
        keywords.retain(|keyword, _| !API_SERVER_KEYWORDS.contains(&keyword.as_str()));
    }
}
