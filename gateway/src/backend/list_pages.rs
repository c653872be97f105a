//! Reads a list of a backend, page by page, with limits on pages, items, bytes and time.

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

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{Backend, BackendError, BackendItem, BackendList, ListKind, UpstreamSession};
use crate::backend::initialize::result_of;
use crate::backend::listed_items::{MAX_ITEM_BYTES, MAX_KEY_BYTES};
use crate::budget::{Account, Reservation};
use crate::runtime::step_counter;
use crate::runtime::truncate::{MAX_ERROR_BYTES, brief};

/// The most pages of one list. Endless pages would otherwise exhaust the memory.
const MAX_PAGES: usize = 1000;
/// The most items of one list.
const MAX_ITEMS: usize = 20_000;
/// The most bytes of one list.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// How long a backend may take for one page.
const PAGE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a backend may take for all pages of one list.
const LIST_DEADLINE: Duration = Duration::from_secs(60);
/// The longest cursor. All cursors of a list are kept until its end, to detect a cycle.
const MAX_CURSOR_BYTES: usize = 16 * 1024;
/// The approximate CPU time to receive and validate a byte of JSON.
const RECEIVE_TIME_PER_BYTE: Duration = Duration::from_nanos(2);
/// The empty cursor, which is a valid cursor (<https://modelcontextprotocol.io/specification/2025-11-25/server/utilities/pagination>).
const EMPTY_CURSOR: &str = r#""""#;
/// The field with the cursor of the next page.
const NEXT_CURSOR: &str = "nextCursor";

impl Backend {
    /// Reads the backend's whole list of one kind.
    ///
    /// # Errors
    /// When a page fails, or the list exceeds a limit.
    pub async fn list(&self, session: &UpstreamSession, kind: ListKind) -> Result<BackendList, BackendError> {
        self.list_into(&self.inner.catalog_account, session, kind).await
    }

    /// As [`Self::list`], for the lists of a single client session.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub async fn list_for_client(
        &self,
        session: &UpstreamSession,
        kind: ListKind,
    ) -> Result<BackendList, BackendError> {
        self.list_into(&self.inner.session_catalog_account, session, kind)
            .await
    }

    /// Reads the list and counts it in `account`.
    async fn list_into(
        &self,
        account: &Account,
        session: &UpstreamSession,
        kind: ListKind,
    ) -> Result<BackendList, BackendError> {
        let reserved = Mutex::new(account.begin());
        let reserved = &reserved;
        let ask = |params: String| async move {
            let asking = self.ask_for_answer(session, kind.method(), params.as_bytes());
            let answer = tokio::time::timeout(PAGE_DEADLINE, asking).await;
            let page = answer.unwrap_or(Err(BackendError::Deadline(PAGE_DEADLINE)))?;
            if lock(reserved).grow(page.len()) {
                Ok(page)
            } else {
                Err(BackendError::CatalogTooLarge(account.limit()))
            }
        };
        // A page may have megabytes, so it is parsed on a compute thread.
        let read = |answer: Bytes| async move {
            self.meter()
                .add(RECEIVE_TIME_PER_BYTE.saturating_mul(u32::try_from(answer.len()).unwrap_or(u32::MAX)));
            let sent = self.inner.headers.load_full();
            let reading = self.compute(move || {
                let page = result_of(&answer, &sent).and_then(|result| Page::read(&result, kind));
                page.map_err(|error| error.hide_values(&sent))
            });
            let page = reading.await;
            page.unwrap_or_else(|failed| Err(BackendError::Invalid(format!("{}: {failed}", kind.method()))))
        };
        let mut list = read_within_deadline(kind, ask, read).await?;
        let reserved = std::mem::replace(&mut *lock(reserved), account.begin());
        let counting = self.compute(move || copy_and_count(&mut list, reserved).then_some(list));
        let counted = counting.await;
        let counted =
            counted.map_err(|failed| BackendError::Invalid(format!("{}: {failed}", kind.method())))?;
        counted.ok_or_else(|| BackendError::CatalogTooLarge(account.limit()))
    }
}

fn lock(reserved: &Mutex<Reservation>) -> MutexGuard<'_, Reservation> {
    reserved.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Copies the items of `list` into one buffer, and keeps `reserved` for as long as an item lives. Returns false if the budget does not
