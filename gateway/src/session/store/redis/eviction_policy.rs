//! Asks Redis whether it drops sessions when its memory is full.
//!
//! The answer only leads to a warning. A user without the permission for `INFO` gets none.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use super::StoreError;
use super::connection::RedisConnection;
use crate::session::store::UnavailableCause;

/// Time between two questions on the same connection: the policy can be changed while Redis runs.
const ASK_EVERY: Duration = Duration::from_secs(60);
/// The only policy that never drops a key.
const KEEPS_ALL: &str = "noeviction";

/// The eviction policy of the Redis in use. Dropping this ends the questions.
#[derive(Debug)]
pub(super) struct EvictionPolicy {
    warning: Arc<Mutex<Option<String>>>,
    _task: JoinSet<()>,
}

impl EvictionPolicy {
    /// Starts to ask on `connection`, and again on each connection that replaces it.
    pub(super) fn watch(connection: RedisConnection) -> Self {
        let warning = Arc::new(Mutex::default());
        let mut task = JoinSet::new();
        task.spawn(ask_repeatedly(connection, Arc::clone(&warning)));
        Self { warning, _task: task }
    }

    /// Why Redis may drop sessions. `None` if it keeps them, or if that is not known.
    pub(super) fn warning(&self) -> Option<String> {
        self.warning
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

async fn ask_repeatedly(connection: RedisConnection, warning: Arc<Mutex<Option<String>>>) {
    let mut number = 0;
    loop {
        tokio::select! {
            opened = connection.opened_after(number) => number = opened,
            () = tokio::time::sleep(ASK_EVERY) => {}
        }
        let found = match connection
            .command::<String>(::redis::cmd("INFO").arg("memory"))
            .await
        {
            Ok(info) => warning_in(&info),
            Err(StoreError::Unavailable {
                cause: UnavailableCause::NoAnswer,
                ..
            }) => continue,
            Err(_) => None,
        };
        let mut known = warning.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = found.as_ref().filter(|found| known.as_ref() != Some(found)) {
            tracing::warn!("{found}");
        }
        *known = found;
    }
}

/// The warning for an answer to `INFO memory`: lines of the form `name:value`.
fn warning_in(info: &str) -> Option<String> {
    let field = |name: &str| {
        let mut values = info.lines().filter_map(|line| line.trim_end().split_once(':'));
        values.find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    let policy = field("maxmemory_policy").filter(|policy| *policy != KEEPS_ALL)?;
    let limit: u64 = field("maxmemory")?.parse().ok()?;
    (limit > 0).then(|| {
        format!(
            "Redis drops sessions when it holds {limit} bytes, because its maxmemory-policy is {policy:?}: set it to {KEEPS_ALL}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_policy_that_drops_keys_leads_to_warning() {
        let info = |limit: &str, policy: &str| {
            format!("# Memory\r\nused_memory:1\r\nmaxmemory:{limit}\r\nmaxmemory_policy:{policy}\r\n")
        };
        assert_eq!(warning_in(&info("1000", "noeviction")), None);
        assert_eq!(warning_in(&info("0", "allkeys-lru")), None);
        assert_eq!(warning_in(""), None);
        for policy in ["allkeys-lru", "volatile-ttl"] {
            let warning = warning_in(&info("1000", policy)).unwrap();
            assert!(
                warning.contains(policy) && warning.contains("noeviction"),
                "{warning}"
            );
        }
    }
}
