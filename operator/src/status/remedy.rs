//! Names the field of the resource that a user can set about a failure, recognized by the words of Kubernetes and of registries.

/// Words of registries and of the kubelet about an image that needs credentials, or other ones.
const NEEDS_CREDENTIALS: [&str; 6] = [
    "unauthorized",
    "denied",
    "authentication required",
    "authorization failed",
    "no basic auth credentials",
    "forbidden",
];
/// Words of container runtimes about a program that the image does not have.
const NO_PROGRAM: [&str; 2] = ["executable file not found", "no such file or directory: unknown"];
/// Words of the API server about requests and limits: of a LimitRange, and of a ResourceQuota.
const ABOUT_RESOURCES: [&str; 5] = [
    "usage per ",
    "limit to request ratio",
    "must specify ",
    "cpu=",
    "memory=",
];
/// Words of a ResourceQuota about the type of a Service.
const ABOUT_SERVICE_TYPE: [&str; 2] = ["services.loadbalancers", "services.nodeports"];

/// What to do about an image that cannot be pulled, of which `words` is the reason.
pub(super) fn for_image_pull(words: &str) -> Option<&'static str> {
    contains_any(&words.to_lowercase(), &NEEDS_CREDENTIALS)
        .then_some("if the registry needs credentials, name their Secret in spec.imagePullSecrets")
}

/// What to do about a container that cannot be started, of which `words` is the reason.
pub(super) fn for_container_start(words: &str) -> Option<&'static str> {
    if words.contains("no command specified") {
        return Some("the image has no entrypoint: name the program in spec.command");
    }
    contains_any(words, &NO_PROGRAM)
        .then_some("the image does not have this program: correct spec.command, or use another image")
}

/// What to do about a pod that cannot be created, of which `words` is the reason.
pub(super) fn for_pod_creation(words: &str) -> Option<&'static str> {
    contains_any(words, &ABOUT_RESOURCES)
        .then_some("spec.resources sets the requests and limits of the container")
}

/// What to do about an object that the API server has refused, of which `message` names the kind and the reason.
pub(super) fn for_refused_object(message: &str) -> Option<&'static str> {
    if contains_any(message, &ABOUT_SERVICE_TYPE) {
        return Some("spec.service.type sets the type of the Service");
    }
    if !message.starts_with("cannot apply Deployment ") {
        return None;
    }
    if message.contains(".resources.") {
        Some("spec.resources sets the requests and limits of the container")
    } else if message.contains("spec.template.") {
        Some("spec.podTemplate sets further fields of the pods")
    } else {
        None
    }
}

fn contains_any(text: &str, words: &[&str]) -> bool {
    words.iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(remedy: Option<&str>, field: &str) -> bool {
        remedy.is_some_and(|remedy| remedy.contains(field))
    }

    // The words are those of containerd with Docker Hub, GitHub, Amazon ECR and a private registry.
    #[test]
    fn refused_pull_leads_to_pull_secrets() {
        for words in [
            "failed to pull image: pull access denied, repository does not exist or may require authorization",
            "failed to authorize: failed to fetch anonymous token: 401 Unauthorized",
            "unexpected status from HEAD request to https://x/v2/a/manifests/b: 403 Forbidden",
            "failed to resolve reference: no basic auth credentials",
            "server message: insufficient_scope: authorization failed",
        ] {
            assert!(names(for_image_pull(words), "spec.imagePullSecrets"), "{words}");
        }
        for words in ["x/y:z: not found", "dial tcp: connection refused"] {
            assert_eq!(for_image_pull(words), None, "{words}");
        }
    }

    // The words are those of containerd.
    #[test]
    fn container_without_program_leads_to_command() {
        for words in [
            "CreateContainerError: failed to generate container spec: no command specified",
            "RunContainerError: exec: \"weather\": executable file not found in $PATH: unknown",
            "RunContainerError: exec: \"/app/weather\": stat /app/weather: no such file or directory: unknown",
        ] {
            assert!(names(for_container_start(words), "spec.command"), "{words}");
        }
        assert_eq!(for_container_start("secret \"a\" not found"), None);
    }

    // The words are those of the API server 1.35.
    #[test]
    fn refused_requests_and_limits_lead_to_resources() {
        for words in [
            "pods \"a\" is forbidden: maximum memory usage per Container is 1Mi, but limit is 512Mi",
            "pods \"a\" is forbidden: cpu max limit to request ratio per Pod is 2, but provided ratio is 8",
            "pods \"a\" is forbidden: failed quota: q: must specify limits.cpu for: gateway",
            "pods \"a\" is forbidden: exceeded quota: q, requested: limits.memory=512Mi, used: limits.memory=0, limited: limits.memory=1Mi",
        ] {
            assert!(names(for_pod_creation(words), "spec.resources"), "{words}");
        }
        let count =
            "pods \"a\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0";
        assert_eq!(for_pod_creation(count), None);
    }

    #[test]
    fn refused_object_leads_to_its_field() {
        for (message, field) in [
            (
                "cannot apply Service a/vmcp-x: services \"vmcp-x\" is forbidden: exceeded quota: q, requested: services.loadbalancers=1",
                "spec.service.type",
            ),
            (
                "cannot apply Deployment a/vmcp-x: spec.template.spec.containers[0].resources.requests: Invalid value",
                "spec.resources",
            ),
            (
                "cannot apply Deployment a/vmcp-x: spec.template.spec.tolerations[0].operator: Invalid value",
                "spec.podTemplate",
            ),
        ] {
            assert!(names(for_refused_object(message), field), "{message}");
        }
        for message in [
            "cannot apply Deployment a/vmcp-x: deployments.apps is forbidden",
            "cannot apply ConfigMap a/vmcp-x: spec.template.",
        ] {
            assert_eq!(for_refused_object(message), None, "{message}");
        }
    }
}
