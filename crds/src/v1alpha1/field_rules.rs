//! Rules for the strings of a spec: the same as the schema's CEL rules, for objects that are older than the schema.
//!
//! A string of a resource becomes part of an API path, a label, an environment variable, a configuration file or a Redis command. Each
//! rule lists the allowed characters and rejects all others.

/// Maximum length of a Kubernetes object's name, and of a Secret's key.
pub const MAX_NAME: usize = 253;
/// Maximum length of an image reference.
pub const MAX_IMAGE: usize = 1024;
/// Maximum length of `host:port` of a Redis server.
pub const MAX_ADDRESS: usize = 1024;
/// Maximum length of a Redis user name and of a key prefix.
pub const MAX_REDIS_TEXT: usize = 256;
/// Maximum length of a backend's URL.
pub const MAX_URL: usize = 2048;
/// Maximum length of the path of a route.
pub const MAX_PATH: usize = 256;
/// Maximum length of a virtual server's name: derived names such as `vmcp-<name>` of the Service must fit into 63 characters.
pub const MAX_SERVER_NAME: usize = 52;
/// Maximum length of a server's name: `mcp-<name>` of the Service must fit into 63 characters.
pub const MAX_MCP_SERVER_NAME: usize = 59;

/// Maximum number of characters of a value that a message repeats.
const MAX_QUOTED_CHARS: usize = 64;

/// Checks the name of a Kubernetes object: a DNS-1123 subdomain.
///
/// # Errors
/// When `text` is not a valid name; the message says what is allowed.
pub fn object_name(text: &str) -> Result<(), String> {
    let label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    let valid = text.len() <= MAX_NAME && text.split('.').all(label);
    check(
        valid,
        text,
        "the name of an object: at most 253 lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit",
    )
}

/// Checks the key of an entry in a Secret.
///
/// # Errors
/// When `text` is not a valid key; the message says what is allowed.
pub fn secret_key(text: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let valid = !text.is_empty()
        && text.len() <= MAX_NAME
        && text.bytes().all(allowed)
        && text != "."
        && !text.starts_with("..");
    check(
        valid,
        text,
        "the key of a Secret: at most 253 letters, digits, '-', '_' and '.'",
    )
}

/// Checks the name of a virtual server.
///
/// # Errors
/// When the names derived from `text` would not be valid.
pub fn server_name(text: &str) -> Result<(), String> {
    let valid = text.len() <= MAX_SERVER_NAME && !text.contains('.') && object_name(text).is_ok();
    check(
        valid,
        text,
        "at most 52 characters and no dots: the Service is named vmcp-<name>",
    )
}

/// Checks the name of a server that the operator runs.
///
/// # Errors
/// When the names derived from `text` would not be valid.
pub fn mcp_server_name(text: &str) -> Result<(), String> {
    let valid = text.len() <= MAX_MCP_SERVER_NAME && !text.contains('.') && object_name(text).is_ok();
    check(
        valid,
        text,
        "at most 59 characters and no dots: the Service is named mcp-<name>",
    )
}

/// Checks the reference of a container image: `[registry/]path[:tag][@digest]`.
///
/// # Errors
/// When `text` is not a valid reference; the message says what is allowed.
pub fn image(text: &str) -> Result<(), String> {
    let valid = text.len() <= MAX_IMAGE && is_image(text);
    check(
        valid,
        text,
        "an image reference, for example registry.example/team/gateway:1.2",
    )
}

fn is_image(text: &str) -> bool {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    // The last colon begins the tag, unless a slash follows: then it begins the registry's port.
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (rest, None),
    };
    let mut parts = path.split('/');
    let first = parts.next().unwrap_or_default();
    let has_more = path.contains('/');
    let word = |text: &str, extra: &[u8]| {
        text.bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || extra.contains(&byte))
    };
    let digest_is_valid = digest.is_none_or(|digest| {
        let (algorithm, hex) = digest.split_once(':').unwrap_or_default();
        word(algorithm, b"+._-") && !hex.is_empty() && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    let tag_is_valid = tag.is_none_or(|tag| tag.len() <= 128 && word(tag, b"._-"));
    let first_is_valid = is_path_part(first) || (has_more && is_registry(first));
    digest_is_valid && tag_is_valid && first_is_valid && parts.all(is_path_part) && !text.contains("..")
}

/// Whether `part` consists of lower-case letters and digits, joined by `.`, `_`, `__` or hyphens, without `..`.
fn is_path_part(part: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-');
    edge(part.bytes().next())
        && edge(part.bytes().next_back())
        && part.bytes().all(allowed)
        && !part.contains("..")
}

/// Whether `text` is `host[:port]` of a registry.
fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    is_host(host)
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Checks the address of a Redis server.
///
/// # Errors
/// When `text` is not `host:port`; the message says what is allowed.
pub fn redis_address(text: &str) -> Result<(), String> {
    let valid = text.len() <= MAX_ADDRESS
        && text.rsplit_once(':').is_some_and(|(host, port)| {
            let digits = port.bytes().all(|byte| byte.is_ascii_digit()) && !port.starts_with('0');
            is_host(host) && digits && port.parse::<u16>().is_ok()
        });
    // The part before an `@` may be a password.
    let quoted = text.rsplit_once('@').map_or(text, |(_, rest)| rest);
    check(
        valid,
        quoted,
        "host:port without a scheme, for example redis.tools.svc:6379",
    )
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|address| {
            !address.is_empty()
                && address
                    .bytes()
                    .all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
        }),
        None => {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
            !host.is_empty() && host.bytes().all(allowed)
        }
    }
}

