//! What backends offer, in a form that outlives the process: so that one that starts knows what a backend offers before it answers, and
//! also while it hangs.
//!
//! The form is versioned JSON, compressed. It says of which place it tells: a backend of the same name that is somewhere else now offers
//! something else. What cannot be read, because it is damaged or of another version, is as good as nothing: the backend itself is asked
//! in any case.

use std::borrow::Cow;
use std::io::{Read as _, Write};
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::watch;

use super::{BackendOffer, Catalog};
use crate::backend::{
    Backend, BackendItem, BackendList, ListKind, MendedItems, OversizedItems, ServerCapabilities,
};

/// The version of the form.
const VERSION: u32 = 1;
/// The largest text that is taken.
const MAX_TEXT_BYTES: usize = 16 * 1024 * 1024;
/// The largest compressed form. Whoever offers more is asked by each process itself.
const MAX_BYTES: usize = 512 * 1024;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Text<'a> {
    version: u32,
    #[serde(borrow)]
    origin: Cow<'a, str>,
    capabilities: [bool; 6],
    gives_session_ids: bool,
    #[serde(borrow)]
    instructions: Option<Cow<'a, str>>,
    #[serde(borrow)]
    lists: [Items<'a>; 4],
}

#[derive(Default, Serialize, Deserialize)]
struct Items<'a> {
    unusable: usize,
    /// Absent where a process wrote it that did not say.
    #[serde(default)]
    is_unknown: bool,
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}

/// The form that outlives the process of what `backend` offers; `None` when it is too large.
pub async fn written(backend: &Backend, offer: &Arc<BackendOffer>) -> Option<Vec<u8>> {
    let (of, offer) = (backend.clone(), Arc::clone(offer));
    let compressing = backend.compute(move || write(&of, &offer));
    compressing.await.unwrap_or_else(|error| {
        tracing::error!(backend = %backend.name(), %error, "cannot compress what the backend offers");
        None
    })
}

