//! What a backend offers.

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::wire::jsonrpc::Fault;
use crate::wire::params::{self, Text};

/// A kind of list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Tools, by name.
    Tools,
    /// Prompts, by name.
    Prompts,
    /// Resources, by URI.
    Resources,
    /// Resource templates, by URI template.
    Templates,
}

/// One thing that a backend offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What it is called by at the backend: its name, URI or URI template.
    pub key: String,
    /// The whole object, as the backend wrote it.
    pub json: Bytes,
}

/// One list of a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// The items, in the backend's order.
    pub items: Vec<Listed>,
    /// How many items have nothing that they could be called by.
    pub unusable: usize,
}

impl Kind {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Tools, Self::Prompts, Self::Resources, Self::Templates];

    /// The method that lists it.
    #[must_use]
    pub fn method(self) -> &'static str {
        match self {
            Self::Tools => "tools/list",
            Self::Prompts => "prompts/list",
            Self::Resources => "resources/list",
            Self::Templates => "resources/templates/list",
        }
    }

    /// The field of the result that holds the items.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
        }
    }

    /// One item, for people.
    #[must_use]
    pub fn noun(self) -> &'static str {
        match self {
            Self::Tools => "tool",
            Self::Prompts => "prompt",
            Self::Resources => "resource",
            Self::Templates => "resource template",
        }
    }

    /// What an item is called by.
    ///
    /// # Errors
    /// When it has no such thing, or has it twice.
    pub fn key(self, item: &RawValue) -> Result<Text<'_>, Fault> {
        match self {
            Self::Tools | Self::Prompts => params::name(Some(item)),
            Self::Resources => params::uri(Some(item)),
            Self::Templates => params::uri_template(Some(item)),
        }
    }
}
