//! Error texts for failed API requests that never contain response data, which may be a Secret.
//!
//! The client library's own texts repeat parts of a response that it could not parse, and the whole body of an error response
//! that does not come from Kubernetes.

use kube::core::Status;
use kube::runtime::watcher;
use vmcp_crds::v1alpha1::field_rules::one_line;

/// Maximum number of characters of a Kubernetes error message that is repeated.
const MAX_MESSAGE_CHARS: usize = 1000;
/// The `reason` that the library sets in a [`Status`] that it made from an error response it could not parse.
const UNPARSED_REASON: &str = "Failed to parse error data";

/// Describes why a request failed.
#[must_use]
pub(crate) fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => describe_status(status),
        kube::Error::SerdeError(error) => format!(
            "cannot parse the API server's response (at line {}, column {})",
            error.line(),
            error.column()
        ),
        other => one_line(&other.to_string(), MAX_MESSAGE_CHARS),
    }
}

/// Describes why a watch failed.
#[must_use]
pub(crate) fn describe_watch_error(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => describe(error),
        watcher::Error::WatchError(status) => describe_status(status),
        watcher::Error::NoResourceVersion => "the list has no resource version".to_owned(),
    }
}

/// The HTTP status with which the API server ended a watch, if it answered.
#[must_use]
pub(crate) fn watch_error_code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

fn describe_status(status: &Status) -> String {
    if status.reason == UNPARSED_REASON {
        return format!(
            "the response is not from a Kubernetes API server ({})",
            status.code
        );
    }
    format!(
        "{} ({})",
        one_line(&status.message, MAX_MESSAGE_CHARS),
        status.code
    )
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Secret;

    use super::*;

    // The text of an error does not repeat a response that could not be parsed.
    #[test]
    fn secret_in_unparsed_response_is_not_repeated() {
        let unreadable = serde_json::from_str::<Secret>(r#"{"data": "hunter2"}"#).unwrap_err();
        assert!(
            unreadable.to_string().contains("hunter2"),
            "the library's own text no longer repeats the response"
        );
        let text = describe(&kube::Error::SerdeError(unreadable));
        assert!(
            text.contains("cannot parse the API server's response") && !text.contains("hunter2"),
            "{text}"
        );

        let proxy = Status::failure("hunter2", UNPARSED_REASON).with_code(502);
        let text = describe(&kube::Error::Api(proxy.boxed()));
        assert_eq!(text, "the response is not from a Kubernetes API server (502)");
    }

    // A rejection by the API server is repeated, on one line.
    #[test]
    fn api_server_rejection_is_repeated_on_one_line() {
        let status = Status::failure("no\nquota", "Forbidden").with_code(403);
        assert_eq!(describe(&kube::Error::Api(status.boxed())), "no quota (403)");
    }
}
