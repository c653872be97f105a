//! The fields of a virtual server about its pods and the objects around them.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value as Json, json};
use vmcp_external::requires;
use vmcp_operator::policy::Policy;

use crate::harness::{Harness, eventually};

/// Waits until the object `vmcp-x` of a kind has each value at its pointer.
async fn wait_for_values<K>(harness: &Harness, values: &[(&str, Json)])
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + serde::Serialize,
{
    for (pointer, expected) in values {
        let has = |object: &K| {
            let object = serde_json::to_value(object).unwrap();
            (object.pointer(pointer) == Some(expected)).then_some(())
        };
        harness
            .wait_for(
                &format!("{} has {pointer} {expected}", K::kind(&())),
                "vmcp-x",
                has,
            )
            .await;
    }
}

// Every field about the pods reaches the object that it is about.
#[requires(api_server)]
#[tokio::test]
async fn pod_fields_reach_their_objects() {
    let harness = Harness::start("workload").await;
    harness.apply_group(&[]).await;
    harness
        .apply_server(json!({
            "imagePullSecrets": [{"name": "registry"}],
            "serviceAccountName": "mesh",
            "resources": {"requests": {"cpu": 1, "memory": "128Mi"}},
            "podTemplate": {
                "metadata": {"annotations": {"example.com/scrape": "yes"}},
                "spec": {
                    "nodeSelector": {"disk": "ssd"}, "priorityClassName": "high",
                    "containers": [{"name": "gateway", "env": [{"name": "HTTPS_PROXY", "value": "http://proxy"}]}],
                },
            },
            "service": {
                "type": "LoadBalancer", "annotations": {"example.com/a": "b"}, "labels": {"team": "a"},
                "internalTrafficPolicy": "Local", "trafficDistribution": "PreferSameZone", "loadBalancerClass": "example.com/lb",
            },
            "podDisruptionBudget": {"minAvailable": "50%"},
            "autoscaling": {
                "minReplicas": 2, "maxReplicas": 5, "targetCPUUtilizationPercentage": 70, "targetRequestsPerPod": 20,
            },
            "networkPolicy": {"monitoring": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]},
        }))
        .await;
    let pod = "/spec/template/spec";
    wait_for_values::<Deployment>(
        &harness,
        &[
            (&format!("{pod}/imagePullSecrets/0/name"), json!("registry")),
            (&format!("{pod}/serviceAccountName"), json!("mesh")),
            (&format!("{pod}/automountServiceAccountToken"), json!(false)),
            (&format!("{pod}/containers/0/resources/requests/cpu"), json!("1")),
            (&format!("{pod}/nodeSelector/disk"), json!("ssd")),
            (&format!("{pod}/containers/0/name"), json!("gateway")),
            (&format!("{pod}/containers/0/env/2/name"), json!("HTTPS_PROXY")),
            (
                "/spec/template/metadata/annotations/example.com~1scrape",
                json!("yes"),
            ),
        ],
    )
    .await;
    wait_for_values::<Service>(
        &harness,
        &[
            ("/spec/type", json!("LoadBalancer")),
            ("/spec/internalTrafficPolicy", json!("Local")),
            ("/spec/trafficDistribution", json!("PreferSameZone")),
            ("/spec/loadBalancerClass", json!("example.com/lb")),
            ("/metadata/annotations/example.com~1a", json!("b")),
            ("/metadata/labels/team", json!("a")),
        ],
    )
    .await;
    wait_for_values::<HorizontalPodAutoscaler>(
        &harness,
        &[
            ("/spec/scaleTargetRef/kind", json!("Deployment")),
            ("/spec/minReplicas", json!(2)),
            ("/spec/maxReplicas", json!(5)),
            ("/spec/metrics/0/resource/target/averageUtilization", json!(70)),
            (
                "/spec/metrics/1/pods/metric/name",
                json!("vmcp_requests_in_flight"),
            ),
            ("/spec/metrics/1/pods/target/averageValue", json!("20")),
        ],
    )
    .await;
    // The autoscaler may start more than one pod.
    wait_for_values::<PodDisruptionBudget>(
        &harness,
        &[
            ("/spec/minAvailable", json!("50%")),
            ("/spec/unhealthyPodEvictionPolicy", json!("AlwaysAllow")),
        ],
    )
    .await;
    harness
        .wait_for_condition(
            "SessionStorageWarning",
            "True",
            "SessionStorageMissingForReplicas",
        )
        .await;
    wait_for_values::<NetworkPolicy>(
        &harness,
        &[
            ("/spec/ingress/0/ports/0/port", json!(4483)),
            ("/spec/ingress/1/ports/0/port", json!(9483)),
            (
                "/spec/ingress/1/from/1/namespaceSelector/matchLabels/name",
                json!("monitoring"),
            ),
        ],
    )
    .await;
    let accounts = harness.api::<ServiceAccount>();
    assert!(accounts.get_opt("vmcp-x").await.unwrap().is_none());

    harness.settle().await;
    harness
        .apply_server(json!({"podDisruptionBudget": {"enabled": false}}))
        .await;
    eventually("the objects are deleted", async || {
        let gone = harness
            .api::<HorizontalPodAutoscaler>()
            .get_opt("vmcp-x")
            .await
            .unwrap()
            .is_none()
            && harness
                .api::<NetworkPolicy>()
                .get_opt("vmcp-x")
                .await
                .unwrap()
                .is_none()
            && harness
                .api::<PodDisruptionBudget>()
                .get_opt("vmcp-x")
                .await
                .unwrap()
                .is_none();
        gone.then_some(())
    })
    .await;
    harness.wait_for_object::<ServiceAccount>("vmcp-x").await;
    wait_for_values::<Service>(&harness, &[("/spec/type", json!("ClusterIP"))]).await;
}

