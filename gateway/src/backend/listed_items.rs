//! What a backend offers.

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::mcp::item_schema;
use crate::mcp::item_schema::ItemSchema;
use crate::mcp::jsonrpc::InvalidMessage;
use crate::mcp::params;
use crate::mcp::params::Text;
use crate::runtime::truncate::brief;

/// The longest name or URI.
pub(super) const MAX_KEY_BYTES: usize = 8 * 1024;

/// The largest item, in bytes of JSON: it stands in the list of every client, and in what a model reads. Real ones have a few kilobytes.
pub const MAX_ITEM_BYTES: usize = 256 * 1024;

/// How many bytes of names are told of items that are not taken.
const MAX_TOLD_BYTES: usize = 200;
/// How many items that are not taken are told by name.
const MAX_TOLD: usize = 20;

/// A kind of list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListKind {
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
pub struct BackendItem {
    /// What it is called by at the backend: its name, URI or URI template.
    pub key: String,
    /// The whole object, as the backend wrote it, or mended.
    pub json: Bytes,
}

/// One list of a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendList {
    /// The items, in the backend's order.
    pub items: Vec<BackendItem>,
    /// How many items have nothing that they could be called by.
    pub unusable: usize,
    /// Those that are too large to be taken.
    pub oversized: OversizedItems,
    /// Those that broke the protocol's schema.
    pub mended: MendedItems,
    /// Whether the backend was not asked, or could not say: then it is not known what it offers.
    pub is_unknown: bool,
}

/// The items of a list that are larger than [`MAX_ITEM_BYTES`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OversizedItems {
    /// How many there are.
    pub count: usize,
    /// What the first of them are called by, shortened, and how many bytes they have.
    pub told: Vec<(String, usize)>,
}

impl OversizedItems {
    pub(super) fn add(&mut self, key: &str, bytes: usize) {
        self.count += 1;
        if self.told.len() < MAX_TOLD {
            self.told.push((brief(key, MAX_TOLD_BYTES), bytes));
        }
    }

    pub(super) fn extend(&mut self, more: Self) {
        self.count += more.count;
        let place = MAX_TOLD.saturating_sub(self.told.len());
        self.told.extend(more.told.into_iter().take(place));
    }
}

/// The items of a list that were made to fit the protocol's schema.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MendedItems {
    /// How many there are.
    pub count: usize,
    /// What the first of them are called by, shortened, and where they broke the schema.
    pub told: Vec<(String, String)>,
}

impl MendedItems {
    pub(super) fn add(&mut self, key: &str, places: &[String]) {
        self.count += 1;
        if self.told.len() < MAX_TOLD {
            let places = brief(places.join(", "), MAX_TOLD_BYTES);
            self.told.push((brief(key, MAX_TOLD_BYTES), places));
        }
    }

    pub(super) fn extend(&mut self, more: Self) {
        self.count += more.count;
        let place = MAX_TOLD.saturating_sub(self.told.len());
        self.told.extend(more.told.into_iter().take(place));
    }
}

impl BackendList {
    /// A list of which nothing is known.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            is_unknown: true,
            ..Self::default()
        }
    }

    /// How many items the backend has listed, whether they can be used or not.
    pub(super) fn count(&self) -> usize {
        let unused = self.unusable.saturating_add(self.oversized.count);
        self.items.len().saturating_add(unused)
    }
}

impl ListKind {
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

    /// The protocol's schema of an item.
    pub(super) fn schema(self) -> &'static ItemSchema {
        match self {
            Self::Tools => item_schema::TOOL,
            Self::Prompts => item_schema::PROMPT,
            Self::Resources => item_schema::RESOURCE,
            Self::Templates => item_schema::RESOURCE_TEMPLATE,
        }
    }

    /// The field of an item that it is called by.
    fn key_field(self) -> &'static str {
        match self {
            Self::Tools | Self::Prompts => "name",
            Self::Resources => "uri",
            Self::Templates => "uriTemplate",
        }
    }

    /// What an item must have to be called by anything, for people.
    #[must_use]
    pub fn needs(self) -> String {
        let field = self.key_field();
        format!(
            "a `{field}`, once and with no other key that differs from it in case only, that is a text of 1 to {MAX_KEY_BYTES} bytes"
        )
    }

    /// What an item is called by.
    ///
    /// # Errors
    /// When it has no such thing, or two readers could find two.
    pub fn key(self, item: &RawValue) -> Result<Text<'_>, InvalidMessage> {
        params::key_of_item(item, self.key_field())
    }
}