/// suffice: mended items may have more bytes than their pages.
fn copy_and_count(list: &mut BackendList, mut reserved: Reservation) -> bool {
    let bytes = list.items.iter().map(|item| item.json.len()).sum();
    if !reserved.resize(bytes) {
        return false;
    }
    let mut all = BytesMut::with_capacity(bytes);
    let mut places = Vec::with_capacity(list.items.len());
    for item in &mut list.items {
        let start = all.len();
        // Free each item once it is copied.
        all.extend_from_slice(&std::mem::take(&mut item.json));
        places.push(start..all.len());
    }
    let all = reserved.hold(all.freeze());
    for (item, place) in list.items.iter_mut().zip(places) {
        item.json = all.slice(place);
    }
    true
}

/// One page of a list.
struct Page {
    list: BackendList,
    /// The cursor of the next page, as JSON.
    next: Option<String>,
    /// The size of the result in bytes.
    bytes: usize,
}

/// Reads all pages within [`LIST_DEADLINE`]. `ask` sends the request with the given parameters, and `read` parses the response.
async fn read_within_deadline<A, F, R>(
    kind: ListKind,
    ask: impl FnMut(String) -> F,
    read: impl FnMut(A) -> R,
) -> Result<BackendList, BackendError>
where
    F: Future<Output = Result<A, BackendError>>,
    R: Future<Output = Result<Page, BackendError>>,
{
    let reading = tokio::time::timeout(LIST_DEADLINE, read_all_pages(kind, ask, read));
    reading.await.unwrap_or_else(|_| {
        let (method, limit) = (kind.method(), LIST_DEADLINE.as_secs());
        let message = format!("{method} did not end within {limit} s");
        Err(BackendError::Invalid(message))
    })
}

