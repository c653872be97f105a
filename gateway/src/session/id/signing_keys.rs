//! Keys that sign session ids.
//!
//! There are up to three: `current` signs, all verify. The operator rotates them from `next` to `current` to
//! `previous`, so every replica knows a key before another one signs with it. Changed files are reloaded without a
//! restart. An unusable set of files changes nothing.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use vmcp_crds::session_key::{CURRENT, InvalidKey, NEXT, PREVIOUS, SessionKey};

/// Maximum number of times the files are read again while they keep changing.
const MAX_READS: u32 = 100;

/// The keys in use. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct SigningKeys {
    slots: Arc<ArcSwap<Slots>>,
}

#[derive(Debug)]
struct Slots {
    current: Arc<SessionKey>,
    others: Vec<Arc<SessionKey>>,
}

/// Why the keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SigningKeysError {
    /// A file cannot be read.
    #[error("cannot read the session key {file}")]
    Unreadable {
        /// Path of the file.
        file: String,
        /// The I/O error.
        source: std::io::Error,
    },
    /// A file does not contain a key.
    #[error("{file} is no session key")]
    Invalid {
        /// Path of the file.
        file: String,
        /// What is wrong with the content.
        source: InvalidKey,
    },
    /// The operating system provides no randomness.
    #[error("no randomness for a session key: {0}")]
    NoRandomness(String),
}

impl SigningKeys {
    /// Draws one random key, for sessions that end with this process.
    ///
    /// # Errors
    /// The operating system provides no randomness.
    pub fn random() -> Result<Self, SigningKeysError> {
        let key =
            SessionKey::generate().map_err(|error| SigningKeysError::NoRandomness(error.to_string()))?;
        Ok(Self {
            slots: Arc::new(ArcSwap::from_pointee(Slots {
                current: Arc::new(key),
                others: Vec::new(),
            })),
        })
    }

    /// Loads the keys in `directory`. Only `current` is required.
    ///
    /// # Errors
    /// `current` is missing, or a file does not contain a key.
    pub fn load(directory: &Path) -> Result<Self, SigningKeysError> {
        Ok(Self {
            slots: Arc::new(ArcSwap::from_pointee(Slots::load(directory)?)),
        })
    }

    /// Reloads the keys from `directory`. Returns whether they have changed.
    ///
    /// # Errors
    /// As [`Self::load`]. The keys stay as they were.
    pub fn reload(&self, directory: &Path) -> Result<bool, SigningKeysError> {
        let slots = Slots::load(directory)?;
        let changed = slots.texts() != self.slots.load().texts();
        if changed {
            self.slots.store(Arc::new(slots));
        }
        Ok(changed)
    }

    /// The key that signs new ids.
    #[must_use]
    pub fn current(&self) -> Arc<SessionKey> {
        Arc::clone(&self.slots.load().current)
    }

    /// All keys whose ids are accepted.
    pub fn all(&self) -> impl Iterator<Item = Arc<SessionKey>> + use<> {
        self.slots.load().all().into_iter()
    }

    /// Whether `key` is in use. Reloaded keys are different objects even if their content is the same.
    pub(in crate::session) fn accept(&self, key: &Arc<SessionKey>) -> bool {
        let slots = self.slots.load();
        Arc::ptr_eq(&slots.current, key) || slots.others.iter().any(|other| Arc::ptr_eq(other, key))
    }

    /// Keys with the short key id `id`.
    pub(in crate::session) fn named(&self, id: u8) -> impl Iterator<Item = Arc<SessionKey>> + use<> {
        self.all().filter(move |key| key.id() == id)
    }
}

impl Slots {
    /// Reads a consistent set of keys. A rotation may replace the files between two reads, and the result might lack
    /// the key that other replicas already sign with. So the files are read until two reads agree.
    fn load(directory: &Path) -> Result<Self, SigningKeysError> {
        let mut slots = Self::read(directory)?;
        for _ in 0..MAX_READS {
            let again = Self::read(directory)?;
            if again.texts() == slots.texts() {
                break;
            }
            slots = again;
        }
        Ok(slots)
    }

