//! The HorizontalPodAutoscaler of the gateway pods.

use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricIdentifier,
    MetricSpec, MetricTarget, PodsMetricSource, ResourceMetricSource,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use vmcp_crds::v1alpha1::{AutoscalingSpec, VirtualMCPServer};

use super::{metadata, names};

/// CPU usage, in percent of the request, that the autoscaler aims at if the spec does not say.
const DEFAULT_CPU_PERCENT: i32 = 80;
/// The gateway's gauge of requests whose response is not complete.
const REQUESTS_IN_FLIGHT: &str = "vmcp_requests_in_flight";

/// Scales the Deployment. The virtual server itself sets no `replicas` then.
pub(super) fn autoscaler(server: &VirtualMCPServer, spec: &AutoscalingSpec) -> HorizontalPodAutoscaler {
    let percent = spec
        .target_cpu_utilization_percentage
        .unwrap_or(DEFAULT_CPU_PERCENT);
    let mut metrics = vec![cpu(percent)];
    metrics.extend(spec.target_requests_per_pod.map(requests));
    HorizontalPodAutoscaler {
        metadata: metadata(server, names::workload(server)),
        spec: HorizontalPodAutoscalerSpec {
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some("apps/v1".to_owned()),
                kind: "Deployment".to_owned(),
                name: names::workload(server),
            },
            min_replicas: Some(spec.min_replicas.unwrap_or(1)),
            max_replicas: spec.max_replicas,
            metrics: Some(metrics),
            ..HorizontalPodAutoscalerSpec::default()
        },
        status: None,
    }
}

fn cpu(percent: i32) -> MetricSpec {
    MetricSpec {
        type_: "Resource".to_owned(),
        resource: Some(ResourceMetricSource {
            name: "cpu".to_owned(),
            target: MetricTarget {
                type_: "Utilization".to_owned(),
                average_utilization: Some(percent),
                ..MetricTarget::default()
            },
        }),
        ..MetricSpec::default()
    }
}

fn requests(average: i32) -> MetricSpec {
    MetricSpec {
        type_: "Pods".to_owned(),
        pods: Some(PodsMetricSource {
            metric: MetricIdentifier {
                name: REQUESTS_IN_FLIGHT.to_owned(),
                selector: None,
            },
            target: MetricTarget {
                type_: "AverageValue".to_owned(),
                average_value: Some(Quantity(average.to_string())),
                ..MetricTarget::default()
            },
        }),
        ..MetricSpec::default()
    }
}