/// Reads all pages, and stops at a repeated cursor.
async fn read_all_pages<A, F, R>(
    kind: ListKind,
    mut ask: impl FnMut(String) -> F,
    mut read: impl FnMut(A) -> R,
) -> Result<BackendList, BackendError>
where
    F: Future<Output = Result<A, BackendError>>,
    R: Future<Output = Result<Page, BackendError>>,
{
    let too_much = |what| BackendError::Invalid(format!("{} has more than {what}", kind.method()));
    let mut list = BackendList::default();
    // The number of items of the first page, and how many items of that page are unusable.
    let mut first = (0, 0);
    let mut bytes = 0_usize;
    let mut followed: HashSet<String> = HashSet::new();
    let mut cursor = None;
    for number in 0..MAX_PAGES {
        let params = cursor
            .as_ref()
            .map_or_else(|| "{}".to_owned(), |cursor| format!(r#"{{"cursor":{cursor}}}"#));
        let Page {
            list: page,
            next,
            bytes: more,
        } = read(ask(params).await?).await?;
        bytes = bytes.saturating_add(more);
        if number == 0 {
            first = (page.items.len(), page.unusable);
        } else if cursor.as_deref() == Some(EMPTY_CURSOR)
            && is_first_page_again(&page, list.items.get(..first.0).unwrap_or_default(), first.1)
        {
            return Ok(list);
        }
        list.items.extend(page.items);
        list.unusable = list.unusable.saturating_add(page.unusable);
        list.oversized.extend(page.oversized);
        list.mended.extend(page.mended);
        if list.count() > MAX_ITEMS {
            return Err(too_much(format!("{MAX_ITEMS} items")));
        }
        if bytes > MAX_BYTES {
            return Err(too_much(format!("{MAX_BYTES} bytes")));
        }
        match next {
            // A repeated cursor is a cycle.
            Some(next) if followed.insert(next.clone()) => cursor = Some(next),
            _ => return Ok(list),
        }
    }
    Err(too_much(format!("{MAX_PAGES} pages")))
}

/// Whether the page after the empty cursor is the first page again. Some servers end a list with an empty cursor and treat it as no
/// cursor in a request. The list was then already complete.
fn is_first_page_again(page: &BackendList, first: &[BackendItem], unusable: usize) -> bool {
    let is_empty = first.is_empty() && unusable == 0;
    let same_keys = || {
        let keys = page.items.iter().map(|item| &item.key);
        keys.eq(first.iter().map(|item| &item.key))
    };
    !is_empty && page.unusable == unusable && same_keys()
}

impl Page {
    /// Parses the result of a list request.
    fn read(result: &RawValue, kind: ListKind) -> Result<Self, BackendError> {
        let (list, next) = page(result, kind)?;
        if next.is_some_and(|next| next.get().len() > MAX_CURSOR_BYTES) {
            let message = format!(
                "{}: its cursor is longer than {MAX_CURSOR_BYTES} bytes",
                kind.method()
            );
            return Err(BackendError::Invalid(message));
        }
        Ok(Self {
            list,
            next: next.and_then(as_cursor),
            bytes: result.get().len(),
        })
    }
}

/// Parses the items of a page and the cursor of the next page.
fn page(result: &RawValue, kind: ListKind) -> Result<(BackendList, Option<&RawValue>), BackendError> {
    let invalid = |what: &dyn fmt::Display| {
        let what = brief(format_args!("{}: {what}", kind.method()), MAX_ERROR_BYTES);
        BackendError::Invalid(what)
    };
    let mut deserializer = serde_json::Deserializer::from_str(result.get());
    let page = Reader(kind).deserialize(&mut deserializer);
    let (items, next) = page.map_err(|error| invalid(&error))?;
    let items = items.ok_or_else(|| invalid(&format_args!("no field {:?}", kind.field())))?;
    let mut list = BackendList::default();
    for item in items {
        let Some(key) = usable_key(kind, item) else {
            list.unusable = list.unusable.saturating_add(1);
            continue;
        };
        if item.get().len() > MAX_ITEM_BYTES {
            list.oversized.add(&key, item.get().len());
            continue;
        }
        let mended = kind.schema().mend(item.get());
        if let Some(mended) = &mended {
            list.mended.add(&key, &mended.places);
        }
        list.items.push(BackendItem {
            json: mended.map_or_else(
                || Bytes::copy_from_slice(item.get().as_bytes()),
                |mended| Bytes::from(mended.json),
            ),
            key: key.into_owned(),
        });
    }
    Ok((list, next))
}

/// Returns the cursor as a JSON string. A number becomes a string; other values end the list.
fn as_cursor(next: &RawValue) -> Option<String> {
    let next = next.get();
    match next.bytes().next()? {
        b'"' => Some(next.to_owned()),
        b'-' | b'0'..=b'9' => Some(format!("\"{next}\"")),
        _ => None,
    }
}

fn usable_key(kind: ListKind, item: &RawValue) -> Option<Cow<'_, str>> {
    let (_, key) = kind.key(item).ok()?;
    (!key.is_empty() && key.len() <= MAX_KEY_BYTES).then_some(key)
}

/// The items of a page. Parsing stops at the item limit, because an entry may need more memory than its JSON.
struct Items<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Items<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading;
        impl<'de> Visitor<'de> for Reading {
            type Value = Items<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a sequence")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = array.next_element()? {
                    step_counter::count(1);
                    if items.len() == MAX_ITEMS {
                        return Err(A::Error::custom(format_args!("more than {MAX_ITEMS} items")));
                    }
                    items.push(item);
                }
                Ok(Items(items))
            }
        }
        deserializer.deserialize_seq(Reading)
    }
}

/// Deserializes a page of this kind and ignores its other fields.
struct Reader(ListKind);

