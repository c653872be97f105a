//! Why the API server did not do what was asked, without a word of what it answered that may be a secret.
//!
//! The library's own texts repeat parts of an answer that it could not read, and the whole of a refusal that is none of
//! Kubernetes. An answer may be a Secret.

use kube::core::Status;
use kube::runtime::watcher;
use vmcp_crds::v1alpha1::field_rules::one_line;

/// How much of a refusal is repeated.
const MAX_WORDS: usize = 1000;
/// The reason that the library gives a refusal that it made itself of an answer it could not read.
const UNREADABLE: &str = "Failed to parse error data";

/// Why a request failed.
#[must_use]
pub fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => refusal(status),
        kube::Error::SerdeError(error) => format!(
            "the answer is not what this operator asked for (at line {}, column {})",
            error.line(),
            error.column()
        ),
        other => one_line(&other.to_string(), MAX_WORDS),
    }
}

/// Why a watch broke.
#[must_use]
pub fn explain_watch(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => explain(error),
        watcher::Error::WatchError(status) => refusal(status),
        watcher::Error::NoResourceVersion => "the list has no resource version".to_owned(),
    }
}

fn refusal(status: &Status) -> String {
    if status.reason == UNREADABLE {
        return format!("the answer does not come from an API server ({})", status.code);
    }
    format!("{} ({})", one_line(&status.message, MAX_WORDS), status.code)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Secret;

    use super::*;

    #[test]
    fn secret_in_an_unreadable_answer_is_not_repeated() {
        let unreadable = serde_json::from_str::<Secret>(r#"{"data": "hunter2"}"#).unwrap_err();
        assert!(
            unreadable.to_string().contains("hunter2"),
            "the library repeats it"
        );
        let words = explain(&kube::Error::SerdeError(unreadable));
        assert!(
            words.contains("not what this operator asked for") && !words.contains("hunter2"),
            "{words}"
        );

        let proxy = Status::failure("hunter2", UNREADABLE).with_code(502);
        let words = explain(&kube::Error::Api(proxy.boxed()));
        assert_eq!(words, "the answer does not come from an API server (502)");
    }

    #[test]
    fn refusal_of_the_api_server_is_repeated_in_one_line() {
        let status = Status::failure("no\nquota", "Forbidden").with_code(403);
        assert_eq!(explain(&kube::Error::Api(status.boxed())), "no quota (403)");
    }
}
