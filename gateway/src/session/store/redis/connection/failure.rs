//! Classifies errors of Redis: which server to ask instead, whether the connection is usable, whether the command
//! was refused, or whether Redis refuses this process.
//!
//! No error ever means that a record is gone.

use std::error::Error;
use std::io;
use std::sync::Arc;

use ::redis::{ErrorKind, RedisError, ServerErrorKind};
use rustls::AlertDescription;

use crate::config::RedisAddress;
use crate::session::store::StoreError;

/// What to do about an error.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CommandFailure {
    /// Redis does not have the script cached.
    NoScript,
    /// Another node owns the keys.
    Moved(RedisAddress),
    /// These keys have moved to another node already; the rest of the slot follows.
    Ask(RedisAddress),
    /// The keys are split between two nodes during a migration.
    TryAgain,
    /// The server is no longer a primary, so its data may be old.
    Demoted,
    /// The connection broke, or the credentials are no longer accepted. The operation may have happened.
    Broken,
    /// Redis refused the command, and would refuse it on any connection.
    Refused,
}

impl CommandFailure {
    /// Classifies `error`, which came from `node`.
    pub(super) fn of(error: &RedisError, node: &RedisAddress) -> Self {
        match error.kind() {
            ErrorKind::Io => Self::Broken,
            ErrorKind::Server(ServerErrorKind::NoScript) => Self::NoScript,
            ErrorKind::Server(ServerErrorKind::TryAgain) => Self::TryAgain,
            ErrorKind::Server(ServerErrorKind::ReadOnly) => Self::Demoted,
            ErrorKind::Server(ServerErrorKind::Moved) => {
                redirection(error, node).map_or(Self::Refused, Self::Moved)
            }
            ErrorKind::Server(ServerErrorKind::Ask) => {
                redirection(error, node).map_or(Self::Refused, Self::Ask)
            }
            _ => match code(error).as_str() {
                "READONLY" | "MASTERDOWN" => Self::Demoted,
                "NOAUTH" => Self::Broken,
                _ => Self::Refused,
            },
        }
    }
}

/// Whether the user lacks a permission.
pub(super) fn is_forbidden(error: &RedisError) -> bool {
    code(error) == "NOPERM"
}

/// The node that a redirection names. One without a host is on the host of `node`.
fn redirection(error: &RedisError, node: &RedisAddress) -> Option<RedisAddress> {
    let (address, _) = error.redirect_node()?;
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = if host.is_empty() || host == "?" {
        &node.host
    } else {
        host
    };
    Some(RedisAddress {
        host: host.to_owned(),
        port: port.parse().ok()?,
    })
}

/// The error code: the capitals at the start. Before version 7, Redis prepends its own text to an error from inside a
/// script.
fn code(error: &RedisError) -> String {
    let is_code = |word: &&str| word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_uppercase());
    let own = error.code().unwrap_or_default();
    let inner = || {
        let (_, inner) = error.detail()?.split_once(" -")?;
        inner.split(' ').next().filter(is_code)
    };
    // A command that is forbidden inside a script has no code of its own. The last text is that of Redis 7.2 and Valkey.
    let is_forbidden = || {
        let detail = error.detail().unwrap_or_default();
        detail.contains("can't run this command")
            || detail.contains("can't access at least one of the")
            || detail.starts_with("ACL failure in script")
    };
    match own {
        "ERR" if is_forbidden() => "NOPERM",
        "ERR" => inner().unwrap_or(own),
        own => own,
    }
    .to_owned()
}

/// Codes of the errors by which Redis refuses a process, whatever it asks for.
const ACCESS_CODES: [&str; 4] = ["WRONGPASS", "NOAUTH", "NOPERM", "DENIED"];

/// `error` of a connection or of its first commands.
pub(super) fn unavailable(error: &RedisError) -> StoreError {
    if let Some(refusal) = connection_refusal(error) {
        refusal
    } else if ACCESS_CODES.contains(&code(error).as_str()) {
        StoreError::access_denied(reason(error))
    } else {
        StoreError::unavailable(reason(error))
    }
}

/// The refusal in `error`, if the connection has ended because one side does not accept the certificate of the other.
pub(super) fn connection_refusal(error: &RedisError) -> Option<StoreError> {
    let shared = error.source()?.downcast_ref::<Arc<dyn Error + Send + Sync>>()?;
    let refusal = certificate_refusal(shared.downcast_ref::<io::Error>()?)?;
    Some(refusal.context("the connection to Redis failed"))
}

/// The refusal in a failure of TLS, if one side does not accept the certificate of the other.
pub(super) fn certificate_refusal(error: &io::Error) -> Option<StoreError> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let advice = match error {
        rustls::Error::InvalidCertificate(_) => {
            "check the trusted authorities and the server name in sessionStorage.tls"
        }
        rustls::Error::AlertReceived(
            AlertDescription::AccessDenied
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRequired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::UnsupportedCertificate,
        ) => {
            "Redis does not accept the gateway's certificate; check the client certificate in sessionStorage.tls"
        }
        _ => return None,
    };
    Some(StoreError::access_denied(format!("{error}; {advice}")))
}