impl<'de> DeserializeSeed<'de> for Reader {
    type Value = (Option<Vec<&'de RawValue>>, Option<&'de RawValue>);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Reader {
    type Value = <Self as DeserializeSeed<'de>>::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        /// Borrowed unless it contains escapes.
        #[derive(Deserialize)]
        struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

        let wanted = self.0.field();
        let (mut items, mut next) = (None, None);
        while let Some(Key(key)) = map.next_key()? {
            step_counter::count(1);
            let (field, is_twice) = if key == wanted {
                let read = map.next_value::<Option<Items<'de>>>()?;
                (wanted, items.replace(read.map(|Items(items)| items)).is_some())
            } else if key == NEXT_CURSOR {
                (NEXT_CURSOR, next.replace(map.next_value()?).is_some())
            } else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if is_twice {
                return Err(A::Error::duplicate_field(field));
            }
        }
        Ok((items.flatten(), next.flatten()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use serde_json::json;

    use super::*;
    use crate::backend::listed_items::OversizedItems;
    use crate::runtime::step_counter::{assert_linear, counted};

    async fn read_within_deadline<F>(
        kind: ListKind,
        ask: impl FnMut(String) -> F,
    ) -> Result<BackendList, BackendError>
    where
        F: Future<Output = Result<Box<RawValue>, BackendError>>,
    {
        super::read_within_deadline(kind, ask, |result: Box<RawValue>| {
            ready(Page::read(&result, kind))
        })
        .await
    }

    /// The parameters of the request for the page after this cursor.
    fn after(cursor: &str) -> String {
        json!({"cursor": cursor}).to_string()
    }

    /// A page of tools with these names, and the cursor of the next page.
    fn tools(names: &[&str], next: &str) -> Box<RawValue> {
        let tools: Vec<_> = names.iter().map(|name| json!({"name": name})).collect();
        raw(&json!({"tools": tools, "nextCursor": next}).to_string())
    }

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    /// Lists the tools of a backend with these pages. Each page has the cursor that leads to it; the first has none.
    async fn names(pages: &[(&str, &[&str], &str)]) -> Vec<String> {
        let ask = |params: String| {
            let (_, names, next) = pages
                .iter()
                .enumerate()
                .find(|(index, (cursor, ..))| {
                    params
                        == if *index == 0 {
                            "{}".to_owned()
                        } else {
                            after(cursor)
                        }
                })
                .map(|(_, page)| page)
                .unwrap();
            ready(Ok(tools(names, next)))
        };
        let list = read_within_deadline(ListKind::Tools, ask).await.unwrap();
        list.items.into_iter().map(|item| item.key).collect()
    }

    /// Returns the error for a backend that responds like this.
    async fn refused<F>(ask: impl FnMut(String) -> F) -> String
    where
        F: Future<Output = Result<Box<RawValue>, BackendError>>,
    {
        match read_within_deadline(ListKind::Tools, ask).await {
            Err(BackendError::Invalid(message)) => message,
            other => panic!("{:?}", other.map(|list| list.items.len())),
        }
    }

    #[test]
    fn items_are_counted_until_the_last_is_gone() {
        let account = Account::root(1000);
        let mut reserved = account.begin();
        assert!(reserved.grow(500), "a page of them with what stands between");
        let item = |name: &str| BackendItem {
            key: name.to_owned(),
            json: Bytes::from(format!(r#"{{"name":"{name}"}}"#)),
        };
        let mut list = BackendList {
            items: vec![item("a"), item("b")],
            ..BackendList::default()
        };
        let before = list.clone();
        assert!(copy_and_count(&mut list, reserved));
        assert_eq!(list, before);
        let bytes = before.items.iter().map(|item| item.json.len()).sum::<usize>();
        let last = list.items.pop();
        drop(list);
        assert_eq!(account.reserved(), bytes);
        drop(last);
        assert_eq!(account.reserved(), 0);
    }

    #[tokio::test]
    async fn repeated_cursor_ends_the_list() {
        let itself = names(&[("", &["a"], "A"), ("A", &["b"], "A")]);
        assert_eq!(itself.await, ["a", "b"]);
        let circle = names(&[("", &["a"], "A"), ("A", &["b"], "B"), ("B", &["c"], "A")]);
        assert_eq!(circle.await, ["a", "b", "c"]);
    }

    #[tokio::test]
    async fn first_page_again_after_empty_cursor_ends_the_list() {
        assert_eq!(
            names(&[("", &["a", "b"], ""), ("", &["a", "b"], "")]).await,
            ["a", "b"]
        );
        let two_pages = names(&[("", &["a"], "A"), ("A", &["b"], ""), ("", &["a"], "A")]);
        assert_eq!(two_pages.await, ["a", "b"]);
    }

    #[tokio::test]
    async fn other_page_after_empty_cursor_is_read() {
        for page in [&["b"][..], &["b", "a"], &["a"], &["a", "b", "c"]] {
            let expected = [&["a", "b"][..], page].concat();
            assert_eq!(names(&[("", &["a", "b"], ""), ("", page, "")]).await, expected);
        }
        let empty = names(&[("", &[], ""), ("", &[], "A"), ("A", &["a"], "A")]);
        assert_eq!(empty.await, ["a"]);
    }

    #[tokio::test]
    async fn unnamed_items_of_a_repeated_first_page_count_once() {
        let ask = |_| ready(Ok(raw(r#"{"tools":[{"name":"a"},{}],"nextCursor":""}"#)));
        let list = read_within_deadline(ListKind::Tools, ask).await.unwrap();
        assert_eq!((list.items.len(), list.unusable), (1, 1));
    }

    #[tokio::test]
    async fn item_with_an_ambiguous_name_is_unusable() {
        let page =
            raw(r#"{"tools":[{"name":"a"},{"name":"b","Name":"c"},{"nAme":"d"},{"name":"e","name":"f"}]}"#);
        let list = read_within_deadline(ListKind::Tools, |_| ready(Ok(page.clone())))
            .await
            .unwrap();
        assert_eq!((list.items.len(), list.unusable), (1, 3));
    }

    #[tokio::test]
    async fn endless_pages_are_refused() {
        let mut pages = 0;
        let endless = |_| {
            pages += 1;
            ready(Ok(tools(&[], &pages.to_string())))
        };
        assert_eq!(refused(endless).await, "tools/list has more than 1000 pages");
        assert_eq!(pages, MAX_PAGES);
    }

    #[tokio::test]
    async fn item_limit_is_exact() {
        // As many items as allowed are listed; one more is refused.
        let page = |items: usize| {
            let items = vec![r#"{"name":"x"}"#; items].join(",");
            raw(&format!(r#"{{"tools":[{items}],"nextCursor":"A"}}"#))
        };
        let most = read_within_deadline(ListKind::Tools, |_| ready(Ok(page(MAX_ITEMS / 2)))).await;
        assert_eq!(most.unwrap().items.len(), MAX_ITEMS);
        let more = refused(|_| ready(Ok(page(MAX_ITEMS / 2 + 1)))).await;
        assert_eq!(more, "tools/list has more than 20000 items");
    }

    #[test]
    fn page_takes_linear_time_and_is_left_at_its_bound() {
        let page_of = |items: usize| {
            let items = vec![r#"{"name":"x"}"#; items].join(",");
            raw(&format!(r#"{{"tools":[{items}],"nextCursor":"A"}}"#))
        };
        let read = |result: Box<RawValue>| page(&result, ListKind::Tools).map(|(list, _)| list.items.len());
        assert_linear(500, page_of, |result| assert!(read(result).is_ok()));
        let steps = |items| counted(|| assert!(read(page_of(items)).is_err()));
        assert_eq!(steps(MAX_ITEMS + 1), steps(MAX_ITEMS * 4));
        let others = |fields: usize| raw(&format!("{{{}\"tools\":[]}}", r#""x":{},"#.repeat(fields)));
        assert_linear(500, others, |result| assert!(read(result).is_ok()));
    }

    #[tokio::test]
    async fn item_too_large_is_left_out_and_named() {
        let item = |name: &str, bytes: usize| {
            let item = format!(r#"{{"name":"{name}","description":""}}"#);
            item.replace(r#""}"#, &format!(r#"{}"}}"#, "x".repeat(bytes - item.len())))
        };
        let result = raw(&format!(
            r#"{{"tools":[{},{},{}]}}"#,
            item("fits", MAX_ITEM_BYTES),
            item("huge", MAX_ITEM_BYTES + 1),
            item("small", 100),
        ));
        let list = read_within_deadline(ListKind::Tools, |_| ready(Ok(result.clone())))
            .await
            .unwrap();
        let names: Vec<_> = list.items.iter().map(|item| item.key.as_str()).collect();
        assert_eq!(names, ["fits", "small"]);
        let examples = vec![("huge".to_owned(), MAX_ITEM_BYTES + 1)];
        assert_eq!(list.oversized, OversizedItems { count: 1, examples });
    }

    #[tokio::test]
    async fn byte_limit_of_a_list_is_exact() {
        // As many bytes as allowed are read; one more is refused.
        let page = |bytes: usize| {
            let (start, end) = (r#"{"tools":[],"nextCursor":"A","x":""#, r#""}"#);
            raw(&format!(
                "{start}{}{end}",
                "x".repeat(bytes - start.len() - end.len())
            ))
        };
        let most = read_within_deadline(ListKind::Tools, |_| ready(Ok(page(MAX_BYTES / 2)))).await;
        assert_eq!(most.unwrap().items.len(), 0);
        let more = refused(|_| ready(Ok(page(MAX_BYTES / 2 + 1)))).await;
        assert_eq!(more, "tools/list has more than 67108864 bytes");
    }

    #[test]
    fn overlong_cursor_is_refused() {
        let cursor = |bytes: usize| {
            raw(&format!(
                r#"{{"tools":[],"nextCursor":"{}"}}"#,
                "x".repeat(bytes - 2)
            ))
        };
        assert!(Page::read(&cursor(MAX_CURSOR_BYTES), ListKind::Tools).is_ok());
        let refused = Page::read(&cursor(MAX_CURSOR_BYTES + 1), ListKind::Tools)
            .err()
            .unwrap()
            .to_string();
        assert!(
            refused.ends_with("its cursor is longer than 16384 bytes"),
            "{refused}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn slow_endless_pages_are_refused() {
        let mut pages = 0;
        let slow = |_| {
            pages += 1;
            let page = tools(&[], &pages.to_string());
            async move {
                tokio::time::sleep(Duration::from_secs(9)).await;
                Ok(page)
            }
        };
        let refused = refused(slow).await;
        assert_eq!(refused, "tools/list did not end within 60 s");
    }

    #[test]
    fn only_the_wanted_field_of_a_page_matters() {
        let others = raw(
            r#"{"resources":"none","prompts":5,"tools":[{"name":"a"}],"resourceTemplates":{},"resources":[],"nextCursor":null}"#,
        );
        let (list, next) = page(&others, ListKind::Tools).unwrap();
        assert_eq!((list.items.len(), next.is_some()), (1, false));
        let (list, _) = page(&raw(r#"{"t\u006fols":[{"name":"a"}]}"#), ListKind::Tools).unwrap();
        assert_eq!(list.items[0].key, "a");
    }

    #[test]
    fn cursor_is_sent_as_text_or_not_at_all() {
        for (next, expected) in [
            (r#""a""#, Some(r#""a""#)),
            ("2", Some(r#""2""#)),
            ("-1.5", Some(r#""-1.5""#)),
            ("null", None),
            ("false", None),
            ("{}", None),
        ] {
            let all = raw(&format!(r#"{{"tools":[],"nextCursor":{next}}}"#));
            let page = Page::read(&all, ListKind::Tools).unwrap();
            assert_eq!(page.next.as_deref(), expected, "{next}");
        }
    }

    #[test]
    fn item_that_violates_the_schema_is_mended() {
        let all = raw(
            r#"{"tools":[{"name":"a","inputSchema":{"type":"object"}},{"name":"b","description":null}]}"#,
        );
        let (list, _) = page(&all, ListKind::Tools).unwrap();
        assert_eq!(
            list.items[0].json,
            &br#"{"name":"a","inputSchema":{"type":"object"}}"#[..]
        );
        assert_eq!(
            list.items[1].json,
            &br#"{"name":"b","inputSchema":{"type":"object"}}"#[..]
        );
        assert_eq!(list.mended.count, 1);
        assert_eq!(
            list.mended.examples,
            [("b".to_owned(), "description, inputSchema".to_owned())]
        );
    }

    #[test]
    fn page_without_exactly_one_list_is_refused() {
        for (text, expected) in [
            (r#"{"tool":[]}"#, "no field \"tools\""),
            (r#"{"tools":null}"#, "no field \"tools\""),
            (r#"{"tools":"none"}"#, "expected a sequence"),
            (r#"{"tools":[],"tools":[]}"#, "duplicate field `tools`"),
            (r#"{"tools":null,"tools":[]}"#, "duplicate field `tools`"),
            (
                r#"{"tools":[],"nextCursor":"a","nextCursor":"b"}"#,
                "duplicate field `nextCursor`",
            ),
            ("[[]]", "expected an object"),
        ] {
            let refused = page(&raw(text), ListKind::Tools).unwrap_err();
            assert!(refused.to_string().contains(expected), "{text}: {refused}");
            assert!(refused.to_string().contains("tools/list: "), "{refused}");
        }
    }
}