fn write(backend: &Backend, offer: &BackendOffer) -> Option<Vec<u8>> {
    // Before anything is done with them: a list may be many times as large as what is kept.
    let items = ListKind::ALL.into_iter().flat_map(|kind| &offer.list(kind).items);
    let sizes = items.map(|item| item.json.len());
    if sizes.fold(0, usize::saturating_add) > MAX_TEXT_BYTES {
        return None;
    }
    let mut lists: [Items<'_>; 4] = Default::default();
    for (items, kind) in lists.iter_mut().zip(ListKind::ALL) {
        let list = offer.list(kind);
        (items.unusable, items.is_unknown) = (list.unusable, list.is_unknown);
        for listed in &list.items {
            items.items.push(serde_json::from_slice(&listed.json).ok()?);
        }
    }
    let of = offer.capabilities;
    let text = Text {
        version: VERSION,
        origin: backend.origin().into(),
        capabilities: [
            of.tools,
            of.prompts,
            of.resources,
            of.subscribe,
            of.completions,
            of.logging,
        ],
        gives_session_ids: offer.gives_session_ids,
        instructions: offer.instructions.as_deref().map(Cow::Borrowed),
        lists,
    };
    let text = serde_json::to_vec(&text).ok()?;
    if text.len() > MAX_TEXT_BYTES {
        return None;
    }
    let mut encoder = DeflateEncoder::new(Bounded(Vec::new()), Compression::default());
    encoder.write_all(&text).ok()?;
    encoder.finish().ok().map(|bounded| bounded.0)
}

/// Bytes that end with an error when there are more than are kept, so that nothing is compressed in vain.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_BYTES {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What `bytes` say that `backend` offers; `None` when they cannot be read, or tell of another place.
fn read(backend: &Backend, bytes: &[u8]) -> Option<BackendOffer> {
    let mut text = Vec::new();
    let limit = MAX_TEXT_BYTES as u64;
    DeflateDecoder::new(bytes)
        .take(limit)
        .read_to_end(&mut text)
        .ok()?;
    let text: Text<'_> = serde_json::from_slice(&text).ok()?;
    if text.version != VERSION || text.origin != backend.origin() {
        return None;
    }
    let [tools, prompts, resources, subscribe, completions, logging] = text.capabilities;
    let mut offer = BackendOffer {
        capabilities: ServerCapabilities {
            tools,
            prompts,
            resources,
            subscribe,
            completions,
            logging,
        },
        gives_session_ids: text.gives_session_ids,
        instructions: text.instructions.map(Cow::into_owned),
        ..BackendOffer::default()
    };
    for (list, kind) in text.lists.into_iter().zip(ListKind::ALL) {
        let listed = |item: &RawValue| {
            let (_, key) = kind.key(item).ok()?;
            Some(BackendItem {
                key: key.into_owned(),
                json: Bytes::copy_from_slice(item.get().as_bytes()),
            })
        };
        *offer.list_mut(kind) = BackendList {
            items: list.items.into_iter().map(listed).collect::<Option<_>>()?,
            unusable: list.unusable,
            oversized: OversizedItems::default(),
            mended: MendedItems::default(),
            is_unknown: list.is_unknown,
        };
    }
    Some(offer)
}

impl Catalog {
    /// Takes what `stored`, written by any process, says of each backend, unless it has answered already. Gives back what is known
    /// of each from now on, if it is this.
    pub async fn remember(&self, stored: Vec<(String, Vec<u8>)>) -> Vec<(String, Option<Arc<BackendOffer>>)> {
        let (catalog, meter) = (self.clone(), Arc::default());
        let remembering = self.shared.tasks.compute().run(&meter, move || {
            let members = catalog.members();
            let remembered = stored.into_iter().map(|(name, bytes)| {
                let running = members.running.get(name.as_str());
                let offer = running
                    .and_then(|running| running.member.remember(read(&running.member.backend, &bytes)?));
                (name, offer)
            });
            let remembered = remembered.collect();
            catalog.merge();
            remembered
        });
        remembering.await.unwrap_or_else(|error| {
            tracing::error!(%error, "cannot take what the store knows of the backends");
            Vec::new()
        })
    }

    /// What each backend offers by its own account, without those that could not say all of it.
    #[must_use]
    pub fn offers(&self) -> Vec<(Backend, Arc<BackendOffer>)> {
        let members = self.members();
        let offers = members.in_order().filter_map(|running| {
            let state = running.member.state();
            let offer = state.offer.clone().filter(|offer| offer.faults.is_empty())?;
            state
                .error
                .is_none()
                .then(|| (running.member.backend.clone(), offer))
        });
        offers.collect()
    }

    /// A signal whenever something is known that was not known before, of any backend.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<()> {
        self.shared.changes.any.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::test_util::{backend, list};

    fn offer() -> BackendOffer {
        BackendOffer {
            capabilities: ServerCapabilities {
                tools: true,
                logging: true,
                ..ServerCapabilities::default()
            },
            gives_session_ids: true,
            instructions: Some("Ask \"nicely\".".to_owned()),
            tools: BackendList {
                unusable: 2,
                ..list(
                    ListKind::Tools,
                    &[r#"{ "name":"x", "n":1.00, "ü":[ ] }"#, r#"{"name":"y"}"#],
                )
            },
            prompts: BackendList::unknown(),
            templates: list(ListKind::Templates, &[r#"{"uriTemplate":"a://{b}"}"#]),
            ..BackendOffer::default()
        }
    }

    #[tokio::test]
    async fn what_is_read_is_what_was_written_byte_for_byte() {
        let bytes = write(&backend("a"), &offer()).unwrap();
        assert_eq!(read(&backend("a"), &bytes), Some(offer()));
    }

    #[tokio::test]
    async fn what_is_damaged_or_of_another_version_or_place_is_nothing() {
        let here = backend("a");
        let bytes = write(&here, &offer()).unwrap();
        let elsewhere = "http://elsewhere/mcp".parse().unwrap();
        let elsewhere = crate::config::BackendSettings::for_test("a", elsewhere);
        let elsewhere = Backend::new(
            &elsewhere,
            crate::backend::HttpClient::new(crate::runtime::tasks::Tasks::default()),
        );
        assert_eq!(read(&elsewhere, &bytes), None);
        for end in 0..bytes.len() {
            assert_eq!(read(&here, &bytes[..end]), None, "{end} bytes");
        }
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        let newer = br#"{"version":2,"origin":"","capabilities":[],"givesSessionIds":true,"instructions":null,"lists":[]}"#;
        encoder.write_all(newer).unwrap();
        assert_eq!(read(&here, &encoder.finish().unwrap()), None);
    }

    #[tokio::test]
    async fn offer_that_is_too_large_is_not_written() {
        let item = |bytes: usize, fill: &dyn Fn(usize) -> char| {
            let text: String = (0..bytes).map(fill).collect();
            format!(r#"{{"name":"x","description":"{text}"}}"#)
        };
        let with = |items: &[&str]| BackendOffer {
            tools: list(ListKind::Tools, items),
            ..BackendOffer::default()
        };
        // What cannot be compressed is given up as soon as it is more than is kept.
        let mut state = 1_u64;
        let noise: String = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'a' + u8::try_from(state >> 60).unwrap())
        })
        .take(4 * MAX_BYTES)
        .collect();
        let noise = format!(r#"{{"name":"x","description":"{noise}"}}"#);
        assert!(write(&backend("a"), &with(&[&noise])).is_none());
        let long = item(MAX_TEXT_BYTES, &|_| 'x');
        assert!(write(&backend("a"), &with(&[&long])).is_none());
        let short = item(MAX_BYTES * 2, &|_| 'x');
        assert!(write(&backend("a"), &with(&[&short])).is_some());
    }

    #[tokio::test]
    async fn a_text_that_would_fill_the_memory_is_not_unpacked() {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&vec![b' '; MAX_TEXT_BYTES + 1]).unwrap();
        let bytes = encoder.finish().unwrap();
        assert_eq!(read(&backend("a"), &bytes), None);
    }
}
