//! The lists of a backend: tools, prompts, resources, resource templates.

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::mcp::item_schema;
use crate::mcp::item_schema::ItemSchema;
use crate::mcp::jsonrpc::InvalidMessage;
use crate::mcp::params;
use crate::mcp::params::JsonString;
use crate::runtime::truncate::brief;

/// The longest name or URI of an item.
pub(super) const MAX_KEY_BYTES: usize = 8 * 1024;

/// The largest item in bytes of JSON. Every client and model reads it. Real items have a few kilobytes.
pub const MAX_ITEM_BYTES: usize = 256 * 1024;

/// The most bytes of a name in the examples of oversized or mended items.
const MAX_EXAMPLE_BYTES: usize = 200;
/// The most examples of oversized or mended items.
const MAX_EXAMPLES: usize = 20;

/// The kind of a list, with its method and field names.
///
/// ```
/// use serde_json::value::RawValue;
/// use vmcp_gateway::backend::ListKind;
///
/// assert_eq!(ListKind::Templates.method(), "resources/templates/list");
/// let item: &RawValue = serde_json::from_str(r#"{"name":"now"}"#).unwrap();
/// assert_eq!(ListKind::Tools.key(item).unwrap().1, "now");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListKind {
    /// Tools, identified by name.
    Tools,
    /// Prompts, identified by name.
    Prompts,
    /// Resources, identified by URI.
    Resources,
    /// Resource templates, identified by URI template.
    Templates,
}

/// One item of a backend's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendItem {
    /// The key at the backend: name, URI or URI template.
    pub key: String,
    /// The whole JSON object, unchanged or mended.
    pub json: Bytes,
}

/// One list of a backend, all pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendList {
    /// The items, in the backend's order.
    pub items: Vec<BackendItem>,
    /// The number of items without a usable key.
    pub unusable: usize,
    /// The oversized items, which are left out.
    pub oversized: OversizedItems,
    /// The items that violated the protocol's schema.
    pub mended: MendedItems,
    /// Whether the list is unknown, because the backend was not asked, or failed.
    pub is_unknown: bool,
}

/// The items of a list that are larger than [`MAX_ITEM_BYTES`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OversizedItems {
    /// The number of such items.
    pub count: usize,
    /// The first keys, shortened, with their sizes in bytes.
    pub examples: Vec<(String, usize)>,
}

impl OversizedItems {
    pub(super) fn add(&mut self, key: &str, bytes: usize) {
        self.count += 1;
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push((brief(key, MAX_EXAMPLE_BYTES), bytes));
        }
    }

    pub(super) fn extend(&mut self, more: Self) {
        self.count += more.count;
        let room = MAX_EXAMPLES.saturating_sub(self.examples.len());
        self.examples.extend(more.examples.into_iter().take(room));
    }
}

/// The items of a list that the gateway mended to fit the protocol's schema.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MendedItems {
    /// The number of such items.
    pub count: usize,
    /// The first keys, shortened, with the fields that violated the schema.
    pub examples: Vec<(String, String)>,
}

impl MendedItems {
    pub(super) fn add(&mut self, key: &str, places: &[String]) {
        self.count += 1;
        if self.examples.len() < MAX_EXAMPLES {
            let places = brief(places.join(", "), MAX_EXAMPLE_BYTES);
            self.examples.push((brief(key, MAX_EXAMPLE_BYTES), places));
        }
    }

    pub(super) fn extend(&mut self, more: Self) {
        self.count += more.count;
        let room = MAX_EXAMPLES.saturating_sub(self.examples.len());
        self.examples.extend(more.examples.into_iter().take(room));
    }
}

impl BackendList {
    /// A list whose content is unknown, as opposed to an empty one.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            is_unknown: true,
            ..Self::default()
        }
    }

    /// The number of listed items, usable or not.
    pub(super) fn count(&self) -> usize {
        let unused = self.unusable.saturating_add(self.oversized.count);
        self.items.len().saturating_add(unused)
    }
}

impl ListKind {
    /// All kinds, in the order in which discovery reads them.
    pub const ALL: [Self; 4] = [Self::Tools, Self::Prompts, Self::Resources, Self::Templates];

    /// The method that lists the items.
    #[must_use]
    pub fn method(self) -> &'static str {
        match self {
            Self::Tools => "tools/list",
            Self::Prompts => "prompts/list",
            Self::Resources => "resources/list",
            Self::Templates => "resources/templates/list",
        }
    }

    /// The field of the result that contains the items.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
        }
    }

    /// The word for one item in messages.
    #[must_use]
    pub fn noun(self) -> &'static str {
        match self {
            Self::Tools => "tool",
            Self::Prompts => "prompt",
            Self::Resources => "resource",
            Self::Templates => "resource template",
        }
    }

    /// The protocol's schema of an item of this kind.
    pub(super) fn schema(self) -> &'static ItemSchema {
        match self {
            Self::Tools => item_schema::TOOL,
            Self::Prompts => item_schema::PROMPT,
            Self::Resources => item_schema::RESOURCE,
            Self::Templates => item_schema::RESOURCE_TEMPLATE,
        }
    }

    /// The field with an item's key.
    fn key_field(self) -> &'static str {
        match self {
            Self::Tools | Self::Prompts => "name",
            Self::Resources => "uri",
            Self::Templates => "uriTemplate",
        }
    }

    /// Describes a usable key, for messages.
    #[must_use]
    pub fn key_requirement(self) -> String {
        let field = self.key_field();
        format!(
            "a `{field}`, once and with no other key that differs from it in case only, that is a text of 1 to {MAX_KEY_BYTES} bytes"
        )
    }

    /// Reads the key of an item.
    ///
    /// # Errors
    /// When the key is missing or ambiguous.
    pub fn key(self, item: &RawValue) -> Result<JsonString<'_>, InvalidMessage> {
        params::key_of_item(item, self.key_field())
    }
}