    fn read(directory: &Path) -> Result<Self, SigningKeysError> {
        let current = read(&directory.join(CURRENT))?;
        let mut others = Vec::new();
        for name in [NEXT, PREVIOUS] {
            match read(&directory.join(name)) {
                Ok(key) => others.push(Arc::new(key)),
                Err(SigningKeysError::Unreadable { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            current: Arc::new(current),
            others,
        })
    }

    /// All keys, `current` first.
    fn all(&self) -> Vec<Arc<SessionKey>> {
        let mut all = vec![Arc::clone(&self.current)];
        all.extend(self.others.iter().cloned());
        all
    }

    fn texts(&self) -> Vec<String> {
        self.all().iter().map(|key| key.to_text()).collect()
    }
}

fn read(file: &Path) -> Result<SessionKey, SigningKeysError> {
    let name = || file.display().to_string();
    let text = std::fs::read_to_string(file)
        .map_err(|source| SigningKeysError::Unreadable { file: name(), source })?;
    SessionKey::parse(&text).map_err(|source| SigningKeysError::Invalid { file: name(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn current_key_signs_and_all_three_verify() {
        // The current key signs, all three verify, and an error names the file without a key.
        let directory = std::env::temp_dir().join(format!("vmcp-keys-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let missing = SigningKeys::load(&directory).unwrap_err().to_string();
        assert!(missing.contains(CURRENT), "{missing}");
        let write = |name: &str| {
            let key = SessionKey::generate().unwrap();
            std::fs::write(directory.join(name), key.to_text()).unwrap();
            key.to_text()
        };
        let current = write(CURRENT);
        assert_eq!(SigningKeys::load(&directory).unwrap().all().count(), 1);
        let others = [write(NEXT), write(PREVIOUS)];
        let keys = SigningKeys::load(&directory).unwrap();
        assert_eq!(keys.current().to_text(), current);
        for text in others.iter().chain([&current]) {
            let key = SessionKey::parse(text).unwrap();
            assert!(keys.named(key.id()).any(|named| named.to_text() == *text));
        }
        // A rotation: `next` becomes `current`, and the previous current key still verifies.
        assert!(!keys.reload(&directory).unwrap(), "nothing has changed");
        std::fs::rename(directory.join(CURRENT), directory.join(PREVIOUS)).unwrap();
        std::fs::rename(directory.join(NEXT), directory.join(CURRENT)).unwrap();
        let shared = keys.clone();
        assert!(keys.reload(&directory).unwrap());
        assert_eq!(
            shared.current().to_text(),
            others[0],
            "every handle has the new keys"
        );
        assert!(shared.all().any(|key| key.to_text() == current));
        assert_eq!(shared.all().count(), 2);
        std::fs::write(directory.join(NEXT), "hunter2").unwrap();
        keys.reload(&directory).unwrap_err();
        assert_eq!(keys.all().count(), 2, "a bad set changes nothing");
        let refused = SigningKeys::load(&directory).unwrap_err().to_string();
        assert!(
            refused.contains(NEXT) && !refused.contains("hunter2"),
            "{refused}"
        );
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn keys_loaded_during_a_rotation_are_consistent() {
        // Keys that are loaded while the files rotate are those of one moment.
        const ROTATIONS: usize = 300;
        let directory = std::env::temp_dir().join(format!("vmcp-keys-rotating-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let texts: Vec<String> = (0..ROTATIONS + 2)
            .map(|_| SessionKey::generate().unwrap().to_text())
            .collect();
        // As a kubelet does: a complete directory, and one symbolic link that is swapped.
        let put = |place: usize| {
            let version = directory.join(format!("..{place}"));
            std::fs::create_dir(&version).unwrap();
            for (name, key) in [(PREVIOUS, place - 1), (CURRENT, place), (NEXT, place + 1)] {
                std::fs::write(version.join(name), &texts[key]).unwrap();
            }
            let new = directory.join("..data_tmp");
            std::os::unix::fs::symlink(&version, &new).unwrap();
            std::fs::rename(new, directory.join("..data")).unwrap();
        };
        put(1);
        for name in [PREVIOUS, CURRENT, NEXT] {
            std::os::unix::fs::symlink(format!("..data/{name}"), directory.join(name)).unwrap();
        }
        std::thread::scope(|scope| {
            let rotating = scope.spawn(|| (2..=ROTATIONS).for_each(put));
            while !rotating.is_finished() {
                let read = Slots::load(&directory).unwrap().texts();
                let current = texts.iter().position(|text| *text == read[0]).unwrap();
                assert_eq!(
                    read[1..],
                    [texts[current + 1].clone(), texts[current - 1].clone()]
                );
            }
        });
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