/// `error` of a command that Redis refused, and would refuse on any connection.
pub(super) fn refused(error: &RedisError) -> StoreError {
    if ACCESS_CODES.contains(&code(error).as_str()) {
        StoreError::access_denied(reason(error))
    } else {
        StoreError::refused(reason(error))
    }
}

/// `error` of `AUTH` for the user `username`. Redis does not say whether the user or the password is wrong.
pub(super) fn authentication_failure(error: &RedisError, username: Option<&str>) -> StoreError {
    let detail = detail(error);
    match (code(error).as_str(), username) {
        ("WRONGPASS", Some(name)) => StoreError::access_denied(format!(
            "Redis says WRONGPASS: it does not accept the password of the user {name:?}, or has no such user; check the \
             password and sessionStorage.username ({detail})"
        )),
        ("WRONGPASS", None) => StoreError::access_denied(format!(
            "Redis says WRONGPASS: it does not accept the password of its default user; check the password, or set \
             sessionStorage.username ({detail})"
        )),
        ("ERR", _) if detail.contains("without any password configured") => {
            StoreError::access_denied(format!(
                "Redis says ERR: its default user has no password, but one is configured; remove it, or set \
                 sessionStorage.username ({detail})"
            ))
        }
        _ => unavailable(error),
    }
}

/// `error` of `SELECT` for the database `db`.
pub(super) fn database_failure(error: &RedisError, db: u16) -> StoreError {
    let detail = detail(error);
    let is_about_database = detail.contains("DB index") || detail.contains("cluster mode");
    if code(error) == "ERR" && is_about_database {
        return StoreError::access_denied(format!(
            "Redis says ERR: it has no database {db}; set sessionStorage.db to one that it has ({detail})"
        ));
    }
    unavailable(error)
}

/// What precedes the arguments of an unknown command in the words of Redis.
const REPEATED_ARGUMENTS: &str = ", with args beginning with";
/// Maximum length of text quoted from Redis.
const MAX_DETAIL: usize = 200;

/// Redis's own words, without a password or a value: a Redis that does not know a command repeats its arguments.
fn detail(error: &RedisError) -> String {
    let own = match error.kind() {
        ErrorKind::Server(_) | ErrorKind::Extension => error.detail().unwrap_or_default(),
        _ => &error.to_string(),
    };
    let own = own.split(REPEATED_ARGUMENTS).next().unwrap_or_default();
    own.chars().take(MAX_DETAIL).collect()
}

/// The command that Redis does not let its user run, if it names one.
fn forbidden_command(detail: &str) -> Option<String> {
    let (_, rest) = detail.split_once("run the '")?;
    let (command, _) = rest.split_once('\'')?;
    Some(command.to_ascii_uppercase())
}

