//! One merged list: its pages, and where each of its items is.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};

use super::Route;
use super::cursor::{self, BadCursor};
use crate::backend::Kind;

/// The most bytes of a page, unless its only item has more. Clients read a page whole.
const MAX_PAGE_BYTES: usize = 1024 * 1024;

/// One merged list.
#[derive(Clone, Debug)]
pub struct Listing {
    kind: Kind,
    page_size: usize,
    /// What is listed, sorted by what clients call it by.
    listed: Vec<(Arc<str>, Bytes)>,
    /// Where everything is, by what clients call it by; `None` for a name that is taken but cannot be used.
    routes: HashMap<Arc<str>, Option<Route>>,
    /// The first page, which mostly is the only one.
    first: Bytes,
}

/// Where something is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    /// Nobody has it.
    Nobodys,
    /// The name is taken, but cannot be used.
    Taken,
    /// Here.
    At(&'a Route),
}

impl Listing {
    /// A list of what `listed` holds, which is sorted.
    pub(super) fn new(
        kind: Kind,
        page_size: usize,
        listed: Vec<(Arc<str>, Bytes)>,
        routes: HashMap<Arc<str>, Option<Route>>,
    ) -> Self {
        let mut listing = Self {
            kind,
            page_size,
            listed,
            routes,
            first: Bytes::new(),
        };
        listing.first = listing.page_from(0);
        listing
    }

    /// The result of the list's method for this cursor.
    ///
    /// # Errors
    /// When this list never gives such a cursor.
    pub fn page(&self, cursor: Option<&str>) -> Result<Bytes, BadCursor> {
        let last = cursor
            .map(|cursor| cursor::decode(self.kind, cursor))
            .transpose()?;
        let Some(last) = last.flatten() else {
            return Ok(self.first.clone());
        };
        let start = self.listed.partition_point(|(key, _)| **key <= *last);
        Ok(self.page_from(start))
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

    /// Where `key` is.
    pub(super) fn place(&self, key: &str) -> Place<'_> {
        match self.routes.get(key) {
            None => Place::Nobodys,
            Some(None) => Place::Taken,
            Some(Some(route)) => Place::At(route),
        }
    }

    /// Whether clients see the same list.
    pub(super) fn looks_like(&self, other: &Self) -> bool {
        self.listed == other.listed && self.page_size == other.page_size
    }

    fn page_from(&self, start: usize) -> Bytes {
        let rest = self.listed.get(start..).unwrap_or_default();
        let mut size = 0;
        let fits = |(_, json): &&(Arc<str>, Bytes)| {
            size += json.len() + 1;
            size <= MAX_PAGE_BYTES
        };
        let fitting = rest.iter().take(self.page_size).take_while(fits).count();
        let items = &rest[..fitting.max(1).min(rest.len())];
        let mut page = BytesMut::with_capacity(size + 64);
        page.put_slice(b"{\"");
        page.put_slice(self.kind.field().as_bytes());
        page.put_slice(b"\":[");
        for (index, (_, json)) in items.iter().enumerate() {
            if index > 0 {
                page.put_u8(b',');
            }
            page.put_slice(json);
        }
        page.put_u8(b']');
        if let (Some((last, _)), true) = (items.last(), rest.len() > items.len()) {
            page.put_slice(b",\"nextCursor\":\"");
            page.put_slice(cursor::encode(self.kind, last).as_bytes());
            page.put_u8(b'"');
        }
        page.put_u8(b'}');
        page.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(names: &[&str], page_size: usize) -> Listing {
        let item = |name: &&str| ((*name).into(), Bytes::from(format!(r#"{{"name":"{name}"}}"#)));
        Listing::new(
            Kind::Tools,
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
            listing(&["a", "b"], 2).page(None).unwrap(),
            r#"{"tools":[{"name":"a"},{"name":"b"}]}"#
        );
        assert_eq!(listing(&[], 2).page(Some("")).unwrap(), r#"{"tools":[]}"#);
    }

    #[test]
    fn pages_follow_each_other_to_the_end_also_when_the_list_changes_between() {
        let before = listing(&["a", "b", "c", "d", "e"], 2);
        let (names, next) = names_and_next(&before.page(None).unwrap());
        assert_eq!(names, ["a", "b"]);
        // The last name of the page is gone and a new one stands before it: nothing is missed and nothing comes twice.
        let after = listing(&["a", "aa", "c", "d", "e"], 2);
        let (names, next) = names_and_next(&after.page(next.as_deref()).unwrap());
        assert_eq!(names, ["c", "d"]);
        let (names, next) = names_and_next(&after.page(next.as_deref()).unwrap());
        assert_eq!((names, next), (vec!["e".to_owned()], None));
    }

    #[test]
    fn page_is_bounded_in_bytes_and_holds_one_item_at_least() {
        let item = |bytes: usize| format!(r#"{{"description":"{}"}}"#, "x".repeat(bytes));
        let sizes = [MAX_PAGE_BYTES / 2, MAX_PAGE_BYTES / 2, 2 * MAX_PAGE_BYTES, 10, 10];
        let names = ["a", "b", "c", "d", "e"].map(Arc::<str>::from);
        let items = names.into_iter().zip(sizes.map(|bytes| Bytes::from(item(bytes))));
        let listing = Listing::new(Kind::Tools, 100, items.collect(), HashMap::new());
        let (mut cursor, mut pages) = (None, Vec::new());
        loop {
            let page = listing.page(cursor.as_deref()).unwrap();
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
        let end = cursor::encode(Kind::Tools, "zzz");
        assert_eq!(listing(&["a"], 2).page(Some(&end)).unwrap(), r#"{"tools":[]}"#);
        assert!(listing(&["a"], 2).page(Some("zzz")).is_err());
    }
}
