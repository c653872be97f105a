//! Serializes a backend's offer for the session store, so that a process that starts knows the tools of a backend that has not answered
//! yet, or hangs.
//!
//! The format is versioned JSON, compressed with DEFLATE. It contains the backend's origin: a backend that moved to another address may
//! offer something else. Data that is damaged or of another version is ignored, because discovery asks the backend anyway.

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

/// Version of the format.
const FORMAT_VERSION: u32 = 1;
/// Maximum bytes of the JSON before compression.
const MAX_JSON_BYTES: usize = 16 * 1024 * 1024;
/// Maximum bytes after compression. A larger offer is not stored; each process then asks the backend itself.
const MAX_STORED_BYTES: usize = 512 * 1024;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredOffer<'a> {
    version: u32,
    #[serde(borrow)]
    origin: Cow<'a, str>,
    capabilities: [bool; 6],
    gives_session_ids: bool,
    #[serde(borrow)]
    instructions: Option<Cow<'a, str>>,
    #[serde(borrow)]
    lists: [StoredList<'a>; 4],
}

#[derive(Default, Serialize, Deserialize)]
struct StoredList<'a> {
    unusable: usize,
    /// Missing in data of older versions of the gateway.
    #[serde(default)]
    is_unknown: bool,
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}

/// Encodes the offer of `backend` for the store; `None` if it is too large.
pub async fn encode_offer(backend: &Backend, offer: &Arc<BackendOffer>) -> Option<Vec<u8>> {
    let (of, offer) = (backend.clone(), Arc::clone(offer));
    let compressing = backend.compute(move || encode(&of, &offer));
    compressing.await.unwrap_or_else(|error| {
        tracing::error!(backend = %backend.name(), %error, "failed to encode the backend's offer for the store");
        None
    })
}

fn encode(backend: &Backend, offer: &BackendOffer) -> Option<Vec<u8>> {
    // Check the size before doing any work: a list may be many times larger than what is stored.
    let items = ListKind::ALL.into_iter().flat_map(|kind| &offer.list(kind).items);
    let sizes = items.map(|item| item.json.len());
    if sizes.fold(0, usize::saturating_add) > MAX_JSON_BYTES {
        return None;
    }
    let mut lists: [StoredList<'_>; 4] = Default::default();
    for (items, kind) in lists.iter_mut().zip(ListKind::ALL) {
        let list = offer.list(kind);
        (items.unusable, items.is_unknown) = (list.unusable, list.is_unknown);
        for listed in &list.items {
            items.items.push(serde_json::from_slice(&listed.json).ok()?);
        }
    }
    let of = offer.capabilities;
    let text = StoredOffer {
        version: FORMAT_VERSION,
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
    if text.len() > MAX_JSON_BYTES {
        return None;
    }
    let mut encoder = DeflateEncoder::new(BoundedBuffer(Vec::new()), Compression::default());
    encoder.write_all(&text).ok()?;
    encoder.finish().ok().map(|bounded| bounded.0)
}

/// A buffer that fails when it exceeds [`MAX_STORED_BYTES`], which stops the compression early.
struct BoundedBuffer(Vec<u8>);

impl Write for BoundedBuffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_STORED_BYTES {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Decodes what [`encode_offer`] wrote; `None` if it is invalid, or the backend has another origin.
fn decode(backend: &Backend, bytes: &[u8]) -> Option<BackendOffer> {
    let mut text = Vec::new();
    let limit = MAX_JSON_BYTES as u64;
    DeflateDecoder::new(bytes)
        .take(limit)
        .read_to_end(&mut text)
        .ok()?;
    let text: StoredOffer<'_> = serde_json::from_slice(&text).ok()?;
    if text.version != FORMAT_VERSION || text.origin != backend.origin() {
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
    /// Takes stored offers, which any process may have written, for the backends that have not answered this process yet. Returns each
    /// name, with the offer if it was taken.
    pub async fn restore(&self, stored: Vec<(String, Vec<u8>)>) -> Vec<(String, Option<Arc<BackendOffer>>)> {
        let (catalog, meter) = (self.clone(), Arc::default());
        let restoring = self.shared.tasks.compute().run(&meter, move || {
            let members = catalog.members();
            let restored = stored.into_iter().map(|(name, bytes)| {
                let running = members.running.get(name.as_str());
                let offer = running
                    .and_then(|running| running.member.restore(decode(&running.member.backend, &bytes)?));
                (name, offer)
            });
            let restored = restored.collect();
            catalog.merge();
            restored
        });
        restoring.await.unwrap_or_else(|error| {
            tracing::error!(%error, "failed to restore the stored catalog");
            Vec::new()
        })
    }

    /// The offers that backends sent to this process, without those that are incomplete or whose backend fails now.
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

    /// A signal whenever the catalog changes, including changes that clients do not see.
    #[must_use]
    pub fn any_changes(&self) -> watch::Receiver<()> {
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
    async fn offer_survives_the_store_byte_for_byte() {
        let bytes = encode(&backend("a"), &offer()).unwrap();
        assert_eq!(decode(&backend("a"), &bytes), Some(offer()));
    }

    #[tokio::test]
    async fn damaged_or_foreign_data_is_ignored() {
        let here = backend("a");
        let bytes = encode(&here, &offer()).unwrap();
        let elsewhere = "http://elsewhere/mcp".parse().unwrap();
        let elsewhere = crate::config::BackendSettings::for_test("a", elsewhere);
        let elsewhere = Backend::new(
            &elsewhere,
            crate::backend::HttpClient::new(crate::runtime::tasks::Tasks::default()),
        );
        assert_eq!(decode(&elsewhere, &bytes), None);
        for end in 0..bytes.len() {
            assert_eq!(decode(&here, &bytes[..end]), None, "{end} bytes");
        }
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        let newer = br#"{"version":2,"origin":"","capabilities":[],"givesSessionIds":true,"instructions":null,"lists":[]}"#;
        encoder.write_all(newer).unwrap();
        assert_eq!(decode(&here, &encoder.finish().unwrap()), None);
    }

    #[tokio::test]
    async fn too_large_offer_is_not_stored() {
        let item = |bytes: usize, fill: &dyn Fn(usize) -> char| {
            let text: String = (0..bytes).map(fill).collect();
            format!(r#"{{"name":"x","description":"{text}"}}"#)
        };
        let with = |items: &[&str]| BackendOffer {
            tools: list(ListKind::Tools, items),
            ..BackendOffer::default()
        };
        // Data that does not compress is given up as soon as it exceeds the limit.
        let mut state = 1_u64;
        let noise: String = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'a' + u8::try_from(state >> 60).unwrap())
        })
        .take(4 * MAX_STORED_BYTES)
        .collect();
        let noise = format!(r#"{{"name":"x","description":"{noise}"}}"#);
        assert!(encode(&backend("a"), &with(&[&noise])).is_none());
        let long = item(MAX_JSON_BYTES, &|_| 'x');
        assert!(encode(&backend("a"), &with(&[&long])).is_none());
        let short = item(MAX_STORED_BYTES * 2, &|_| 'x');
        assert!(encode(&backend("a"), &with(&[&short])).is_some());
    }

    #[tokio::test]
    async fn decompression_is_bounded() {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&vec![b' '; MAX_JSON_BYTES + 1]).unwrap();
        let bytes = encoder.finish().unwrap();
        assert_eq!(decode(&backend("a"), &bytes), None);
    }
}
