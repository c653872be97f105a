//! The Deployment of the gateway pods.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapProjection, ConfigMapVolumeSource, Container, ContainerPort, EnvVar, EnvVarSource,
    HTTPGetAction, KeyToPath, LocalObjectReference, ObjectFieldSelector, PodSecurityContext, PodSpec,
    PodTemplateSpec, Probe, ProjectedVolumeSource, ResourceRequirements, SeccompProfile, SecretKeySelector,
    SecretVolumeSource, SecurityContext, TopologySpreadConstraint, Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use vmcp_crds::config::split_file::MAX_PARTS;
use vmcp_crds::config::{ListenerTls, REDIS_PASSWORD_ENV};
use vmcp_crds::v1alpha1::{EndpointTls, SECRETS_DIR, SecretKeyRef, VirtualMCPServer};

use super::config::STARTUP_FILE;
use super::grace_period::grace_seconds;
use super::pod_template_rules::GATEWAY;
use super::secret_volume::{SECRETS_VOLUME, secret_volume};
use super::{ConfigFiles, Inputs, labels, metadata, names, pod_template};
use crate::workload::Workload;

/// Port of the MCP endpoint, for clients.
pub const MCP_PORT: u16 = 4483;
/// Port for probes, scrapes and the operator.
pub(crate) const ADMIN_PORT: u16 = 9483;
pub(super) const MCP_PORT_NAME: &str = "mcp";
pub(super) const ADMIN_PORT_NAME: &str = "admin";

/// Name of the gateway's container.
pub(super) const CONTAINER: &str = "gateway";
/// Directory of all files that the operator mounts.
pub(super) const ETC_DIR: &str = "/etc/vmcp";
/// Names of the volumes that the operator mounts.
pub(super) const VOLUMES: [&str; 5] = ["config", "backends", "keys", "tls", SECRETS_VOLUME];

const CONFIG_DIR: &str = "/etc/vmcp/config";
pub(super) const BACKENDS_DIR: &str = "/etc/vmcp/backends";
pub(super) const KEYS_DIR: &str = "/etc/vmcp/keys";
const TLS_DIR: &str = "/etc/vmcp/tls";
/// The keys of the Secret with the certificate of the endpoint: the certificate, and its private key.
const CERTIFICATE_KEYS: [&str; 2] = ["tls.crt", "tls.key"];

/// User and group id of the container: `nonroot` in the usual minimal images.
pub(super) const USER_ID: i64 = 65532;
/// Number of old ReplicaSets to keep for rollbacks. Each also keeps its start-up ConfigMap.
pub(super) const REVISION_HISTORY_LIMIT: i32 = 2;

/// The Deployment. Without `spec.replicas`, or if that is ignored, it does not set the replica count, which then belongs to an autoscaler or a user.
pub(super) fn deployment(server: &VirtualMCPServer, inputs: &Inputs<'_>) -> Deployment {
    Deployment {
        metadata: metadata(server, names::workload(server)),
        spec: DeploymentSpec {
            replicas: server.spec.replicas.filter(|_| !inputs.ignores_replicas),
            revision_history_limit: Some(REVISION_HISTORY_LIMIT),
            selector: LabelSelector {
                match_labels: Some(labels::selector(server)),
                match_expressions: None,
            },
            strategy: Some(rolling_update()),
            template: template(server, inputs),
            ..DeploymentSpec::default()
        },
        status: None,
    }
}

/// Replaces pods one by one, and never leaves fewer than the wanted number.
pub(super) fn rolling_update() -> DeploymentStrategy {
    DeploymentStrategy {
        type_: Some("RollingUpdate".to_owned()),
        rolling_update: Some(RollingUpdateDeployment {
            max_surge: Some(IntOrString::Int(1)),
            max_unavailable: Some(IntOrString::Int(0)),
        }),
    }
}

fn template(server: &VirtualMCPServer, inputs: &Inputs<'_>) -> PodTemplateSpec {
    let password_mac = inputs
        .password_mac
        .filter(|_| server.spec.redis_password_ref().is_some());
    let annotations =
        password_mac.map(|mac| BTreeMap::from([(labels::PASSWORD_MAC.to_owned(), mac.to_owned())]));
    let pull_secrets = server.spec.image_pull_secrets.iter();
    let pull_secrets: Vec<LocalObjectReference> = pull_secrets
        .map(|secret| LocalObjectReference {
            name: secret.name.clone(),
        })
        .collect();
    let account = server.spec.service_account_name.clone();
    let user = inputs.has_fixed_user.then_some(USER_ID);
    let mut template = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels::all(server)),
            annotations,
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            service_account_name: Some(account.unwrap_or_else(|| names::workload(server))),
            image_pull_secrets: (!pull_secrets.is_empty()).then_some(pull_secrets),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(grace_seconds(server, inputs.files)),
            security_context: Some(pod_security(user)),
            topology_spread_constraints: Some(vec![
                spread(server, "kubernetes.io/hostname"),
                spread(server, "topology.kubernetes.io/zone"),
            ]),
            containers: vec![container(server, inputs)],
            volumes: Some(volumes(server, inputs)),
            ..PodSpec::default()
        }),
    };
    if let Some(more) = &server.spec.pod_template {
        pod_template::merge(&mut template, more, &GATEWAY);
    }
    template
}

