//! What a backend offers, page by page to the end.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Backend, BackendError, UpstreamSession};
use crate::wire::jsonrpc::Fault;
use crate::wire::params::{self, Text};

/// The most pages that are followed: a backend whose pages never end would otherwise own our memory.
const MAX_PAGES: usize = 1000;
/// The most items of one list.
const MAX_ITEMS: usize = 20_000;
/// The most bytes of one list.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// The longest name or URI.
const MAX_KEY_BYTES: usize = 8 * 1024;
/// How long a backend may take for one page.
const PAGE_DEADLINE: Duration = Duration::from_secs(10);

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

impl Backend {
    /// Everything of one kind that the backend offers.
    ///
    /// # Errors
    /// When a page cannot be had or read.
    pub async fn list(&self, session: &UpstreamSession, kind: Kind) -> Result<List, BackendError> {
        let method = kind.method();
        let too_much = |what| BackendError::Invalid(format!("{method} has more than {what}"));
        let mut list = List::default();
        let mut bytes = 0;
        let mut cursor: Option<Box<RawValue>> = None;
        for _ in 0..MAX_PAGES {
            let params = cursor.as_ref().map_or_else(
                || "{}".to_owned(),
                |cursor| format!(r#"{{"cursor":{}}}"#, cursor.get()),
            );
            let asking = self.ask(session, method, params.as_bytes());
            let result = tokio::time::timeout(PAGE_DEADLINE, asking)
                .await
                .unwrap_or(Err(BackendError::Deadline(PAGE_DEADLINE)))?;
            bytes += result.get().len();
            let page = page(&result, kind).map_err(BackendError::Invalid)?;
            for item in page.items {
                match listed(kind, item) {
                    Some(item) => list.items.push(item),
                    None => list.unusable += 1,
                }
            }
            if list.items.len() + list.unusable > MAX_ITEMS {
                return Err(too_much(format!("{MAX_ITEMS} items")));
            }
            if bytes > MAX_BYTES {
                return Err(too_much(format!("{MAX_BYTES} bytes")));
            }
            match page.next {
                // A cursor that leads to itself leads nowhere.
                Some(next) if cursor.as_ref().map(|cursor| cursor.get()) != Some(next.get()) => {
                    cursor = Some(next.to_owned());
                }
                _ => return Ok(list),
            }
        }
        Err(too_much(format!("{MAX_PAGES} pages")))
    }
}

struct Page<'a> {
    items: Vec<&'a RawValue>,
    next: Option<&'a RawValue>,
}

fn page(result: &RawValue, kind: Kind) -> Result<Page<'_>, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Any<'a> {
        #[serde(borrow, default)]
        tools: Option<Vec<&'a RawValue>>,
        #[serde(borrow, default)]
        prompts: Option<Vec<&'a RawValue>>,
        #[serde(borrow, default)]
        resources: Option<Vec<&'a RawValue>>,
        #[serde(borrow, default)]
        resource_templates: Option<Vec<&'a RawValue>>,
        #[serde(borrow, default)]
        next_cursor: Option<&'a RawValue>,
    }
    let any: Any<'_> =
        serde_json::from_str(result.get()).map_err(|error| format!("{}: {error}", kind.method()))?;
    let items = match kind {
        Kind::Tools => any.tools,
        Kind::Prompts => any.prompts,
        Kind::Resources => any.resources,
        Kind::Templates => any.resource_templates,
    };
    Ok(Page {
        items: items.ok_or_else(|| format!("{}: no field {:?}", kind.method(), kind.field()))?,
        next: any.next_cursor,
    })
}

fn listed(kind: Kind, item: &RawValue) -> Option<Listed> {
    let (_, key) = kind.key(item).ok()?;
    (!key.is_empty() && key.len() <= MAX_KEY_BYTES).then(|| Listed {
        key: key.into_owned(),
        json: Bytes::copy_from_slice(item.get().as_bytes()),
    })
}
