//! A validated name of a Kubernetes object.

use std::fmt;

use vmcp_crds::v1alpha1::field_rules;

use crate::error::Error;

/// The name of an object or a namespace: a DNS-1123 subdomain, which is safe as one segment of a URL path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectName(String);

impl ObjectName {
    /// Parses `text` as an object's name.
    ///
    /// # Errors
    /// When `text` is not a valid name; the message says what is allowed.
    pub fn parse(text: &str) -> Result<Self, Error> {
        field_rules::object_name(text)
            .map(|()| Self(text.to_owned()))
            .map_err(Error::InvalidName)
    }

    /// Returns the name as a string slice.
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
