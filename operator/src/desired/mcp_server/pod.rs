//! The pods of a server.

use k8s_openapi::DeepMerge as _;
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, EnvVar, Lifecycle, LifecycleHandler, LocalObjectReference, PodSpec,
    PodTemplateSpec, Probe, ResourceRequirements, SecurityContext, SleepAction, TCPSocketAction, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use vmcp_crds::config::Timeouts;
use vmcp_crds::v1alpha1::{BRIDGE_ADMIN_PORT, MCPServer, ServerTransport};

use super::program::{bridge_path, program};
use super::{BRIDGE_CONTAINER, BRIDGE_DIR, SERVER_CONTAINER, ServerInputs};
use crate::desired::deployment::{
    ADMIN_PORT_NAME, MCP_PORT_NAME, USER_ID, container_security, mount, pod_security, port, probe,
    quantities, spread,
};
use crate::desired::pod_template_rules::SERVER;
use crate::desired::{labels, pod_template};

/// Time that a terminating pod goes on serving, until the gateways use other pods.
const DRAIN_SECONDS: u64 = 5;
/// Time for the server to exit after its last call.
const EXIT_SECONDS: u64 = 5;
/// A directory in which every server can write.
const TMP_DIR: &str = "/tmp";

pub(super) fn template(server: &MCPServer, inputs: &ServerInputs<'_>) -> PodTemplateSpec {
    let pull_secrets = server.spec.image_pull_secrets.iter();
    let pull_secrets: Vec<LocalObjectReference> = pull_secrets
        .map(|secret| LocalObjectReference {
            name: secret.name.clone(),
        })
        .collect();
    let user = inputs.has_fixed_user.then_some(USER_ID);
    let has_bridge = server.spec.transport() == ServerTransport::Stdio;
    let mut template = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels::all(server)),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            service_account_name: server.spec.service_account_name.clone(),
            image_pull_secrets: (!pull_secrets.is_empty()).then_some(pull_secrets),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(grace_seconds(server)),
            security_context: Some(pod_security(user)),
            topology_spread_constraints: Some(vec![
                spread(server, "kubernetes.io/hostname"),
                spread(server, "topology.kubernetes.io/zone"),
            ]),
            init_containers: has_bridge.then(|| vec![install_bridge(inputs)]),
            containers: vec![container(server, inputs)],
            volumes: Some(volumes(has_bridge)),
            ..PodSpec::default()
        }),
    };
    if let Some(more) = &server.spec.pod_template {
        pod_template::merge(&mut template, more, &SERVER);
    }
    template
}