/// What failed, and what to do about it.
pub(super) fn reason(error: &RedisError) -> String {
    if error.kind() == ErrorKind::Io {
        return format!("the connection to Redis failed: {error}");
    }
    let (code, detail) = (code(error), detail(error));
    let advice = match code.as_str() {
        "OOM" => "its memory is full; raise `maxmemory`, or lower the session limits",
        "READONLY" => "it is a replica and takes no writes; connect to the primary, or name the sentinels",
        "LOADING" => "it is loading its data; it answers when it is done",
        "MISCONF" => "it refuses writes because it cannot save its data; see its log",
        "CLUSTERDOWN" => "the cluster is down: no node has the keys of this server",
        "MASTERDOWN" => "it is a replica that has lost its primary",
        "NOREPLICAS" => "it refuses writes because too few replicas follow it",
        "BUSY" => "a script of another client has been running for too long",
        "MOVED" | "ASK" => {
            "another node of the cluster owns the keys; list the nodes of a cluster under sessionStorage.cluster"
        }
        "WRONGPASS" => "it does not accept this password for this user, or has no such user",
        "NOAUTH" => "it wants a password, and none is configured",
        "DENIED" => "it accepts only local clients, because it is in protected mode; set a password in Redis",
        "NOPERM" => {
            return match forbidden_command(&detail) {
                Some(command) => format!(
                    "Redis says NOPERM: its user may not run the command {command}; give it the permissions that \
                     docs/redis.md lists ({detail})"
                ),
                None => format!(
                    "Redis says NOPERM: its user lacks a permission; give it those that docs/redis.md lists ({detail})"
                ),
            };
        }
        _ => return format!("Redis says {code} {detail}"),
    };
    format!("Redis says {code}: {advice} ({detail})")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error that Redis sends as `line`.
    fn error(line: &str) -> RedisError {
        let value = ::redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        value.extract_error().unwrap_err()
    }

    // What a person must change in Redis or in the settings is a refusal of this process. What passes by itself is not.
    #[test]
    fn only_missing_access_is_denial_of_access() {
        for line in [
            "WRONGPASS invalid username-password pair or user is disabled.",
            "NOAUTH Authentication required.",
            "NOPERM this user has no permissions to run the 'get' command",
            "DENIED Redis is running in protected mode",
            "ERR The user executing the script can't run this command or subcommand script: x, on @user_script:1.",
            "ERR ACL failure in script: User gateway has no permissions to run the 'hset' command script: x",
        ] {
            let error = error(line);
            assert!(unavailable(&error).is_access_denied(), "{line}");
            assert!(refused(&error).is_access_denied(), "{line}");
        }
        for line in [
            "OOM command not allowed when used memory > 'maxmemory'.",
            "LOADING Redis is loading the dataset in memory",
            "READONLY You can't write against a read only replica.",
            "CLUSTERDOWN Hash slot not served",
            "ERR max number of clients reached",
        ] {
            let error = error(line);
            for failure in [
                unavailable(&error),
                refused(&error),
                authentication_failure(&error, None),
                database_failure(&error, 3),
            ] {
                assert!(!failure.is_access_denied(), "{line}: {failure}");
            }
        }
    }

    // A certificate that one side does not accept is a setting. A handshake that ends early is not.
    #[test]
    fn refused_certificate_is_denial_of_access() {
        let invalid = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let required = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
        for (tls, words) in [
            (invalid, "check the trusted authorities and the server name"),
            (required, "check the client certificate"),
        ] {
            let failure = unavailable(&io::Error::new(io::ErrorKind::InvalidData, tls).into());
            assert!(failure.is_access_denied(), "{failure}");
            assert!(failure.reason().contains(words), "{failure}");
        }
        let internal = rustls::Error::AlertReceived(AlertDescription::InternalError);
        for passing in [
            io::Error::new(io::ErrorKind::InvalidData, internal),
            io::ErrorKind::UnexpectedEof.into(),
        ] {
            let failure = unavailable(&passing.into());
            assert!(!failure.is_access_denied(), "{failure}");
        }
    }

    // An administrator may have renamed AUTH.
    #[test]
    fn unknown_command_does_not_show_its_arguments() {
        let unknown = error("ERR unknown command 'AUTH', with args beginning with: 'gateway' 'hunter2' ");
        for failure in [
            authentication_failure(&unknown, Some("gateway")),
            unavailable(&unknown),
        ] {
            assert!(failure.reason().contains("unknown command 'AUTH'"), "{failure}");
            assert!(!failure.reason().contains("hunter2"), "{failure}");
        }
    }

    // A proxy has words of its own.
    #[test]
    fn password_is_hidden_in_any_words() {
        let repeated = error("ERR no upstream accepts 'hunter2'");
        let failure = authentication_failure(&repeated, None);
        let hidden = failure.clone().hiding("hunter2");
        assert!(
            hidden.reason().contains("no upstream accepts '<hidden>'"),
            "{hidden}"
        );
        assert_eq!(failure.clone().hiding(""), failure);
    }

    #[test]
    fn denial_says_what_is_denied_and_what_to_do() {
        let wrong = error("WRONGPASS invalid username-password pair or user is disabled.");
        let no_password = error(
            "ERR AUTH <password> called without any password configured for the default user. Are you sure your \
             configuration is correct?",
        );
        let no_database = error("ERR DB index is out of range");
        let no_command = error("NOPERM User gateway has no permissions to run the 'hset' command");
        let no_key = error("NOPERM this user has no permissions to access one of the keys used as arguments");
        for (failure, words) in [
            (
                authentication_failure(&wrong, Some("gateway")),
                "the password of the user \"gateway\", or has no such user",
            ),
            (
                authentication_failure(&wrong, None),
                "the password of its default user",
            ),
            (
                authentication_failure(&no_password, None),
                "its default user has no password, but one is configured; remove it",
            ),
            (
                database_failure(&no_database, 99),
                "it has no database 99; set sessionStorage.db",
            ),
            (
                database_failure(&error("ERR SELECT is not allowed in cluster mode"), 1),
                "it has no database 1",
            ),
            (
                refused(&no_command),
                "its user may not run the command HSET; give it the permissions that docs/redis.md lists",
            ),
            (
                refused(&no_key),
                "its user lacks a permission; give it those that docs/redis.md lists",
            ),
            (
                unavailable(&error("NOAUTH Authentication required.")),
                "it wants a password, and none is configured",
            ),
        ] {
            assert!(failure.is_access_denied(), "{failure}");
            assert!(failure.reason().contains(words), "{failure}");
        }
    }
}
