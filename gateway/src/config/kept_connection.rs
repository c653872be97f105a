//! Keeps the connection settings of a backend while a file that its new settings name does not exist.
//!
//! On Kubernetes a running pod takes a new configuration, but only new pods mount the files of a new reference to a Secret. A pod that is
//! about to be replaced therefore continues with settings that it can satisfy, instead of failing the calls of that backend.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::{BackendName, HotSettings, UpstreamSettings, pass_headers};

/// A backend that keeps its previous connection settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptConnection {
    /// Name of the backend.
    pub backend: BackendName,
    /// The file of its new settings that does not exist.
    pub missing_file: PathBuf,
}

impl HotSettings {
    /// Replaces the endpoint and the connection settings of each backend that names a missing file by those in `before`, if those do not name
    /// it. What the backend may offer, and its limits, are the new ones in any case.
    #[must_use]
    pub fn keeping_connections_of(mut self, before: &Self) -> Self {
        let earlier = before.backends.iter().map(|backend| (&backend.name, backend));
        let earlier: HashMap<_, _> = earlier.collect();
        for backend in &mut self.backends {
            let Some(earlier) = earlier.get(&backend.name) else {
                continue;
            };
            let Some(missing_file) = new_missing_file(&backend.upstream, &earlier.upstream) else {
                continue;
            };
            self.kept_connections.push(KeptConnection {
                backend: backend.name.clone(),
                missing_file: missing_file.to_owned(),
            });
            // The old credentials belong to the old URL.
            backend.endpoint = earlier.endpoint.clone();
            backend.upstream = earlier.upstream.clone();
        }
        if !self.kept_connections.is_empty() {
            self.pass_headers = pass_headers(&self.backends);
        }
        self
    }
}

/// The first missing file that `new` names and `old` does not.
fn new_missing_file<'a>(new: &'a UpstreamSettings, old: &UpstreamSettings) -> Option<&'a Path> {
    new.files()
        .find(|file| !old.files().any(|other| other == *file) && !file.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hot configuration with one backend, whose fields are `fields`.
    fn hot(directory: &Path, fields: &str) -> HotSettings {
        let file = directory.join("hot.yaml");
        std::fs::write(&file, format!("backends: [{{name: a, {fields}}}]")).unwrap();
        HotSettings::load(&file).unwrap()
    }

    // A missing file holds back the URL and the connection, whichever setting names it, and nothing else.
    #[test]
    fn missing_file_keeps_url_and_connection() {
        let directory = tempfile::tempdir().unwrap();
        let hot = |fields: &str| hot(directory.path(), fields);
        let before = hot("url: 'http://old', passHeaders: [X-Old]");
        for setting in [
            "headers: {X-Key: {file: key}}",
            "tls: {caFile: ca.pem}",
            "tls: {certFile: tls.crt, keyFile: tls.key}",
        ] {
            let fields =
                format!("url: 'https://new', passHeaders: [X-New], tools: {{allow: [x]}}, {setting}");
            let (new, kept) = (hot(&fields), hot(&fields).keeping_connections_of(&before));
            let (held, old) = (&kept.backends[0], &before.backends[0]);
            assert_eq!(
                (&held.endpoint, &held.upstream),
                (&old.endpoint, &old.upstream),
                "{setting}"
            );
            assert_eq!(held.exposure, new.backends[0].exposure);
            assert_eq!(&*kept.pass_headers, ["x-old"]);
            assert_eq!(kept.kept_connections.len(), 1);
            // The next reload decides anew.
            let missing = &kept.kept_connections[0].missing_file;
            assert!(missing.starts_with(directory.path()), "{missing:?}");
            assert_eq!(
                hot(&fields).keeping_connections_of(&kept).kept_connections,
                kept.kept_connections
            );
        }
    }

    // Settings whose files exist are used, and so are those of a new backend, and those whose missing file is not new.
    #[test]
    fn settings_without_new_missing_file_are_used() {
        let directory = tempfile::tempdir().unwrap();
        let hot = |fields: &str| hot(directory.path(), fields);
        let with_key = "url: 'http://new', headers: {X-Key: {file: key}}";
        let before = hot("url: 'http://old'");
        let none = HotSettings::default();
        let same = hot("url: 'http://old', headers: {X-Other: {file: key}}");
        for before in [&none, &same] {
            let new = hot(with_key).keeping_connections_of(before);
            assert!(new.kept_connections.is_empty());
            assert_eq!(new.backends[0].url().unwrap(), "http://new/");
        }
        assert_eq!(
            hot(with_key)
                .keeping_connections_of(&before)
                .kept_connections
                .len(),
            1
        );
        std::fs::write(directory.path().join("key"), "s3cret").unwrap();
        let new = hot(with_key).keeping_connections_of(&before);
        assert!(new.kept_connections.is_empty());
        assert_eq!(new.backends[0].url().unwrap(), "http://new/");
    }
}
