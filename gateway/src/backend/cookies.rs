//! The cookies of an upstream session: what a balancer in front of the backend finds the session's server by.
//!
//! They are kept as a browser would keep them (RFC 6265), but apart for each upstream session, in its binding, so that every replica sends
//! them: what one client's session was given is never sent for another's. Those that are set when the session is opened count.

use std::sync::Arc;

use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderValue, Uri};
use serde::{Deserialize, Serialize};

/// How many cookies are kept.
const MAX_COOKIES: usize = 8;
/// The most bytes of one: balancers need less than 200.
const MAX_COOKIE_BYTES: usize = 1024;

/// The cookies of one upstream session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<Cookie>", into = "Vec<Cookie>")]
pub struct Cookies(Option<Arc<[Cookie]>>);

#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Cookie {
    name: Box<str>,
    value: Box<str>,
    /// When it ends, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<u64>,
}

impl std::fmt::Debug for Cookie {
    /// The value may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cookie")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl From<Vec<Cookie>> for Cookies {
    fn from(cookies: Vec<Cookie>) -> Self {
        Self((!cookies.is_empty()).then(|| cookies.into()))
    }
}

impl From<Cookies> for Vec<Cookie> {
    fn from(cookies: Cookies) -> Self {
        cookies.0.as_deref().unwrap_or_default().to_vec()
    }
}

impl Cookies {
    /// How many bytes their names and values have.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let cookies = self.0.iter().flat_map(|cookies| cookies.iter());
        cookies.map(|cookie| cookie.name.len() + cookie.value.len()).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Takes what an answer to a request for `url` sets at `now`, in seconds since 1970.
    pub(super) fn take(&mut self, headers: &HeaderMap, url: &Uri, now: u64) {
        let mut set = headers.get_all(SET_COOKIE).iter().peekable();
        if set.peek().is_none() {
            return;
        }
        let mut kept = self.0.as_deref().unwrap_or_default().to_vec();
        for cookie in set.filter_map(|text| parse(text, url, now)) {
            kept.retain(|other| other.name != cookie.name);
            if cookie.until.is_none_or(|until| until > now) && kept.len() < MAX_COOKIES {
                kept.push(cookie);
            }
        }
        *self = kept.into();
    }

    /// The value of the header `Cookie` at `now`, if there is anything to send.
    pub(super) fn header(&self, now: impl FnOnce() -> u64) -> Option<HeaderValue> {
        let cookies = self.0.as_deref()?;
        let now = now();
        let live = cookies
            .iter()
            .filter(|cookie| cookie.until.is_none_or(|until| until > now));
        let pairs: Vec<String> = live
            .map(|cookie| format!("{}={}", cookie.name, cookie.value))
            .collect();
        let mut value = HeaderValue::try_from(pairs.join("; ")).ok()?;
        value.set_sensitive(true);
        (!value.is_empty()).then_some(value)
    }
}

/// One `Set-Cookie`; `None` where it is not for `url`, or is no cookie.
fn parse(text: &HeaderValue, url: &Uri, now: u64) -> Option<Cookie> {
    let text = text.to_str().ok()?;
    let (pair, attributes) = text.split_once(';').unwrap_or((text, ""));
    let (name, value) = pair.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    if name.is_empty() || name.len().saturating_add(value.len()) > MAX_COOKIE_BYTES {
        return None;
    }
    let is_https = url.scheme() == Some(&http::uri::Scheme::HTTPS);
    let (mut until, mut max_age, mut is_secure) = (None, None, false);
    for attribute in attributes.split(';') {
        let (key, content) = attribute.split_once('=').unwrap_or((attribute, ""));
        let content = content.trim();
        match &*key.trim().to_ascii_lowercase() {
            "secure" => is_secure = true,
            "domain" if !content.is_empty() && !is_in_domain(url.host()?, content) => return None,
            "path" if content.starts_with('/') && !is_below(url.path(), content) => return None,
            "max-age" => max_age = content.parse::<i64>().ok().or(max_age),
            "expires" => {
                let date = httpdate::parse_http_date(content).ok();
                let since = date.map(|date| date.duration_since(std::time::UNIX_EPOCH));
                until = since
                    .map(|since| since.map_or(0, |since| since.as_secs()))
                    .or(until);
            }
            _ => {}
        }
    }
    let must_be_secure = is_secure || name.starts_with("__Secure-") || name.starts_with("__Host-");
    if must_be_secure && !(is_secure && is_https) {
        return None;
    }
    if let Some(seconds) = max_age {
        until = Some(now.saturating_add_signed(seconds));
    }
    Some(Cookie {
        name: name.into(),
        value: value.into(),
        until,
    })
}

