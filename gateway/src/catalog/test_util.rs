//! Backends and offers for the tests of the catalog.

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::backend::{Backend, BackendItem, BackendList, HttpClient, ListKind};
use crate::catalog::exposure::BackendOffer;
use crate::config;
use crate::runtime::tasks::Tasks;

pub(super) fn backend(name: &str) -> Backend {
    let url = "http://localhost/mcp".parse().unwrap();
    let configured = config::BackendSettings::for_test(name, url);
    Backend::new(&configured, HttpClient::new(Tasks::default()))
}

pub(super) fn list(kind: ListKind, items: &[&str]) -> BackendList {
    let listed = |json: &&str| {
        let raw: &RawValue = serde_json::from_str(json).unwrap();
        BackendItem {
            key: kind.key(raw).unwrap().1.into_owned(),
            json: Bytes::copy_from_slice(json.as_bytes()),
        }
    };
    BackendList {
        items: items.iter().map(listed).collect(),
        ..BackendList::default()
    }
}

/// An offer with tools of these names.
pub(super) fn offer(tools: &[&str]) -> BackendOffer {
    let json: Vec<_> = tools
        .iter()
        .map(|name| format!(r#"{{"name":"{name}"}}"#))
        .collect();
    BackendOffer {
        tools: list(
            ListKind::Tools,
            &json.iter().map(String::as_str).collect::<Vec<_>>(),
        ),
        ..BackendOffer::default()
    }
}
