//! Guesses which arguments and URLs contain secrets.
//!
//! A wrong guess costs little: the argument is read from the environment, and works as before.

/// Beginnings of well-known tokens.
const TOKEN_PREFIXES: [&str; 14] = [
    "sk-",
    "sk_",
    "pk_live_",
    "ghp_",
    "gho_",
    "ghs_",
    "github_pat_",
    "glpat-",
    "xoxb-",
    "xoxp-",
    "AKIA",
    "eyJ",
    "hf_",
    "Bearer ",
];

/// Words in the names of secrets.
const SECRET_WORDS: [&str; 9] = [
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "apikey",
    "authorization",
    "credential",
    "bearer",
];

/// Whether `argument`, which follows `previous`, may contain a secret.
pub(super) fn is_secret_argument(previous: Option<&str>, argument: &str) -> bool {
    let is_value = !argument.is_empty() && !argument.starts_with('-');
    let follows_option = previous
        .is_some_and(|option| option.starts_with('-') && !option.contains('=') && is_secret_name(option));
    let has_token_prefix = TOKEN_PREFIXES.iter().any(|prefix| argument.starts_with(prefix));
    (follows_option && is_value) || has_token_prefix || has_named_secret(argument) || is_secret_url(argument)
}

/// Whether `url` has a password, or a query parameter whose name is that of a secret.
pub(super) fn is_secret_url(url: &str) -> bool {
    let Some((_, rest)) = url.split_once("://") else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let user = authority.rsplit_once('@').map(|(user, _)| user);
    let query = rest.split_once('?').map_or("", |(_, query)| query);
    let in_query = query.split(['&', '#']).any(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        !value.is_empty() && is_secret_name(name)
    });
    in_query || user.is_some_and(|user| user.contains(':'))
}

/// Whether a variable, an option, a header or a parameter with this name is likely to hold a secret.
pub(super) fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let mut words = name.split(|character: char| !character.is_ascii_alphanumeric());
    SECRET_WORDS.iter().any(|word| name.contains(word))
        || words.any(|word| ["key", "pat", "auth"].contains(&word))
}

/// Whether the argument is `--api-key=VALUE`, `API_KEY=VALUE` or `X-Api-Key: VALUE`.
fn has_named_secret(argument: &str) -> bool {
    let Some((name, value)) = argument.split_once(['=', ':']) else {
        return false;
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !value.trim().is_empty() && name.bytes().all(is_name) && is_secret_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_arguments_are_found() {
        for (previous, argument) in [
            (Some("--api-key"), "abc"),
            (Some("-token"), "abc"),
            (None, "--api-key=abc"),
            (None, "--auth-token=abc"),
            (Some("-e"), "GITHUB_TOKEN=abc"),
            (Some("--header"), "Authorization: Bearer abc"),
            (Some("--header"), "X-API-Key:abc"),
            (None, "postgresql://me:hunter2@db/shop"),
            (None, "https://mcp.example.com/mcp?tavilyApiKey=abc"),
            (Some("x"), "ghp_abc"),
        ] {
            assert!(is_secret_argument(previous, argument), "{previous:?} {argument}");
        }
        for (previous, argument) in [
            (None, "-y"),
            (None, "@modelcontextprotocol/server-filesystem"),
            (Some("--repository"), "/home/ada/work"),
            (Some("--token"), "--verbose"),
            (Some("-e"), "GITHUB_TOKEN"),
            (None, "--keyfile=/x"),
            (None, "--path=/x"),
            (None, "https://example.com/mcp?team=a"),
            (None, "postgresql://db/shop"),
            (None, ""),
        ] {
            assert!(!is_secret_argument(previous, argument), "{previous:?} {argument}");
        }
    }
}