/// RFC 6265, 5.1.3.
fn is_in_domain(host: &str, domain: &str) -> bool {
    let domain = domain.trim_start_matches('.').to_ascii_lowercase();
    let host = host.to_ascii_lowercase();
    let is_name = host.parse::<std::net::IpAddr>().is_err();
    host == domain
        || is_name
            && host
                .strip_suffix(&*domain)
                .is_some_and(|rest| rest.ends_with('.'))
}

/// RFC 6265, 5.1.4.
fn is_below(path: &str, prefix: &str) -> bool {
    let rest = path.strip_prefix(prefix);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn taken(url: &str, set: &[&str]) -> Cookies {
        let mut headers = HeaderMap::new();
        for cookie in set {
            headers.append(SET_COOKIE, cookie.parse().unwrap());
        }
        let mut cookies = Cookies::default();
        cookies.take(&headers, &url.parse().unwrap(), NOW);
        cookies
    }

    fn sent(url: &str, set: &[&str], later: u64) -> Option<String> {
        let header = taken(url, set).header(|| NOW + later);
        header.map(|header| header.to_str().unwrap().to_owned())
    }

    #[test]
    fn cookies_are_sent_as_a_browser_would_send_them() {
        for (url, set, later, expected) in [
            (
                "http://a.test/mcp",
                &["a=1; HttpOnly", "b=\"2\"; SameSite=Lax"][..],
                0,
                Some("a=1; b=\"2\""),
            ),
            ("http://a.test/mcp", &["a=1", "a=2"], 0, Some("a=2")),
            ("http://a.test/mcp", &["a=1", "a=; Max-Age=0"], 0, None),
            (
                "http://a.test/mcp",
                &["a=1", "a=; Expires=Thu, 01 Jan 1970 00:00:00 GMT"],
                0,
                None,
            ),
            ("http://a.test/mcp", &["a=1; Max-Age=60"], 59, Some("a=1")),
            ("http://a.test/mcp", &["a=1; Max-Age=60"], 60, None),
            (
                "http://a.test/mcp",
                &["a=1; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT"],
                0,
                Some("a=1"),
            ),
            ("http://a.test/mcp", &["a=1; Secure"], 0, None),
            ("https://a.test/mcp", &["a=1; Secure"], 0, Some("a=1")),
            ("https://a.test/mcp", &["__Host-a=1"], 0, None),
            (
                "http://a.test/mcp",
                &["a=1; Domain=test", "b=1; Domain=.A.test", "c=1; Domain=b.test"],
                0,
                Some("a=1; b=1"),
            ),
            ("http://10.0.0.1/mcp", &["a=1; Domain=0.0.1"], 0, None),
            (
                "http://a.test/mcp",
                &["a=1; Path=/", "b=1; Path=/mcp", "c=1; Path=/mc", "d=1; Path=/x"],
                0,
                Some("a=1; b=1"),
            ),
            ("http://a.test/mcp", &["nonsense", "=x", ""], 0, None),
        ] {
            assert_eq!(sent(url, set, later).as_deref(), expected, "{url} {set:?}");
        }
    }

    #[test]
    fn number_and_size_of_cookies_are_bounded() {
        let many: Vec<String> = (0..20).map(|number| format!("c{number}=1")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let sent_back = sent("http://a.test/mcp", &many, 0).unwrap();
        assert_eq!(sent_back.split("; ").count(), MAX_COOKIES);
        let large = format!("a={}", "x".repeat(MAX_COOKIE_BYTES));
        assert_eq!(sent("http://a.test/mcp", &[&large], 0), None);
    }

    #[test]
    fn cookies_survive_the_store_and_are_not_printed() {
        let cookies = taken("http://a.test/mcp", &["a=s3cret; Max-Age=60", "b=2"]);
        let stored = serde_json::to_string(&cookies).unwrap();
        assert_eq!(serde_json::from_str::<Cookies>(&stored).unwrap(), cookies);
        assert!(!format!("{cookies:?}").contains("s3cret"));
    }
}