/// Copies the bridge from the gateway's image.
fn install_bridge(inputs: &ServerInputs<'_>) -> Container {
    Container {
        name: BRIDGE_CONTAINER.to_owned(),
        image: Some(inputs.images.gateway.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: Some(vec!["install".to_owned(), bridge_path()]),
        resources: Some(ResourceRequirements {
            requests: Some(quantities(&[("cpu", "10m"), ("memory", "16Mi")])),
            // Where the volume is in memory, the copy counts.
            limits: Some(quantities(&[("memory", "256Mi")])),
            ..ResourceRequirements::default()
        }),
        security_context: Some(container_security()),
        volume_mounts: Some(vec![writable("vmcp", BRIDGE_DIR)]),
        ..Container::default()
    }
}

fn container(server: &MCPServer, inputs: &ServerInputs<'_>) -> Container {
    let spec = &server.spec;
    let program = program(server, inputs.images);
    let has_bridge = spec.transport() == ServerTransport::Stdio;
    let mut ports = vec![port(MCP_PORT_NAME, spec.port())];
    let mut mounts = vec![writable("tmp", TMP_DIR)];
    if has_bridge {
        ports.push(port(ADMIN_PORT_NAME, BRIDGE_ADMIN_PORT));
        mounts.push(mount("vmcp", BRIDGE_DIR));
    }
    let [startup, liveness, readiness] = probes(has_bridge);
    let env_from = (!spec.env_from.is_empty()).then(|| spec.env_from.clone());
    let or_none = |words: Vec<String>| (!words.is_empty()).then_some(words);
    Container {
        name: SERVER_CONTAINER.to_owned(),
        image: Some(program.image),
        command: or_none(program.command),
        args: or_none(program.args),
        env: Some(environment(server)).filter(|variables| !variables.is_empty()),
        env_from,
        ports: Some(ports),
        startup_probe: Some(startup),
        liveness_probe: Some(liveness),
        readiness_probe: Some(readiness),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction {
                    seconds: i64::try_from(DRAIN_SECONDS).unwrap_or(0),
                }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        resources: Some(spec.resources.clone().unwrap_or_else(default_resources)),
        security_context: Some(security_context(server)),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

/// The variables of the spec, and a writable home if the image's own user does not run the server.
fn environment(server: &MCPServer) -> Vec<EnvVar> {
    let security = server.spec.security_context.as_ref();
    let has_own_user = security
        .is_some_and(|security| security.run_as_user.is_some() || security.run_as_non_root == Some(false));
    let names_home = server.spec.env.iter().any(|variable| variable.name == "HOME");
    let home = (!has_own_user && !names_home).then(|| EnvVar {
        name: "HOME".to_owned(),
        value: Some(TMP_DIR.to_owned()),
        value_from: None,
    });
    home.into_iter().chain(server.spec.env.iter().cloned()).collect()
}

fn security_context(server: &MCPServer) -> SecurityContext {
    let mut context = container_security();
    if let Some(own) = &server.spec.security_context {
        context.merge_from(own.clone());
    }
    context
}

fn default_resources() -> ResourceRequirements {
    ResourceRequirements {
        requests: Some(quantities(&[("cpu", "50m"), ("memory", "128Mi")])),
        // No CPU limit: throttling would add latency under load.
        limits: Some(quantities(&[("memory", "1Gi")])),
        ..ResourceRequirements::default()
    }
}

/// The probes for start, life and readiness. The bridge answers at its admin port; of another server only its port is known.
fn probes(has_bridge: bool) -> [Probe; 3] {
    if has_bridge {
        return [
            probe("/livez", 1, 60),
            probe("/livez", 10, 3),
            probe("/readyz", 2, 2),
        ];
    }
    let of_port = |period_seconds, failure_threshold| Probe {
        tcp_socket: Some(TCPSocketAction {
            port: IntOrString::String(MCP_PORT_NAME.to_owned()),
            host: None,
        }),
        period_seconds: Some(period_seconds),
        failure_threshold: Some(failure_threshold),
        timeout_seconds: Some(2),
        ..Probe::default()
    };
    // A server may install packages when it starts.
    [of_port(2, 150), of_port(10, 3), of_port(2, 2)]
}

/// The pod's `terminationGracePeriodSeconds`: time to drain, the longest time limit of a call, and time to exit.
fn grace_seconds(server: &MCPServer) -> i64 {
    let timeouts = server.spec.timeouts.over(&Timeouts::default());
    let of_tools = server.spec.backend.tools.deadlines.values();
    let longest = of_tools.chain([&timeouts.call]).max().map_or(0, |limit| {
        let limit = limit.get();
        limit.as_secs() + u64::from(limit.subsec_nanos() > 0)
    });
    i64::try_from(longest.saturating_add(DRAIN_SECONDS + EXIT_SECONDS)).unwrap_or(i64::MAX)
}

fn volumes(has_bridge: bool) -> Vec<Volume> {
    let empty = |name: &str| Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    };
    let mut volumes = vec![empty("tmp")];
    volumes.extend(has_bridge.then(|| empty("vmcp")));
    volumes
}

fn writable(volume: &str, path: &str) -> VolumeMount {
    VolumeMount {
        name: volume.to_owned(),
        mount_path: path.to_owned(),
        ..VolumeMount::default()
    }
}
