//! One merged list: its pages, and the route of each item.

// This input comes from untrusted backends.
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::string_slice
    )
)]

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bytes::{BufMut as _, Bytes, BytesMut};

use super::ItemRoute;
use super::cursor::{self, InvalidCursor};
use crate::backend::ListKind;
use crate::budget::Account;

/// Maximum bytes of a page, unless its only item is larger. Clients read a page as a whole.
const MAX_PAGE_BYTES: usize = 1024 * 1024;

/// The merged list of one kind: what clients are shown, page by page, and where each name leads.
#[derive(Clone, Debug)]
pub struct MergedList {
    kind: ListKind,
    page_size: usize,
    /// The listed items' JSON by advertised name, sorted.
    listed: Vec<(Arc<str>, Bytes)>,
    /// The route of each advertised name; `None` if the name is reserved by a hidden item.
    routes: HashMap<Arc<str>, Option<ItemRoute>>,
    /// The pages of `listed`, in order.
    pages: Vec<SharedPage>,
    /// The budget account of pages that are made for one request; `None` if the pages are shared.
    account: Option<Account>,
}

/// Why a page cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// The cursor is not one of this list.
    #[error(transparent)]
    Cursor(#[from] InvalidCursor),
    /// The memory budget is used up by other pages.
    #[error("there is no room for another page")]
    NoRoom,
}

/// A page, which the first request encodes and all later ones share.
#[derive(Clone, Debug, Default)]
struct SharedPage {
    /// Index of its first item.
    start: usize,
    /// Index after its last item.
    end: usize,
    bytes: OnceLock<Bytes>,
}

/// One page, encoded as the `result` of the list method.
#[derive(Clone, Debug)]
pub struct ListPage {
    /// The account on which its bytes are reserved; `None` for a shared page.
    pub account: Option<Account>,
    /// The bytes before `rest`. Empty, unless the cursor points into the middle of a shared page.
    pub opening: Bytes,
    /// The remaining bytes, which may be a slice of a shared page.
    pub rest: Bytes,
}

impl ListPage {
    /// Number of bytes of the page.
    #[must_use]
    pub fn len(&self) -> usize {
        self.opening.len().saturating_add(self.rest.len())
    }

    /// Whether the page has no bytes, which never happens: an empty list is still an object.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The page as contiguous bytes. Copies if `opening` is not empty.
    #[must_use]
    pub fn whole(&self) -> Bytes {
        if self.opening.is_empty() {
            return self.rest.clone();
        }
        [&self.opening[..], &self.rest[..]].concat().into()
    }
}

/// Result of the lookup of an advertised name.
#[derive(Clone, Copy, Debug)]
pub(super) enum ItemLookup<'a> {
    /// No backend has the name.
    Unclaimed,
    /// A hidden item reserves the name.
    Reserved,
    /// The item's backend and name there.
    Found(&'a ItemRoute),
}

impl MergedList {
    /// Makes a list of `listed`, which must be sorted by name.
    pub(super) fn new(
        kind: ListKind,
        page_size: usize,
        listed: Vec<(Arc<str>, Bytes)>,
        routes: HashMap<Arc<str>, Option<ItemRoute>>,
    ) -> Self {
        Self {
            kind,
            page_size,
            pages: pages(&listed, page_size),
            listed,
            routes,
            account: None,
        }
    }

    /// Encodes the pages per request instead of sharing them, and reserves their bytes on `account`. For lists that few clients read.
    pub(super) fn count_pages(&mut self, account: &Account) {
        self.account = Some(account.clone());
    }

    /// The page at `cursor`; `None` and the empty cursor mean the first. A cursor of an older version of the list may point into the middle
    /// of a page. Then the rest of that page is returned, so that no extra page is encoded.
    ///
    /// # Errors
    /// [`PageError::Cursor`] if the cursor is not one of this list; [`PageError::NoRoom`] if the budget has no room for the page even after
    /// a wait.
    pub async fn page(&self, cursor: Option<&str>) -> Result<ListPage, PageError> {
        let last = cursor
            .map(|cursor| cursor::decode(self.kind, cursor))
            .transpose()?;
        let Some(last) = last.flatten() else {
            return self.page_from(0).await;
        };
        let start = self.listed.partition_point(|(key, _)| **key <= *last);
        self.page_from(start).await
    }

    /// Number of items, including hidden ones.
    pub(super) fn items(&self) -> usize {
        self.routes.len()
    }

