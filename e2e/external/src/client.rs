//! MCP clients on third-party SDKs, and the inspector.

use std::process::Command;

use crate::{go_sdk, npm, python};

/// A client on the TypeScript SDK v1, the most deployed one. The script describes its input and output.
///
/// # Errors
/// When the SDK cannot be installed.
pub fn typescript_v1() -> anyhow::Result<Command> {
    Ok(npm::conformance()?.script("typescript_v1_client.cjs"))
}

/// A client on the Python SDK that speaks the revisions with sessions. It reads and writes what [`typescript_v1`] does.
///
/// # Errors
/// When the SDK cannot be installed.
pub fn python_legacy() -> anyhow::Result<Command> {
    let mut command = Command::new(python::venv()?.python());
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/python/client.py"));
    Ok(command)
}

/// The client on the TypeScript SDK of that version, `v1` or `v2`, whose session is terminated by another client. The script describes it.
///
/// # Errors
/// When the SDK cannot be installed.
pub fn lost_session_typescript(version: &str, url: &str) -> anyhow::Result<Command> {
    let mut command = npm::conformance()?.script("lost_session.cjs");
    command.args([version, url]);
    Ok(command)
}

/// The client on the Python SDK whose session is terminated by another client.
///
/// # Errors
/// When the SDK cannot be installed.
pub fn lost_session_python(url: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(python::venv()?.python());
    command.args([
        concat!(env!("CARGO_MANIFEST_DIR"), "/python/lost_session.py"),
        url,
    ]);
    Ok(command)
}

/// The client on the SDK of that name, `python`, `typescript-v1`, `typescript-v2` or `go`, that plays conversations however they go. The
/// file with them is to be added.
///
/// # Errors
/// When the SDK cannot be installed, or no client has that name.
pub fn play(sdk: &str) -> anyhow::Result<Command> {
    match sdk {
        "python" => {
            let mut command = Command::new(python::venv()?.python());
            command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/python/play.py"));
            Ok(command)
        }
        "typescript-v1" | "typescript-v2" => {
            let mut command = npm::conformance()?.script("play.cjs");
            command.arg(sdk.trim_start_matches("typescript-"));
            Ok(command)
        }
        "go" => {
            let mut command = Command::new(go_sdk::program()?);
            command.arg("play");
            Ok(command)
        }
        _ => anyhow::bail!("there is no client that plays on the SDK {sdk}"),
    }
}

/// The client on the AI SDK of that major version, which connects with the SDK's defaults and calls a tool.
///
/// # Errors
/// When the SDK cannot be installed.
pub fn ai_sdk(version: &str, url: &str) -> anyhow::Result<Command> {
    let mut command = npm::conformance()?.script("ai_sdk.cjs");
    command.args([version, url]);
    Ok(command)
}

/// The clients on SDKs for Go. The program describes each `task`.
///
/// # Errors
/// When the program cannot be built.
pub fn go(task: &str, url: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(go_sdk::program()?);
    command.args([task, url]);
    Ok(command)
}

/// The inspector's command line for one `method` at `url`; it prints the result. Arguments for the method are to be added.
///
/// # Errors
/// When the inspector cannot be installed.
pub fn inspector(url: &str, method: &str) -> anyhow::Result<Command> {
    inspector_with(["--cli", url, "--transport", "http", "--method", method])
}

/// The inspector with these arguments.
///
/// # Errors
/// When the inspector cannot be installed.
pub fn inspector_with<'a>(arguments: impl IntoIterator<Item = &'a str>) -> anyhow::Result<Command> {
    let mut command = npm::conformance()?.command("mcp-inspector");
    command.args(arguments);
    Ok(command)
}
