//! Tools that can be called as tasks only (specification 2025-11-25, basic/utilities/tasks). The gateway declares no tasks.

use memchr::memmem;
use serde::Deserialize;

/// Whether the tool that `json` describes requires its caller to ask for a task.
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
    // Nearly no tool says anything of tasks, and those are not parsed.
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
    fn only_a_tool_that_says_required_requires_a_task() {
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
