//! The headers of a client's request that pass through to backends.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};

/// The headers of one request that at least one backend receives. A cheap-clone handle, empty in most requests.
///
/// They belong to the request and not to its session: two requests of one session may carry different
/// credentials. [`super::Backend::on_behalf_of`] binds them to a backend.
#[derive(Clone, Debug, Default)]
pub struct ClientHeaders(Option<Arc<HeaderMap>>);

impl ClientHeaders {
    /// Selects the headers `names` of a request.
    #[must_use]
    pub fn select(headers: &HeaderMap, names: &[HeaderName]) -> Self {
        // Most servers pass no headers.
        if names.is_empty() {
            return Self::default();
        }
        let mut selected = HeaderMap::new();
        for name in names {
            for value in headers.get_all(name) {
                selected.append(name.clone(), value.clone());
            }
        }
        Self((!selected.is_empty()).then(|| Arc::new(selected)))
    }

    /// The selected headers, unless there are none.
    pub(super) fn get(&self) -> Option<&HeaderMap> {
        self.0.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// Only the named headers are selected, each with all its values.
    #[test]
    fn only_named_headers_are_selected() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-a", "1"), ("x-a", "2"), ("x-b", "3")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let names = ["x-a", "x-c"].map(HeaderName::from_static);
        let selected = ClientHeaders::select(&headers, &names);
        let selected = selected.get().unwrap();
        assert_eq!(selected.get_all("x-a").iter().count(), 2);
        assert_eq!(selected.len(), 2);
    }

    /// A request without the named headers has none.
    #[test]
    fn nothing_selected_is_empty() {
        let names = [HeaderName::from_static("x-a")];
        assert!(ClientHeaders::select(&HeaderMap::new(), &names).get().is_none());
        assert!(ClientHeaders::select(&HeaderMap::new(), &[]).get().is_none());
    }
}
