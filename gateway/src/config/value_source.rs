//! Where a configured value comes from.

use std::fmt;
use std::path::PathBuf;

/// Where the value of a header or of an environment variable comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum ValueSource {
    /// An environment variable of this name.
    Env(String),
    /// A file, which may change while the process runs.
    File(PathBuf),
    /// The value itself.
    Value(String),
}

// The value is not for secrets, but may hold one.
impl fmt::Debug for ValueSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(variable) => f.debug_tuple("Env").field(variable).finish(),
            Self::File(file) => f.debug_tuple("File").field(file).finish(),
            Self::Value(_) => f.write_str("Value(..)"),
        }
    }
}