/// Checks the path of a route.
///
/// # Errors
/// When `text` is not a path without special segments; the message says what is allowed.
pub fn route_path(text: &str) -> Result<(), String> {
    let segment = |segment: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'~' | b'-');
        !segment.is_empty() && !segment.starts_with('.') && segment.bytes().all(allowed)
    };
    let valid = text.len() <= MAX_PATH
        && text
            .strip_prefix('/')
            .is_some_and(|rest| rest.split('/').all(segment));
    check(valid, text, "a path such as /team-a/mcp")
}

/// Checks the name of a Redis user.
///
/// # Errors
/// When `text` is empty or too long, or contains white space or control characters; the message says what is allowed.
pub fn redis_text(text: &str) -> Result<(), String> {
    let refused = |character: char| character.is_ascii_control() || character.is_ascii_whitespace();
    let valid = !text.is_empty() && text.len() <= MAX_REDIS_TEXT && !text.contains(refused);
    check(
        valid,
        text,
        "at most 256 bytes without white space or control characters",
    )
}

/// Checks the prefix of Redis keys.
///
/// # Errors
/// The same as [`redis_text`], and when `text` contains braces.
pub fn key_prefix(text: &str) -> Result<(), String> {
    redis_text(text)?;
    check(
        !text.contains(['{', '}']),
        text,
        "no braces: they determine the slot of a key in a Redis cluster",
    )
}

fn check(valid: bool, text: &str, expected: &str) -> Result<(), String> {
    if valid {
        return Ok(());
    }
    Err(format!("found {}; expected {expected}", quoted(text)))
}

/// Returns at most `max` characters of `text` on one line.
#[must_use]
pub fn one_line(text: &str, max: usize) -> String {
    let visible = |character: char| if character.is_control() { ' ' } else { character };
    text.chars().take(max).map(visible).collect()
}

/// Returns `text` in quotes, on one line, and shortened for a message.
#[must_use]
pub fn quoted(text: &str) -> String {
    let cut: String = text.chars().take(MAX_QUOTED_CHARS).collect();
    let rest = if cut.len() < text.len() { "..." } else { "" };
    format!("{cut:?}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_that_is_not_dns_subdomain_is_rejected() {
        for name in ["a", "a-b.c", "0", &"x".repeat(253)] {
            object_name(name).unwrap();
        }
        for name in [
            "",
            "?x=",
            "?watch=1&x=",
            "a/b",
            "..",
            ".",
            "a.",
            "-a",
            "a-",
            "A",
            "a b",
            "a\n",
            "%2e",
            "ä",
            "a..b",
            "a#b",
            &"x".repeat(254),
        ] {
            let message = object_name(name).unwrap_err();
            assert!(message.starts_with("found \""), "{message}");
        }
    }

    #[test]
    fn invalid_secret_key_is_rejected() {
        for key in ["password", "a.b", ".dockerconfigjson", "A_b-9"] {
            secret_key(key).unwrap();
        }
        for key in [
            "",
            ".",
            "..",
            "..data",
            "a/b",
            "a=b",
            "a b",
            "a\n",
            "ä",
            &"x".repeat(254),
        ] {
            secret_key(key).unwrap_err();
        }
    }

    #[test]
    fn invalid_image_reference_is_rejected() {
        for text in [
            "gateway",
            "vmcp-gateway:test",
            "registry.example/gateway@sha256:0",
            "registry.example:5000/a/b_c/d--e:V1.2_x",
            "localhost:5000/x",
            "[::1]:5000/x:1@sha256:ab",
        ] {
            image(text).unwrap();
        }
        for text in [
            "",
            "a b",
            "a\n",
            "../a",
            "a/../b",
            "a//b",
            "/a",
            "a/",
            "a:",
            "a@",
            "a@sha256",
            "a:b:c",
            "http://a/b",
            "A",
            "a?x=1",
            "a#b",
            "ä/b",
            "a:..",
            "-a",
            &"x".repeat(1025),
        ] {
            image(text).unwrap_err();
        }
    }

    #[test]
    fn rejected_redis_address_hides_password() {
        for text in ["redis:6379", "[fd00::1]:6379", "a_b.c-d:1"] {
            redis_address(text).unwrap();
        }
        for text in [
            "",
            "redis",
            "redis:",
            ":1",
            "redis:0",
            "redis:65536",
            "redis:+1",
            "a/b:1",
            "a b:1",
            "a\"b:1",
            "[x]:1",
            "redis://r:1",
            "user:hunter2@redis:6379",
        ] {
            let message = redis_address(text).unwrap_err();
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn message_about_long_value_is_short_and_one_line() {
        let message = object_name(&"\n".repeat(100_000)).unwrap_err();
        assert!(message.len() < 500 && !message.contains('\n'), "{message}");
    }
}