// A pod template that would break the gateway is rejected, and the condition names the field; running pods stay as they are.
#[requires(api_server)]
#[tokio::test]
async fn breaking_pod_template_is_rejected_with_field() {
    let harness = Harness::start("template").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    let before: Deployment = harness.wait_for_object("vmcp-x").await;
    for (template, field) in [
        (
            json!({"spec": {"hostNetwork": true}}),
            "spec.podTemplate.spec.hostNetwork",
        ),
        (
            json!({"spec": {"containers": [{"name": "gateway", "volumeMounts": [{"name": "x", "mountPath": "/etc/vmcp/keys"}]}]}}),
            "spec.podTemplate.spec.containers[gateway].volumeMounts[/etc/vmcp/keys]",
        ),
        (
            json!({"spec": {"nodeSelektor": {"a": "b"}}}),
            "spec.podTemplate.spec.nodeSelektor",
        ),
        (
            json!({"metadata": {"annotations": {"vmcp.dev/secrets": "x"}}}),
            "spec.podTemplate.metadata.annotations[vmcp.dev/secrets]",
        ),
        (
            json!({"metadata": {"annotations": {"not a name": "x"}}}),
            "spec.podTemplate.metadata.annotations[not a name]",
        ),
    ] {
        harness.apply_server(json!({"podTemplate": template})).await;
        harness
            .wait_for_conditions(&[
                ("PodTemplateValid", "False", "PodTemplateInvalid"),
                ("ConfigValid", "False", "PodTemplateInvalid"),
                ("Ready", "False", "PodTemplateInvalid"),
                ("Stalled", "True", "PodTemplateInvalid"),
            ])
            .await;
        harness
            .wait_for(
                &format!("the condition names {field}"),
                "x",
                |server: &vmcp_crds::v1alpha1::VirtualMCPServer| {
                    let conditions = &server.status.as_ref()?.conditions;
                    let condition = vmcp_crds::condition::find(conditions, "ConfigValid")?;
                    (condition.reason == "PodTemplateInvalid" && condition.message.starts_with(field))
                        .then_some(())
                },
            )
            .await;
    }
    let after: Deployment = harness.wait_for_object("vmcp-x").await;
    assert_eq!(after.spec, before.spec);
    harness
        .apply_server(json!({"podTemplate": {"spec": {"priorityClassName": "high"}}}))
        .await;
    harness
        .wait_for_condition("PodTemplateValid", "True", "PodTemplateValid")
        .await;
}

// The policy on images and Secrets also holds for a pod template.
#[requires(api_server)]
#[tokio::test]
async fn policy_holds_for_pod_template() {
    let mut harness = Harness::without_operator("template-policy").await;
    harness
        .start_operator_with(Policy {
            image_prefixes: vec!["registry.example/team".to_owned()],
            secret_label: Some("vmcp.dev/usable".parse().unwrap()),
        })
        .await;
    harness.apply_group(&[]).await;
    let image = json!({"spec": {"containers": [{"name": "sidecar", "image": "evil:1"}]}});
    harness.apply_server(json!({"podTemplate": image})).await;
    harness
        .wait_for_conditions(&[
            ("PodTemplateValid", "False", "ImageNotAllowed"),
            ("ConfigValid", "False", "ImageNotAllowed"),
            ("Ready", "False", "ImageNotAllowed"),
        ])
        .await;
    let secret = json!({"spec": {"volumes": [{"name": "x", "secret": {"secretName": "canary"}}]}});
    harness.apply_server(json!({"podTemplate": secret})).await;
    harness
        .wait_for_conditions(&[
            ("PodTemplateValid", "False", "SecretNotAllowed"),
            ("ConfigValid", "False", "SecretNotAllowed"),
            ("Ready", "False", "SecretNotAllowed"),
            ("Stalled", "True", "SecretNotAllowed"),
        ])
        .await;
}
