//! The configured headers of every request to a backend.
//!
//! Values are usually secrets. They come from the environment, from files or from the configuration, are never logged, and are read again
//! when a file changes, as mounted Secrets do.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;
use vmcp_crds::config::rules;

use super::BackendError;
use crate::config::{ConfiguredHeader, ValueSource};

/// The maximum age of a value from a file. An older value is read again.
const FILE_MAX_AGE: Duration = Duration::from_secs(1);

/// The shortest value that is hidden in a backend's text, in bytes. A shorter one occurs in ordinary words, and is too short for a secret.
const MIN_HIDDEN_BYTES: usize = 4;

/// Where a backend's text is cut. No error needs more, and the search for values must not take longer for a longer text.
const MAX_TEXT_BYTES: usize = 4096;

/// The most values of replaced configurations that are hidden, the newest first.
const MAX_REPLACED_VALUES: usize = 16;

/// Replaces a header's value in a backend's text.
const HIDDEN: &str = "<hidden>";

/// The configured headers of one backend.
#[derive(Debug, Default)]
pub(super) struct RequestHeaders {
    sources: Vec<HeaderValueSource>,
    /// Values of configurations that this one has replaced. Responses to requests with them may still come.
    replaced: Vec<SentValue>,
}

/// A value that requests have been sent with, and the configured prefix that it begins with.
#[derive(Clone, Debug)]
struct SentValue {
    value: HeaderValue,
    prefix: String,
}

#[derive(Debug)]
struct HeaderValueSource {
    header: ConfiguredHeader,
    /// The last value, and when it must be read again; `None` for a value that never changes.
    value: Mutex<Option<(HeaderValue, Option<Instant>)>>,
    /// The value before the last change. A response to a request with it may still come.
    previous: Mutex<Option<HeaderValue>>,
}

impl RequestHeaders {
    pub(super) fn new(headers: &[ConfiguredHeader]) -> Self {
        let source = |header: &ConfiguredHeader| HeaderValueSource {
            header: header.clone(),
            value: Mutex::default(),
            previous: Mutex::default(),
        };
        Self {
            sources: headers.iter().map(source).collect(),
            replaced: Vec::new(),
        }
    }

    /// As [`Self::new`], for headers that replace those in `before`, whose values stay hidden.
    pub(super) fn replacing(before: &Self, headers: &[ConfiguredHeader]) -> Self {
        Self {
            replaced: before.sent_values().take(MAX_REPLACED_VALUES).collect(),
            ..Self::new(headers)
        }
    }

    /// The values that requests may have been sent with.
    fn sent_values(&self) -> impl Iterator<Item = SentValue> {
        let of_source = |source: &HeaderValueSource| {
            let known = source.known().map(|(value, _)| value);
            let prefix = source.header.prefix.clone();
            let sent = move |value| SentValue {
                value,
                prefix: prefix.clone(),
            };
            known.into_iter().chain(source.previous()).map(sent)
        };
        self.sources
            .iter()
            .flat_map(of_source)
            .chain(self.replaced.iter().cloned())
    }

    /// Inserts the headers into `map`.
    ///
    /// # Errors
    /// When a header has no value.
    pub(super) async fn put(&self, map: &mut HeaderMap) -> Result<(), BackendError> {
        for source in &self.sources {
            map.insert(source.header.name.clone(), source.value().await?);
        }
        Ok(())
    }

