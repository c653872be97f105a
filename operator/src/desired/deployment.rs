//! The gateway pods.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction,
    ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements,
    SeccompProfile, SecretKeySelector, SecretVolumeSource, SecurityContext, TopologySpreadConstraint, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use vmcp_crds::config::{REDIS_PASSWORD_ENV, Timeouts};
use vmcp_crds::v1alpha1::{SessionStorageProvider, VirtualMCPServer};

use super::config::STARTUP_FILE;
use super::{Inputs, labels, metadata, names};

/// Where clients connect.
pub const MCP_PORT: u16 = 4483;
/// Where probes, scrapes and the operator connect.
pub(crate) const ADMIN_PORT: u16 = 9483;
pub(super) const MCP_PORT_NAME: &str = "mcp";
const ADMIN_PORT_NAME: &str = "admin";

const CONFIG_DIR: &str = "/etc/vmcp/config";
pub(super) const BACKENDS_DIR: &str = "/etc/vmcp/backends";
pub(super) const KEYS_DIR: &str = "/etc/vmcp/keys";

/// How long a terminating pod accepts connections, until its endpoint is removed on every node.
pub(super) const DRAIN_SECONDS: u64 = 5;
/// The longest a call can run after the listener has closed: the default deadline of calls.
const LONGEST_CALL_SECONDS: u64 = Timeouts::DEFAULT_CALL.get().as_secs();
/// The termination grace period of a pod: the drain, the longest call, and 5 s to exit.
pub const GRACE_SECONDS: i64 = (DRAIN_SECONDS + LONGEST_CALL_SECONDS + 5) as i64;

/// The user of the container. The number is that of `nonroot` in the usual minimal images.
const USER: i64 = 65532;
/// A rollback needs the start-up ConfigMap of its ReplicaSet, so both are kept, and few of them.
const REVISIONS: i32 = 2;

/// The Deployment. Without `spec.replicas` it says nothing about the count, which then belongs to somebody else.
pub(super) fn deployment(server: &VirtualMCPServer, inputs: &Inputs<'_>) -> Deployment {
    Deployment {
        metadata: metadata(server, names::workload(server)),
        spec: DeploymentSpec {
            replicas: server.spec.replicas,
            revision_history_limit: Some(REVISIONS),
            selector: LabelSelector {
                match_labels: Some(labels::selector(server)),
                match_expressions: None,
            },
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template: template(server, inputs),
            ..DeploymentSpec::default()
        },
        status: None,
    }
}

fn template(server: &VirtualMCPServer, inputs: &Inputs<'_>) -> PodTemplateSpec {
    let mac = inputs.password_mac.filter(|_| password(server).is_some());
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels::of(server)),
            annotations: mac.map(|mac| BTreeMap::from([(labels::PASSWORD_MAC.to_owned(), mac.to_owned())])),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            service_account_name: Some(names::workload(server)),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(GRACE_SECONDS),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                fs_group: Some(USER),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    localhost_profile: None,
                }),
                ..PodSecurityContext::default()
            }),
            topology_spread_constraints: Some(vec![
                spread(server, "kubernetes.io/hostname"),
                spread(server, "topology.kubernetes.io/zone"),
            ]),
            containers: vec![container(server, inputs)],
            volumes: Some(volumes(server, inputs)),
            ..PodSpec::default()
        }),
    }
}

fn container(server: &VirtualMCPServer, inputs: &Inputs<'_>) -> Container {
    let image = server.spec.image.as_deref().unwrap_or(inputs.default_image);
    Container {
        name: "gateway".to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: Some(vec![
            "serve".to_owned(),
            "--config".to_owned(),
            format!("{CONFIG_DIR}/{STARTUP_FILE}"),
        ]),
        env: Some(environment(server)),
        ports: Some(vec![
            port(MCP_PORT_NAME, MCP_PORT),
            port(ADMIN_PORT_NAME, ADMIN_PORT),
        ]),
        // Until the process answers, the other two probes do not run.
        startup_probe: Some(probe("/livez", 1, 60)),
        liveness_probe: Some(probe("/livez", 10, 3)),
        readiness_probe: Some(probe("/readyz", 2, 2)),
        resources: Some(ResourceRequirements {
            requests: Some(quantities(&[("cpu", "50m"), ("memory", "64Mi")])),
            // No limit of the processor: throttling costs latency exactly when it hurts.
            limits: Some(quantities(&[("memory", "512Mi")])),
            ..ResourceRequirements::default()
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                add: None,
            }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![
            mount("config", CONFIG_DIR),
            mount("backends", BACKENDS_DIR),
            mount("keys", KEYS_DIR),
        ]),
        ..Container::default()
    }
}

fn environment(server: &VirtualMCPServer) -> Vec<EnvVar> {
    let field = |name: &str, path: &str| EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: path.to_owned(),
                api_version: None,
            }),
            ..EnvVarSource::default()
        }),
    };
    let mut environment = vec![
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
    ];
    environment.extend(password(server));
    environment
}

/// The password of the session store. It reaches the pod in no other way.
fn password(server: &VirtualMCPServer) -> Option<EnvVar> {
    let storage = server.spec.session_storage.as_ref()?;
    let reference = storage.password_ref.as_ref()?;
    (storage.provider == SessionStorageProvider::Redis).then(|| EnvVar {
        name: REDIS_PASSWORD_ENV.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector {
                name: reference.name.clone(),
                key: reference.key.clone(),
                optional: None,
            }),
            ..EnvVarSource::default()
        }),
    })
}

fn volumes(server: &VirtualMCPServer, inputs: &Inputs<'_>) -> Vec<Volume> {
    let config_map = |volume: &str, name: String| Volume {
        name: volume.to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name,
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    };
    vec![
        config_map(
            "config",
            names::startup_config(server, &inputs.files.startup_hash),
        ),
        config_map("backends", names::hot_config(server)),
        Volume {
            name: "keys".to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(names::session_keys(server)),
                default_mode: Some(0o440),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        },
    ]
}

fn port(name: &str, port: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(port),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(ADMIN_PORT_NAME.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        failure_threshold: Some(failure_threshold),
        timeout_seconds: Some(2),
        ..Probe::default()
    }
}

fn mount(volume: &str, path: &str) -> VolumeMount {
    VolumeMount {
        name: volume.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    }
}

/// Pods of one revision away from each other, as far as the cluster allows.
fn spread(server: &VirtualMCPServer, topology_key: &str) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        topology_key: topology_key.to_owned(),
        max_skew: 1,
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(LabelSelector {
            match_labels: Some(labels::selector(server)),
            match_expressions: None,
        }),
        match_label_keys: Some(vec!["pod-template-hash".to_owned()]),
        ..TopologySpreadConstraint::default()
    }
}

fn quantities(pairs: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Quantity((*value).to_owned())))
        .collect()
}
