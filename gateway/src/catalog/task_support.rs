//! Detects tools that can only be called as tasks (specification 2025-11-25, basic/utilities/tasks). The gateway does not declare tasks.

use memchr::memmem;
use serde::Deserialize;

/// Whether the tool definition `json` has `execution.taskSupport: "required"`.
pub(super) fn requires_task(json: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Tool<'a> {
        #[serde(borrow, default)]
        execution: Option<Execution<'a>>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Execution<'a> {
        #[serde(borrow, default)]
        task_support: Option<std::borrow::Cow<'a, str>>,
    }
    // Almost no tool mentions tasks; skip the parser for the others.
    if memmem::find(json, b"taskSupport").is_none() {
        return false;
    }
    let tool: Option<Tool<'_>> = serde_json::from_slice(json).ok();
    let support = tool.and_then(|tool| tool.execution?.task_support);
    support.is_some_and(|support| support == "required")
}

#[cfg(test)]
mod tests {
    use super::requires_task;

    #[test]
    fn only_task_support_required_requires_a_task() {
        for (tool, expected) in [
            (r#"{"name":"x","execution":{"taskSupport":"required"}}"#, true),
            (r#"{"name":"x","execution":{"taskSupport":"optional"}}"#, false),
            (r#"{"name":"x","execution":{"taskSupport":7}}"#, false),
            (r#"{"name":"x","execution":null,"taskSupport":"required"}"#, false),
            (r#"{"name":"x"}"#, false),
        ] {
            assert_eq!(requires_task(tool.as_bytes()), expected, "{tool}");
        }
    }
}