    /// Replaces each value in `text`, a text of the backend, with `<hidden>`: a backend may repeat what it was sent. It hides the whole
    /// value, the value without the configured prefix, and the part after a space, which follows the scheme in `Bearer <token>`. The result
    /// has about [`MAX_TEXT_BYTES`] at most, and no part of a value at its end.
    pub(super) fn hide_values(&self, text: &str) -> String {
        let known: Vec<SentValue> = self.sent_values().collect();
        let mut hidden: Vec<Cow<'_, str>> = Vec::new();
        for SentValue { value, prefix } in &known {
            let whole = String::from_utf8_lossy(value.as_bytes());
            let bare = whole
                .strip_prefix(prefix.as_str())
                .unwrap_or(&whole)
                .trim()
                .to_owned();
            let credentials = bare
                .split_once(' ')
                .map(|(_, credentials)| credentials.trim().to_owned());
            hidden.extend(credentials.map(Cow::Owned));
            hidden.extend([Cow::Owned(bare), whole]);
        }
        hidden.retain(|value| value.len() >= MIN_HIDDEN_BYTES);
        // A value may contain another one.
        hidden.sort_by_key(|value| std::cmp::Reverse(value.len()));
        let (mut shown, mut rest) = (String::new(), text);
        while shown.len() < MAX_TEXT_BYTES {
            if let Some(after) = hidden.iter().find_map(|value| rest.strip_prefix(&**value)) {
                shown.push_str(HIDDEN);
                rest = after;
                continue;
            }
            let mut characters = rest.chars();
            let Some(character) = characters.next() else { break };
            shown.push(character);
            rest = characters.as_str();
        }
        shown
    }
}

impl HeaderValueSource {
    async fn value(&self) -> Result<HeaderValue, BackendError> {
        let known = self.known();
        match &known {
            Some((value, due)) if due.is_none_or(|due| Instant::now() < due) => return Ok(value.clone()),
            _ => {}
        }
        let (read, due) = match &self.header.source {
            ValueSource::Env(variable) => {
                let value = std::env::var(variable);
                let reason = |_| format!("the environment variable {variable} is not set or not valid UTF-8");
                (value.map_err(reason), None)
            }
            ValueSource::File(file) => {
                let text = tokio::fs::read_to_string(file).await;
                let reason = |error| format!("the file {} cannot be read: {error}", file.display());
                (text.map_err(reason), Some(Instant::now() + FILE_MAX_AGE))
            }
            ValueSource::Value(value) => (Ok(value.clone()), None),
        };
        let value = read.and_then(|text| self.header_value(&text));
        let value = match (value, known) {
            (Ok(value), _) => value,
            (Err(reason), Some((before, _))) => {
                tracing::warn!(header = %self.header.name, reason, "header value unreadable; using its last good value");
                before
            }
            (Err(reason), None) => return Err(self.missing(&reason)),
        };
        if let Some((before, _)) = self.known()
            && before != value
        {
            *self.previous.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        }
        *self.value.lock().unwrap_or_else(PoisonError::into_inner) = Some((value.clone(), due));
        Ok(value)
    }

