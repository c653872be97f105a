//! Validates the strings of a spec against the rules of the CRD's schema.
//!
//! Kubernetes does not validate an existing object again when the schema becomes stricter, so the operator does.

use kube::ResourceExt as _;
use vmcp_crds::v1alpha1::{VirtualMCPServer, field_rules};

/// Describes the first string of `server` that violates a rule, with its field, or `None`. Such a string must not become part of a
/// request, a label, an environment variable or a configuration file.
#[must_use]
pub fn first_violation(server: &VirtualMCPServer) -> Option<String> {
    let name = server.name_any();
    let spec = &server.spec;
    let storage = spec.session_storage.as_ref();
    let password = storage.and_then(|storage| storage.password_ref.as_ref());
    let field =
        |text: Option<&String>, rule: fn(&str) -> Result<(), String>| text.map_or(Ok(()), |text| rule(text));
    let checks = [
        ("metadata.name", field_rules::server_name(&name)),
        (
            "spec.groupRef.name",
            field_rules::object_name(&spec.group_ref.name),
        ),
        ("spec.image", field(spec.image.as_ref(), field_rules::image)),
        (
            "spec.sessionStorage.address",
            field(
                storage.and_then(|storage| storage.address.as_ref()),
                field_rules::redis_address,
            ),
        ),
        (
            "spec.sessionStorage.keyPrefix",
            field(
                storage.and_then(|storage| storage.key_prefix.as_ref()),
                field_rules::key_prefix,
            ),
        ),
        (
            "spec.sessionStorage.username",
            field(
                storage.and_then(|storage| storage.username.as_ref()),
                field_rules::redis_text,
            ),
        ),
        (
            "spec.sessionStorage.passwordRef.name",
            field(
                password.map(|reference| &reference.name),
                field_rules::object_name,
            ),
        ),
        (
            "spec.sessionStorage.passwordRef.key",
            field(password.map(|reference| &reference.key), field_rules::secret_key),
        ),
    ];
    checks
        .into_iter()
        .find_map(|(field, checked)| checked.err().map(|problem| format!("{field}: {problem}")))
}
