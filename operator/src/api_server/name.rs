//! Names that may stand in a URL of the API server.

use std::fmt;

use vmcp_crds::v1alpha1::field_rules;

use crate::error::Error;

/// The name of an object or of a namespace: a DNS-1123 subdomain, and so one part of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectName(String);

impl ObjectName {
    /// The name, if `text` is one.
    ///
    /// # Errors
    /// When it is not; the message says what is allowed.
    pub fn parse(text: &str) -> Result<Self, Error> {
        field_rules::object_name(text)
            .map(|()| Self(text.to_owned()))
            .map_err(Error::InvalidName)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