    fn known(&self) -> Option<(HeaderValue, Option<Instant>)> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn previous(&self) -> Option<HeaderValue> {
        self.previous
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn header_value(&self, text: &str) -> Result<HeaderValue, String> {
        rules::header_value(&self.header.prefix, text).map_err(|problem| format!("its value {problem}"))
    }

    fn missing(&self, reason: &str) -> BackendError {
        let name: &HeaderName = &self.header.name;
        BackendError::MissingHeader(format!("{name}: {reason}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_file(file: &std::path::Path, prefix: &str) -> RequestHeaders {
        RequestHeaders::new(&[ConfiguredHeader {
            name: HeaderName::from_static("x-key"),
            prefix: prefix.to_owned(),
            source: ValueSource::File(file.to_owned()),
        }])
    }

    async fn value(headers: &RequestHeaders) -> Result<String, BackendError> {
        let mut map = HeaderMap::new();
        headers.put(&mut map).await?;
        Ok(map["x-key"].to_str().unwrap().to_owned())
    }

    #[tokio::test]
    async fn header_file_is_reread_and_last_good_value_stays() {
        let file = std::env::temp_dir().join(format!("vmcp-header-{:x}", crate::runtime::random::u64()));
        let headers = from_file(&file, "Bearer ");
        let missing = value(&headers).await.unwrap_err();
        assert!(
            missing.to_string().contains("x-key") && missing.is_retry_safe(),
            "{missing}"
        );
        std::fs::write(&file, "one\n").unwrap();
        assert_eq!(value(&headers).await.unwrap(), "Bearer one");
        tokio::time::pause();
        for (text, expected) in [("two", "Bearer two"), ("a\nb", "Bearer two"), ("", "Bearer two")] {
            std::fs::write(&file, text).unwrap();
            tokio::time::advance(FILE_MAX_AGE).await;
            assert_eq!(value(&headers).await.unwrap(), expected);
        }
        std::fs::remove_file(&file).unwrap();
        tokio::time::advance(FILE_MAX_AGE).await;
        assert_eq!(value(&headers).await.unwrap(), "Bearer two");
    }

    // A value is hidden with and without its prefix or scheme, also for a while after a change. Short values stay.
    #[tokio::test]
    async fn header_value_is_hidden_in_backend_text() {
        let file = std::env::temp_dir().join(format!("vmcp-header-{:x}", crate::runtime::random::u64()));
        std::fs::write(&file, "s3cret\n").unwrap();
        let headers = from_file(&file, "Bearer ");
        value(&headers).await.unwrap();
        let text = "invalid key s3cret in \"Bearer s3cret\"";
        assert_eq!(headers.hide_values(text), "invalid key <hidden> in \"<hidden>\"");
        tokio::time::pause();
        std::fs::write(&file, "s3cret-2").unwrap();
        tokio::time::advance(FILE_MAX_AGE).await;
        value(&headers).await.unwrap();
        assert_eq!(
            headers.hide_values("s3cret, then s3cret-2"),
            "<hidden>, then <hidden>"
        );
        // A long text is cut, and the value at the cut is hidden as a whole.
        let long = format!(
            "{}s3cret-2{}",
            "x".repeat(MAX_TEXT_BYTES - 3),
            "y".repeat(1 << 20)
        );
        let cut = headers.hide_values(&long);
        assert!(cut.ends_with("x<hidden>"), "{}", cut.len());
        assert_eq!(cut.len(), MAX_TEXT_BYTES - 3 + HIDDEN.len());
        let whole = from_file(&file, "");
        for (content, text, expected) in [
            ("Basic dTpw", "no user dTpw", "no user <hidden>"),
            ("abc", "abc is no key", "abc is no key"),
            ("four", "four is no key", "<hidden> is no key"),
        ] {
            std::fs::write(&file, content).unwrap();
            tokio::time::advance(FILE_MAX_AGE).await;
            value(&whole).await.unwrap();
            assert_eq!(whole.hide_values(text), expected);
        }
        std::fs::remove_file(&file).unwrap();
    }

    // A hot reload replaces the headers while calls run. The values of the replaced ones stay hidden, up to a bound.
    #[tokio::test]
    async fn replaced_header_values_stay_hidden() {
        let plain = |value: String| ConfiguredHeader {
            name: HeaderName::from_static("x-key"),
            prefix: "Bearer ".to_owned(),
            source: ValueSource::Value(value),
        };
        let mut headers = RequestHeaders::default();
        for number in 10..40 {
            headers = RequestHeaders::replacing(&headers, &[plain(format!("s3cret-{number}"))]);
            value(&headers).await.unwrap();
        }
        headers = RequestHeaders::replacing(&headers, &[]);
        assert_eq!(
            headers.hide_values("s3cret-39, Bearer s3cret-24"),
            "<hidden>, <hidden>"
        );
        assert_eq!(headers.hide_values("s3cret-23"), "s3cret-23");
    }

    #[tokio::test]
    async fn header_values_are_never_printed() {
        let file = std::env::temp_dir().join(format!("vmcp-header-{:x}", crate::runtime::random::u64()));
        std::fs::write(&file, "s3cret").unwrap();
        let headers = from_file(&file, "");
        assert_eq!(value(&headers).await.unwrap(), "s3cret");
        assert!(!format!("{headers:?}").contains("s3cret"));
        std::fs::remove_file(&file).unwrap();
    }
}