    /// Number of listed items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.listed.len()
    }

    /// Whether no item is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// Whether any item, listed or hidden, has the name `key`.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.routes.contains_key(key)
    }

    /// Looks up an advertised name.
    pub(super) fn lookup(&self, key: &str) -> ItemLookup<'_> {
        match self.routes.get(key) {
            None => ItemLookup::Unclaimed,
            Some(None) => ItemLookup::Reserved,
            Some(Some(route)) => ItemLookup::Found(route),
        }
    }

    /// Whether clients see the same list.
    pub(super) fn is_same_for_clients(&self, other: &Self) -> bool {
        self.listed == other.listed && self.page_size == other.page_size
    }

    async fn page_from(&self, start: usize) -> Result<ListPage, PageError> {
        let number = self.pages.partition_point(|page| page.end <= start);
        let Some(page) = self.pages.get(number) else {
            // After the end, or the list is empty.
            let mut empty = self.opening();
            empty.extend_from_slice(b"]}");
            return Ok(ListPage {
                account: None,
                opening: Bytes::new(),
                rest: empty.freeze(),
            });
        };
        let whole = match &self.account {
            None => page.bytes.get_or_init(|| self.make_page(page)).clone(),
            Some(account) => {
                let size = self.bytes_of(page);
                let reserved = account.reserve_or_wait(size).await;
                reserved.ok_or(PageError::NoRoom)?.hold(self.make_page(page))
            }
        };
        let account = self.account.clone();
        if page.start == start {
            return Ok(ListPage {
                account,
                opening: Bytes::new(),
                rest: whole,
            });
        }
        let opening = self.opening().freeze();
        let before = self.listed.get(page.start..start).unwrap_or_default();
        let skipped = opening.len().saturating_add(size_of_items(before));
        Ok(ListPage {
            account,
            rest: whole.slice(skipped.min(whole.len())..),
            opening,
        })
    }

    /// Number of bytes of the items of `page`.
    fn bytes_of(&self, page: &SharedPage) -> usize {
        let items = self.listed.get(page.start..page.end).unwrap_or_default();
        size_of_items(items)
    }

    /// The bytes with which every page begins.
    fn opening(&self) -> BytesMut {
        let mut opening = BytesMut::with_capacity(32);
        opening.put_slice(b"{\"");
        opening.put_slice(self.kind.field().as_bytes());
        opening.put_slice(b"\":[");
        opening
    }

    fn make_page(&self, page: &SharedPage) -> Bytes {
        let items = self.listed.get(page.start..page.end).unwrap_or_default();
        let next = items
            .last()
            .filter(|_| page.end < self.listed.len())
            .map(|(last, _)| cursor::encode(self.kind, last));
        let mut page = self.opening();
        let next_bytes = next.as_ref().map_or(0, String::len);
        page.reserve(size_of_items(items).saturating_add(next_bytes).saturating_add(32));
        for (index, (_, json)) in items.iter().enumerate() {
            if index > 0 {
                page.put_u8(b',');
            }
            page.put_slice(json);
        }
        page.put_u8(b']');
        if let Some(next) = next {
            page.put_slice(b",\"nextCursor\":\"");
            page.put_slice(next.as_bytes());
            page.put_u8(b'"');
        }
        page.put_u8(b'}');
        page.freeze()
    }
}

/// Bytes of an item in a page, including the comma.
fn size_of_item(json: &Bytes) -> usize {
    json.len().saturating_add(1)
}

fn size_of_items(items: &[(Arc<str>, Bytes)]) -> usize {
    let sizes = items.iter().map(|(_, json)| size_of_item(json));
    sizes.fold(0, usize::saturating_add)
}

