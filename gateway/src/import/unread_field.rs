//! Fields of a server that the gateway cannot express.

/// What becomes of the field `name`, and what the user can do instead.
pub(super) fn advice(name: &str) -> &'static str {
    match name {
        "envFile" => "is ignored: add the variables of that file to `env`, and import again",
        "headersHelper" => "is ignored: the gateway does not run it; give the headers in `headers`",
        "oauth" | "auth" => "is ignored: the gateway cannot log in for you; give a token in `headers`",
        "includeTools" | "excludeTools" | "disabledTools" | "tools" => {
            "is ignored: set `tools.allow` or `tools.deny` of the backend in the written configuration"
        }
        "timeout" => "is ignored: set `timeouts.call` of the backend in the written configuration",
        "command" | "args" | "env" | "cwd" => "is ignored, because the server has a URL",
        "url" | "serverUrl" | "httpUrl" | "headers" => "is ignored, because the server is a command",
        _ => "is ignored: the gateway has no such setting",
    }
}
