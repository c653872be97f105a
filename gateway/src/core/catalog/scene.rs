//! Backends and offers for the tests of the catalogue.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::offer::Offer;
use crate::backend::{Backend, Kind, List, Listed, Transport};
use crate::config;
use crate::tasks::Tasks;

pub(super) fn backend(name: &str) -> Backend {
    let url = "http://localhost/mcp".parse().unwrap();
    let configured = config::Backend::for_test(name, url);
    Backend::new(&configured, Transport::new(Tasks::default()))
}

pub(super) fn list(kind: Kind, items: &[&str]) -> List {
    let listed = |json: &&str| {
        let raw: &RawValue = serde_json::from_str(json).unwrap();
        Listed {
            key: kind.key(raw).unwrap().1.into_owned(),
            json: Bytes::copy_from_slice(json.as_bytes()),
        }
    };
    List {
        items: items.iter().map(listed).collect(),
        ..List::default()
    }
}

/// An offer of tools with these names.
pub(super) fn offer(tools: &[&str]) -> Offer {
    let json: Vec<_> = tools
        .iter()
        .map(|name| format!(r#"{{"name":"{name}"}}"#))
        .collect();
    Offer {
        tools: list(Kind::Tools, &json.iter().map(String::as_str).collect::<Vec<_>>()),
        ..Offer::default()
    }
}
