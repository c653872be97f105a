//! Takes changes of the configuration and of the session keys without a restart, or rejects them.

use std::path::PathBuf;
use std::sync::Arc;

use vmcp_crds::session_key::CURRENT;

use crate::config::file_watcher::FileWatcher;
use crate::config::{HotSettings, HotSource};
use crate::core::Core;
use crate::session::id::signing_keys::SigningKeys;
use crate::telemetry::Metrics;
use crate::telemetry::logs::LevelHandle;

/// Reloads the session keys when their files change. An invalid set is rejected, and the previous one stays in use.
pub(crate) async fn session_keys(directory: PathBuf, keys: SigningKeys) {
    let mut watch = FileWatcher::new(&directory.join(CURRENT));
    let mut last_error = None;
    loop {
        match keys.reload(&directory) {
            Ok(changed) => {
                if changed {
                    tracing::info!("session keys reloaded");
                }
                last_error = None;
            }
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::from(error));
                if last_error.as_ref() != Some(&error) {
                    tracing::error!(error, "session key reload rejected");
                }
                last_error = Some(error);
            }
        }
        watch.changed().await;
    }
}

/// Reloads the hot configuration when its file changes, or a file that it waits for has appeared. An invalid file is rejected, and the
/// previous configuration stays in use.
pub(crate) async fn configuration(source: HotSource, core: Core, level: LevelHandle, metrics: Metrics) {
    let mut watch = FileWatcher::new(source.file());
    let mut rest = source.read_rest();
    loop {
        watch.changed().await;
        let in_use = Arc::clone(&core.hot());
        let read = source.reload(&in_use).map(|(hot, rest_now)| {
            if rest_now != rest {
                tracing::warn!("configuration changes outside `hot` take effect at the next start");
                rest = rest_now;
            }
            hot.keeping_connections_of(&in_use)
        });
        let is_same =
            |hot: &HotSettings| hot.hash == in_use.hash && hot.kept_connections == in_use.kept_connections;
        match read {
            // The file equals the configuration in use again, after a rejected change was undone.
            Ok(hot) if is_same(&hot) => core.accept(),
            Ok(hot) => {
                for kept in &hot.kept_connections {
                    tracing::warn!(
                        backend = %kept.backend,
                        file = %kept.missing_file.display(),
                        "file of new backend settings does not exist; keeping the previous connection settings"
                    );
                }
                tracing::info!(
                    hash = hot.hash,
                    backends = hot.backends.len(),
                    "configuration reloaded"
                );
                level.set(hot.log_level);
                core.apply(hot).await;
                metrics.reloaded(true);
            }
            Err(error) => {
                if core.hot_error().as_ref() != Some(&error.to_string()) {
                    tracing::error!(%error, "configuration reload rejected");
                    metrics.reloaded(false);
                }
                core.refuse(error.to_string());
            }
        }
    }
}
