//! What a `podTemplate` may not set, for the pods of each kind.

use vmcp_crds::config::REDIS_PASSWORD_ENV;

use super::deployment::{CONTAINER, ETC_DIR, VOLUMES};
use super::mcp_server::{BRIDGE_CONTAINER, BRIDGE_DIR, SERVER_CONTAINER, SERVER_VOLUMES};

/// What a pod template may not set.
#[derive(Clone, Copy, Debug)]
pub struct PodTemplateRules {
    /// The name of the main container.
    pub(super) container: &'static str,
    /// Fields of the main container, and what to do instead.
    pub(super) container_fields: &'static [(&'static str, &'static str)],
    /// Variables of the main container.
    pub(super) variables: &'static [&'static str],
    /// The directory in which the operator mounts its files.
    pub(super) directory: &'static str,
    /// Why nothing else may be mounted there.
    pub(super) directory_use: &'static str,
    /// Names of the operator's own volumes.
    pub(super) volumes: &'static [&'static str],
    /// Names of the operator's own init containers.
    pub(super) init_containers: &'static [&'static str],
    /// Why the pods get no access to their node.
    pub(super) no_node_access: &'static str,
    /// Whether the pods may have a token of the API.
    pub(super) allows_api_token: bool,
    /// Where the time to end comes from, if it is not the template's.
    pub(super) grace_period_source: Option<&'static str>,
}

/// Those of the gateway pods.
pub const GATEWAY: PodTemplateRules = PodTemplateRules {
    container: CONTAINER,
    container_fields: &[
        ("image", "set spec.image"),
        ("resources", "set spec.resources"),
        ("command", "the operator sets it"),
        ("args", "the operator sets them"),
        ("ports", "the operator sets them"),
        ("livenessProbe", "the operator sets it"),
        ("readinessProbe", "the operator sets it"),
        ("startupProbe", "the operator sets it"),
    ],
    variables: &["POD_NAME", "POD_NAMESPACE", REDIS_PASSWORD_ENV],
    directory: ETC_DIR,
    directory_use: "the operator mounts the gateway's files at /etc/vmcp",
    volumes: &VOLUMES,
    init_containers: &[],
    no_node_access: "the gateway needs no access to its node",
    allows_api_token: false,
    grace_period_source: Some("it follows from spec.operational.drainDelay and the time limits of calls"),
};

/// Those of the pods of a server.
pub const SERVER: PodTemplateRules = PodTemplateRules {
    container: SERVER_CONTAINER,
    container_fields: &[
        ("image", "set spec.image"),
        ("resources", "set spec.resources"),
        ("command", "set spec.command"),
        ("args", "set spec.args"),
        ("env", "set spec.env"),
        ("envFrom", "set spec.envFrom"),
        ("ports", "set spec.port"),
        ("securityContext", "set spec.securityContext"),
    ],
    variables: &[],
    directory: BRIDGE_DIR,
    directory_use: "the operator mounts the bridge at /vmcp",
    volumes: &SERVER_VOLUMES,
    init_containers: &[BRIDGE_CONTAINER],
    no_node_access: "a server gets no access to its node",
    allows_api_token: true,
    grace_period_source: None,
};
