//! Validates the strings of a spec against the rules of the CRD's schema.
//!
//! Kubernetes does not validate an existing object again when the schema becomes stricter, so the operator does.

use kube::ResourceExt as _;
use vmcp_crds::v1alpha1::{CaBundleRef, SessionStorageSpec, VirtualMCPServer, field_rules};

/// Describes the first string of `server` that violates a rule, with its field, or `None`. Such a string must not become part of a
/// request, a label, an environment variable or a configuration file.
#[must_use]
pub fn first_violation(server: &VirtualMCPServer) -> Option<String> {
    let spec = &server.spec;
    let mut checks: Vec<(&str, Result<(), String>)> = vec![
        ("metadata.name", field_rules::server_name(&server.name_any())),
        (
            "spec.groupRef.name",
            field_rules::object_name(&spec.group_ref.name),
        ),
    ];
    if let Some(image) = &spec.image {
        checks.push(("spec.image", field_rules::image(image)));
    }
    if let Some(account) = &spec.service_account_name {
        checks.push(("spec.serviceAccountName", field_rules::object_name(account)));
    }
    for secret in &spec.image_pull_secrets {
        checks.push(("spec.imagePullSecrets", field_rules::object_name(&secret.name)));
    }
    if let Some(tls) = &spec.tls {
        let checked = field_rules::object_name(&tls.certificate_ref.name);
        checks.push(("spec.tls.certificateRef.name", checked));
    }
    if let Some(route) = &spec.http_route {
        checks.push(("spec.httpRoute.path", field_rules::route_path(route.path())));
        let hosts = route.hostnames.iter().map(|host| field_rules::object_name(host));
        checks.extend(hosts.map(|checked| ("spec.httpRoute.hostnames", checked)));
    }
    if let Some(storage) = &spec.session_storage {
        check_session_storage(storage, &mut checks);
    }
    for file in spec.secret_files() {
        checks.push(("", file.check()));
    }
    for (field, bundle) in ca_bundles(server) {
        checks.push(("", bundle.check(field)));
    }
    checks.into_iter().find_map(|(field, checked)| {
        let problem = checked.err()?;
        // Some problems name their field themselves.
        let separator = if field.is_empty() { "" } else { ": " };
        Some(format!("{field}{separator}{problem}"))
    })
}

fn ca_bundles(server: &VirtualMCPServer) -> impl Iterator<Item = (&'static str, &CaBundleRef)> {
    let storage = server.spec.session_storage.as_ref();
    let redis = storage.and_then(|storage| storage.tls.as_ref()?.ca_bundle_ref.as_ref());
    let issuer = server.spec.incoming_auth.oidc.as_ref();
    let issuer = issuer.and_then(|oidc| oidc.ca_bundle_ref.as_ref());
    let redis = redis.map(|bundle| ("spec.sessionStorage.tls.caBundleRef", bundle));
    let issuer = issuer.map(|bundle| ("spec.incomingAuth.oidc.caBundleRef", bundle));
    redis.into_iter().chain(issuer)
}

fn check_session_storage(storage: &SessionStorageSpec, checks: &mut Vec<(&'static str, Result<(), String>)>) {
    let settings = &storage.settings;
    if let Some(address) = &settings.address {
        checks.push(("spec.sessionStorage.address", field_rules::redis_address(address)));
    }
    if let Some(sentinel) = &settings.sentinel {
        let field = "spec.sessionStorage.sentinel.masterName";
        checks.push((field, field_rules::redis_text(&sentinel.master_name)));
        let field = "spec.sessionStorage.sentinel.addresses";
        checks.extend(
            sentinel
                .addresses
                .iter()
                .map(|address| (field, field_rules::redis_address(address))),
        );
    }
    for address in settings.cluster.iter().flat_map(|cluster| &cluster.addresses) {
        let field = "spec.sessionStorage.cluster.addresses";
        checks.push((field, field_rules::redis_address(address)));
    }
    let field = "spec.sessionStorage.keyPrefix";
    checks.push((field, field_rules::key_prefix(&settings.key_prefix)));
    if let Some(username) = &settings.username {
        checks.push(("spec.sessionStorage.username", field_rules::redis_text(username)));
    }
    if let Some(reference) = &storage.password_ref {
        let field = "spec.sessionStorage.passwordRef.name";
        checks.push((field, field_rules::object_name(&reference.name)));
        let field = "spec.sessionStorage.passwordRef.key";
        checks.push((field, field_rules::secret_key(&reference.key)));
    }
}
