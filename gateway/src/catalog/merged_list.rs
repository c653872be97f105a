//! One merged list: its pages, and where each of its items is.

// Backends of strangers send what is read here.
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

/// The most bytes of a page, unless its only item has more. Clients read a page whole.
const MAX_PAGE_BYTES: usize = 1024 * 1024;

/// One merged list.
#[derive(Clone, Debug)]
pub struct MergedList {
    kind: ListKind,
    page_size: usize,
    /// What is listed, sorted by what clients call it by.
    listed: Vec<(Arc<str>, Bytes)>,
    /// Where everything is, by what clients call it by; `None` for a name that is taken but cannot be used.
    routes: HashMap<Arc<str>, Option<ItemRoute>>,
    /// Its pages.
    pages: Vec<SharedPage>,
    /// Where pages are counted that nobody shares.
    account: Option<Account>,
}

/// Why there is no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// The cursor leads nowhere.
    #[error(transparent)]
    Cursor(#[from] InvalidCursor),
    /// What others are given is in the way.
    #[error("there is no room for another page")]
    NoRoom,
}

/// A page, which is made when it is asked for first, and shared by all who ask.
#[derive(Clone, Debug, Default)]
struct SharedPage {
    /// Its first item.
    start: usize,
    /// What follows its last.
    end: usize,
    bytes: OnceLock<Bytes>,
}

/// A page of a list, as the result of the list's method.
#[derive(Clone, Debug)]
pub struct ListPage {
    /// Where it is counted. A page that everybody shares is not.
    pub account: Option<Account>,
    /// What stands before `rest`.
    pub opening: Bytes,
    /// The rest, which shares its memory.
    pub rest: Bytes,
}

impl ListPage {
    /// How many bytes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.opening.len().saturating_add(self.rest.len())
    }

    /// Whether it has none, which no page is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The whole page.
    #[must_use]
    pub fn whole(&self) -> Bytes {
        if self.opening.is_empty() {
            return self.rest.clone();
        }
        [&self.opening[..], &self.rest[..]].concat().into()
    }
}

/// Where something is.
#[derive(Clone, Copy, Debug)]
pub(super) enum ItemLookup<'a> {
    /// Nobody has it.
    Nobodys,
    /// The name is taken, but cannot be used.
    Taken,
    /// Here.
    At(&'a ItemRoute),
}

impl MergedList {
    /// A list of what `listed` holds, which is sorted.
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

    /// Makes pages anew for each who asks, because few do, and counts them in `account`.
    pub(super) fn count_pages(&mut self, account: &Account) {
        self.account = Some(account.clone());
    }

    /// The result of the list's method for this cursor. A cursor that another version of the list gave may begin in the middle of a
    /// page: then the rest of that page is given, so that no page is ever made for one who asks.
    ///
    /// # Errors
    /// When this list never gives such a cursor, or there is no room for the page, also after a wait for it.
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

    /// How many items it has, those that are not listed included.
    pub(super) fn items(&self) -> usize {
        self.routes.len()
    }

    /// How many items are listed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.listed.len()
    }

    /// Whether nothing is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// Whether somebody has `key`.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.routes.contains_key(key)
    }

    /// Where `key` is.
    pub(super) fn place(&self, key: &str) -> ItemLookup<'_> {
        match self.routes.get(key) {
            None => ItemLookup::Nobodys,
            Some(None) => ItemLookup::Taken,
            Some(Some(route)) => ItemLookup::At(route),
        }
    }

    /// Whether clients see the same list.
    pub(super) fn looks_like(&self, other: &Self) -> bool {
        self.listed == other.listed && self.page_size == other.page_size
    }

    async fn page_from(&self, start: usize) -> Result<ListPage, PageError> {
        let number = self.pages.partition_point(|page| page.end <= start);
        let Some(page) = self.pages.get(number) else {
            // Behind the end, or of a list without items.
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

    /// How many bytes the items of `page` have.
    fn bytes_of(&self, page: &SharedPage) -> usize {
        let items = self.listed.get(page.start..page.end).unwrap_or_default();
        size_of_items(items)
    }

    /// What every page begins with.
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

/// How many bytes an item takes in a page, with the comma.
fn size_of_item(json: &Bytes) -> usize {
    json.len().saturating_add(1)
}

fn size_of_items(items: &[(Arc<str>, Bytes)]) -> usize {
    let sizes = items.iter().map(|(_, json)| size_of_item(json));
    sizes.fold(0, usize::saturating_add)
}

/// Where the pages of a list begin and end: each has at most `page_size` items and [`MAX_PAGE_BYTES`], and one item at least.
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

    /// A page for which nobody has to wait.
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
    fn a_list_that_fits_is_one_page_without_a_cursor() {
        assert_eq!(
            page_of(&listing(&["a", "b"], 2), None).unwrap().whole(),
            r#"{"tools":[{"name":"a"},{"name":"b"}]}"#
        );
        assert_eq!(
            page_of(&listing(&[], 2), Some("")).unwrap().whole(),
            r#"{"tools":[]}"#
        );
    }

    #[test]
    fn pages_follow_each_other_to_the_end_also_when_the_list_changes_between() {
        let before = listing(&["a", "b", "c", "d", "e"], 2);
        let (names, next) = names_and_next(&page_of(&before, None).unwrap().whole());
        assert_eq!(names, ["a", "b"]);
        // The last name of the page is gone and a new one stands before it: nothing is missed and nothing comes twice.
        let after = listing(&["a", "aa", "c", "d", "e"], 2);
        let (names, next) = names_and_next(&page_of(&after, next.as_deref()).unwrap().whole());
        assert_eq!(names, ["c", "d"]);
        let (names, next) = names_and_next(&page_of(&after, next.as_deref()).unwrap().whole());
        assert_eq!((names, next), (vec!["e".to_owned()], None));
    }

    #[test]
    fn page_is_bounded_in_bytes_and_holds_one_item_at_least() {
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
    fn a_cursor_behind_the_end_gives_an_empty_page() {
        let end = cursor::encode(ListKind::Tools, "zzz");
        assert_eq!(
            page_of(&listing(&["a"], 2), Some(&end)).unwrap().whole(),
            r#"{"tools":[]}"#
        );
        assert!(page_of(&listing(&["a"], 2), Some("zzz")).is_err());
    }

    #[test]
    fn page_of_one_session_is_counted_until_it_has_gone_out() {
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
    fn page_is_made_once_and_shared_also_from_its_middle() {
        let list = listing(&["a", "b", "c", "d", "e"], 2);
        for cursor in [None, Some(cursor::encode(ListKind::Tools, "b"))] {
            let page = || page_of(&list, cursor.as_deref()).unwrap().rest;
            assert_eq!(page().as_ptr(), page().as_ptr(), "a copy");
        }
        let whole = page_of(&list, Some(&cursor::encode(ListKind::Tools, "b"))).unwrap();
        // Another version of the list had a page that ended here.
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
