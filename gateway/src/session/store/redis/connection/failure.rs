//! Classifies errors of Redis: which server to ask instead, whether the connection is usable, or whether the command
//! was refused.
//!
//! No error ever means that a record is gone.

use ::redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::config::RedisAddress;

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
    // A command that is forbidden inside a script has no code of its own.
    let is_forbidden = || {
        let detail = error.detail().unwrap_or_default();
        detail.contains("can't run this command") || detail.contains("can't access at least one of the")
    };
    match own {
        "ERR" if is_forbidden() => "NOPERM",
        "ERR" => inner().unwrap_or(own),
        own => own,
    }
    .to_owned()
}

/// Maximum length of text quoted from Redis.
const MAX_DETAIL: usize = 200;

/// What failed, and what to do about it. Redis's errors never repeat a password or a value.
pub(super) fn reason(error: &RedisError) -> String {
    let code = code(error);
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
        "WRONGPASS" => "it does not accept this user name and password",
        "NOAUTH" => "it wants a password, and got none",
        "NOPERM" => "its user lacks a permission; docs/redis.md lists the ones needed",
        _ => "",
    };
    let detail = match error.kind() {
        ErrorKind::Io => return format!("the connection to Redis failed: {error}"),
        ErrorKind::Server(_) | ErrorKind::Extension => error.detail().unwrap_or_default(),
        _ => &error.to_string(),
    };
    let detail: String = detail.chars().take(MAX_DETAIL).collect();
    if advice.is_empty() {
        format!("Redis says {code} {detail}")
    } else {
        format!("Redis says {code}: {advice} ({detail})")
    }
}
