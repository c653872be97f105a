//! The keys that sign session ids.
//!
//! There are up to three: `current` signs, and all are accepted. The operator rotates them in the order next, current, previous, so
//! that every replica knows a key before another one signs with it.

use std::path::Path;
use std::sync::Arc;

use vmcp_crds::session_key::{CURRENT, InvalidKey, NEXT, PREVIOUS, SessionKey};

/// The keys in use. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct Keys {
    slots: Arc<Slots>,
}

#[derive(Debug)]
struct Slots {
    current: Arc<SessionKey>,
    others: Vec<Arc<SessionKey>>,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A file cannot be read.
    #[error("cannot read the session key {file}")]
    Unreadable {
        /// The file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds no key.
    #[error("{file} is no session key")]
    Invalid {
        /// The file.
        file: String,
        /// Why.
        source: InvalidKey,
    },
    /// The operating system gives no randomness.
    #[error("no randomness for a session key: {0}")]
    NoRandomness(String),
}

impl Keys {
    /// One new key, for sessions that end with this process.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn random() -> Result<Self, KeysError> {
        let key = SessionKey::generate().map_err(|error| KeysError::NoRandomness(error.to_string()))?;
        Ok(Self {
            slots: Arc::new(Slots {
                current: Arc::new(key),
                others: Vec::new(),
            }),
        })
    }

    /// The keys in `directory`. Only `current` must be there.
    ///
    /// # Errors
    /// When `current` is missing, or a file that is there holds no key.
    pub fn load(directory: &Path) -> Result<Self, KeysError> {
        let current = read(&directory.join(CURRENT))?;
        let mut others = Vec::new();
        for name in [NEXT, PREVIOUS] {
            match read(&directory.join(name)) {
                Ok(key) => others.push(Arc::new(key)),
                Err(KeysError::Unreadable { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            slots: Arc::new(Slots {
                current: Arc::new(current),
                others,
            }),
        })
    }

    /// The key that signs.
    #[must_use]
    pub fn current(&self) -> Arc<SessionKey> {
        Arc::clone(&self.slots.current)
    }

    /// Every key.
    pub fn all(&self) -> impl Iterator<Item = Arc<SessionKey>> + use<> {
        let mut all = vec![self.current()];
        all.extend(self.slots.others.iter().cloned());
        all.into_iter()
    }

    /// The keys that an id may mean by `id`.
    pub(super) fn named(&self, id: u8) -> impl Iterator<Item = Arc<SessionKey>> + use<> {
        self.all().filter(move |key| key.id() == id)
    }
}

fn read(file: &Path) -> Result<SessionKey, KeysError> {
    let name = || file.display().to_string();
    let text =
        std::fs::read_to_string(file).map_err(|source| KeysError::Unreadable { file: name(), source })?;
    SessionKey::parse(&text).map_err(|source| KeysError::Invalid { file: name(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn current_signs_all_three_are_accepted_and_a_file_that_holds_no_key_is_named() {
        let directory = std::env::temp_dir().join(format!("vmcp-keys-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let missing = Keys::load(&directory).unwrap_err().to_string();
        assert!(missing.contains(CURRENT), "{missing}");
        let write = |name: &str| {
            let key = SessionKey::generate().unwrap();
            std::fs::write(directory.join(name), key.to_text()).unwrap();
            key.to_text()
        };
        let current = write(CURRENT);
        assert_eq!(Keys::load(&directory).unwrap().all().count(), 1);
        let others = [write(NEXT), write(PREVIOUS)];
        let keys = Keys::load(&directory).unwrap();
        assert_eq!(keys.current().to_text(), current);
        for text in others.iter().chain([&current]) {
            let key = SessionKey::parse(text).unwrap();
            assert!(keys.named(key.id()).any(|named| named.to_text() == *text));
        }
        std::fs::write(directory.join(NEXT), "hunter2").unwrap();
        let refused = Keys::load(&directory).unwrap_err().to_string();
        assert!(
            refused.contains(NEXT) && !refused.contains("hunter2"),
            "{refused}"
        );
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