/// Security settings of the pods. `user` is the fixed user id, if the cluster does not choose one.
pub(super) fn pod_security(user: Option<i64>) -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: user,
        run_as_group: user,
        fs_group: user,
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            localhost_profile: None,
        }),
        ..PodSecurityContext::default()
    }
}

/// Security settings of every container.
pub(super) fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            add: None,
        }),
        ..SecurityContext::default()
    }
}

fn default_resources() -> ResourceRequirements {
    ResourceRequirements {
        requests: Some(quantities(&[("cpu", "50m"), ("memory", "64Mi")])),
        // No CPU limit: throttling would add latency under load.
        limits: Some(quantities(&[("memory", "512Mi")])),
        ..ResourceRequirements::default()
    }
}

fn container(server: &VirtualMCPServer, inputs: &Inputs<'_>) -> Container {
    let image = server.spec.image.as_deref().unwrap_or(inputs.default_image);
    Container {
        name: CONTAINER.to_owned(),
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
        // The other two probes start when this one has succeeded.
        startup_probe: Some(probe("/livez", 1, 60)),
        liveness_probe: Some(probe("/livez", 10, 3)),
        readiness_probe: Some(probe("/readyz", 2, 2)),
        resources: Some(server.spec.resources.clone().unwrap_or_else(default_resources)),
        security_context: Some(container_security()),
        volume_mounts: Some(volume_mounts(server, inputs)),
        ..Container::default()
    }
}

fn volume_mounts(server: &VirtualMCPServer, inputs: &Inputs<'_>) -> Vec<VolumeMount> {
    let mut mounts = vec![
        mount("config", CONFIG_DIR),
        mount("backends", BACKENDS_DIR),
        mount("keys", KEYS_DIR),
    ];
    if server.spec.tls.is_some() {
        mounts.push(mount("tls", TLS_DIR));
    }
    if !inputs.secret_files.is_empty() {
        mounts.push(mount(SECRETS_VOLUME, SECRETS_DIR));
    }
    mounts
}

/// The files of the endpoint's certificate, if it has TLS.
pub(super) fn listener_tls(server: &VirtualMCPServer) -> Option<ListenerTls> {
    let [cert_file, key_file] = CERTIFICATE_KEYS.map(|key| Path::new(TLS_DIR).join(key));
    server
        .spec
        .tls
        .as_ref()
        .map(|_| ListenerTls { cert_file, key_file })
}

/// The volume with the hot configuration. Where there may be several parts, it has places for all parts that may come, so that their number can change
/// without new pods.
fn backends_volume(server: &VirtualMCPServer, files: &ConfigFiles) -> Volume {
    let mut volume = Volume {
        name: "backends".to_owned(),
        ..Volume::default()
    };
    if !files.may_be_split {
        volume.config_map = Some(ConfigMapVolumeSource {
            name: names::hot_config(server, 0),
            ..ConfigMapVolumeSource::default()
        });
        return volume;
    }
    let part = |index| VolumeProjection {
        config_map: Some(ConfigMapProjection {
            name: names::hot_config(server, index),
            optional: (index > 0).then_some(true),
            items: None,
        }),
        ..VolumeProjection::default()
    };
    volume.projected = Some(ProjectedVolumeSource {
        sources: Some((0..MAX_PARTS).map(part).collect()),
        ..ProjectedVolumeSource::default()
    });
    volume
}

/// The volume with the certificate of the endpoint. It is not optional: a new pod waits for the Secret.
fn certificate_volume(tls: &EndpointTls) -> Volume {
    let item = |key: &str| KeyToPath {
        key: key.to_owned(),
        path: key.to_owned(),
        ..KeyToPath::default()
    };
    Volume {
        name: "tls".to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(tls.certificate_ref.name.clone()),
            default_mode: Some(0o440),
            items: Some(CERTIFICATE_KEYS.iter().map(|key| item(key)).collect()),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
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
    environment.extend(server.spec.redis_password_ref().map(password_variable));
    environment
}

/// The Redis password. The pod gets it only through this variable, never through a configuration file.
fn password_variable(reference: &SecretKeyRef) -> EnvVar {
    EnvVar {
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
    }
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
    let mut volumes = vec![
        config_map(
            "config",
            names::startup_config(server, &inputs.files.startup_hash),
        ),
        backends_volume(server, inputs.files),
        Volume {
            name: "keys".to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(names::session_keys(server)),
                default_mode: Some(0o440),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        },
    ];
    volumes.extend(server.spec.tls.as_ref().map(certificate_volume));
    volumes.extend(secret_volume(inputs.secret_files));
    volumes
}

pub(super) fn port(name: &str, port: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(port),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

pub(super) fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
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

pub(super) fn mount(volume: &str, path: &str) -> VolumeMount {
    VolumeMount {
        name: volume.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    }
}

/// Spreads the pods of one revision over `topology_key`, as far as the cluster allows.
pub(super) fn spread<W: Workload>(server: &W, topology_key: &str) -> TopologySpreadConstraint {
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

pub(super) fn quantities(pairs: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Quantity((*value).to_owned())))
        .collect()
}