/// Splits a list into pages of at most `page_size` items and [`MAX_PAGE_BYTES`], with at least one item each.
fn pages(listed: &[(Arc<str>, Bytes)], page_size: usize) -> Vec<SharedPage> {
    let (mut pages, mut page, mut bytes) = (Vec::new(), SharedPage::default(), 0_usize);
    for (index, (_, json)) in listed.iter().enumerate() {
        let size = size_of_item(json);
        let count = index.saturating_sub(page.start);
        if count > 0 && (count >= page_size || size.saturating_add(bytes) > MAX_PAGE_BYTES) {
            page.end = index;
            pages.push(std::mem::take(&mut page));
            (page.start, bytes) = (index, 0);
        }
        bytes = size.saturating_add(bytes);
    }
    page.end = listed.len();
    if !listed.is_empty() {
        pages.push(page);
    }
    pages
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    /// A page that is ready without waiting for the budget.
    fn page_of(listing: &MergedList, cursor: Option<&str>) -> Result<ListPage, PageError> {
        listing.page(cursor).now_or_never().unwrap()
    }

    fn listing(names: &[&str], page_size: usize) -> MergedList {
        let item = |name: &&str| ((*name).into(), Bytes::from(format!(r#"{{"name":"{name}"}}"#)));
        MergedList::new(
            ListKind::Tools,
            page_size,
            names.iter().map(item).collect(),
            HashMap::new(),
        )
    }

    fn names_and_next(page: &[u8]) -> (Vec<String>, Option<String>) {
        let page: serde_json::Value = serde_json::from_slice(page).unwrap();
        let name = |tool: &serde_json::Value| tool["name"].as_str().unwrap().to_owned();
        (
            page["tools"].as_array().unwrap().iter().map(name).collect(),
            page["nextCursor"].as_str().map(str::to_owned),
        )
    }

    #[test]
    fn list_that_fits_one_page_has_no_cursor() {
        assert_eq!(
            page_of(&listing(&["a", "b"], 2), None).unwrap().whole(),
            r#"{"tools":[{"name":"a"},{"name":"b"}]}"#
        );
        assert_eq!(
            page_of(&listing(&[], 2), Some("")).unwrap().whole(),
            r#"{"tools":[]}"#
        );
    }

    /// Following the cursors to the end misses no item and repeats none, even if the list changes in between.
    #[test]
    fn pages_stay_complete_when_the_list_changes() {
        let before = listing(&["a", "b", "c", "d", "e"], 2);
        let (names, next) = names_and_next(&page_of(&before, None).unwrap().whole());
        assert_eq!(names, ["a", "b"]);
        // The last name of the page is gone, and there is a new name before it: no item is missed or repeated.
        let after = listing(&["a", "aa", "c", "d", "e"], 2);
        let (names, next) = names_and_next(&page_of(&after, next.as_deref()).unwrap().whole());
        assert_eq!(names, ["c", "d"]);
        let (names, next) = names_and_next(&page_of(&after, next.as_deref()).unwrap().whole());
        assert_eq!((names, next), (vec!["e".to_owned()], None));
    }

    #[test]
    fn page_is_bounded_and_has_at_least_one_item() {
        let item = |bytes: usize| format!(r#"{{"description":"{}"}}"#, "x".repeat(bytes));
        let sizes = [MAX_PAGE_BYTES / 2, MAX_PAGE_BYTES / 2, 2 * MAX_PAGE_BYTES, 10, 10];
        let names = ["a", "b", "c", "d", "e"].map(Arc::<str>::from);
        let items = names.into_iter().zip(sizes.map(|bytes| Bytes::from(item(bytes))));
        let listing = MergedList::new(ListKind::Tools, 100, items.collect(), HashMap::new());
        let (mut cursor, mut pages) = (None, Vec::new());
        loop {
            let page = page_of(&listing, cursor.as_deref()).unwrap().whole();
            let page: serde_json::Value = serde_json::from_slice(&page).unwrap();
            pages.push(page["tools"].as_array().unwrap().len());
            cursor = page["nextCursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(pages, [1, 1, 1, 2]);
    }

    #[test]
    fn cursor_after_the_end_gives_an_empty_page() {
        let end = cursor::encode(ListKind::Tools, "zzz");
        assert_eq!(
            page_of(&listing(&["a"], 2), Some(&end)).unwrap().whole(),
            r#"{"tools":[]}"#
        );
        assert!(page_of(&listing(&["a"], 2), Some("zzz")).is_err());
    }

    #[test]
    fn session_page_is_counted_until_dropped() {
        let mut list = listing(&["a", "b"], 2);
        let account = Account::root(50);
        list.count_pages(&account);
        let page = page_of(&list, None).unwrap();
        assert_eq!(page_of(&list, None).unwrap_err(), PageError::NoRoom);
        drop(page);
        assert_eq!(account.reserved(), 0);
        assert!(page_of(&list, None).is_ok());
    }

    #[test]
    fn page_is_encoded_once_and_shared() {
        let list = listing(&["a", "b", "c", "d", "e"], 2);
        for cursor in [None, Some(cursor::encode(ListKind::Tools, "b"))] {
            let page = || page_of(&list, cursor.as_deref()).unwrap().rest;
            assert_eq!(page().as_ptr(), page().as_ptr(), "a copy");
        }
        let whole = page_of(&list, Some(&cursor::encode(ListKind::Tools, "b"))).unwrap();
        // In another version of the list a page ended here.
        let middle = page_of(&list, Some(&cursor::encode(ListKind::Tools, "c"))).unwrap();
        assert!(
            whole.rest.as_ptr_range().contains(&middle.rest.as_ptr()),
            "a copy"
        );
        let (names, next) = names_and_next(&middle.whole());
        assert_eq!(names, ["d"]);
        let (names, next) = names_and_next(&page_of(&list, next.as_deref()).unwrap().whole());
        assert_eq!((names, next), (vec!["e".to_owned()], None));
    }
}
