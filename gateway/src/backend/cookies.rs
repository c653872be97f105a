//! The cookies of an upstream session, by which a load balancer finds the session's server.
//!
//! They follow RFC 6265, but each upstream session has its own jar: a cookie that one client's session received is never sent for another
//! client. The binding of the session contains the jar, so every replica sends the cookies. Any response in the session may set cookies.
//! All copies of an [`UpstreamSession`](super::UpstreamSession) share the jar, so the next request of this process sends what the last
//! response set.
//!
//! Some balancers set a new value with each response, and accept older values, too. So a new cookie is stored at once, but a new value only
//! every [`STORE_INTERVAL_SECONDS`] seconds.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::{ArcSwapOption, Guard};
use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderValue, Uri};
use serde::{Deserialize, Serialize};

/// Maximum number of cookies per session.
const MAX_COOKIES: usize = 8;
/// Maximum bytes of a cookie's name and value. Balancers need less than 200.
const MAX_COOKIE_BYTES: usize = 1024;
/// Minimum time between two writes of changed values, in seconds.
const STORE_INTERVAL_SECONDS: u64 = 30;

/// The cookies of one upstream session. Clones share them.
///
/// ```
/// use vmcp_gateway::backend::Cookies;
///
/// let cookies: Cookies = serde_json::from_str(r#"[{"name":"lb","value":"a"}]"#).unwrap();
/// assert_eq!(cookies.bytes(), 3);
/// assert!(!cookies.is_empty() && !format!("{cookies:?}").contains("value"));
/// ```
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Cookie>", into = "Vec<Cookie>")]
pub struct Cookies {
    jar: Arc<Jar>,
    /// Size when they were deserialized or copied. A session record counts it, so it must not change while the record lives.
    bytes: usize,
}

/// The state that clones share.
#[derive(Debug, Default)]
struct Jar {
    /// Whether `kept` may contain cookies. A cheap check for each call, because most backends set none.
    is_used: AtomicBool,
    kept: ArcSwapOption<Kept>,
}

impl Jar {
    fn load(&self) -> Guard<Option<Arc<Kept>>> {
        if self.is_used.load(Ordering::Acquire) {
            self.kept.load()
        } else {
            Guard::from_inner(None)
        }
    }

    fn update(&self, change: impl FnMut(&Option<Arc<Kept>>) -> Option<Arc<Kept>>) {
        self.kept.rcu(change);
        self.is_used.store(true, Ordering::Release);
    }
}

/// The cookies at one moment.
#[derive(Clone, Debug, Default)]
struct Kept {
    cookies: Vec<Cookie>,
    /// How they differ from those in the store.
    unstored: UnstoredChange,
    /// When they were last stored, in seconds since 1970.
    stored: u64,
}

impl Kept {
    fn bytes(&self) -> usize {
        let cookies = self.cookies.iter();
        cookies.map(|cookie| cookie.name.len() + cookie.value.len()).sum()
    }
}

/// How cookies differ from those in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum UnstoredChange {
    /// They are equal to the stored ones.
    #[default]
    Nothing,
    /// The names are equal, but some values differ.
    Values,
    /// Cookies were added or removed.
    Names,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Cookie {
    name: Box<str>,
    value: Box<str>,
    /// Expiry, in seconds since 1970; `None` for a session cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<u64>,
}

impl std::fmt::Debug for Cookie {
    /// Hides the value, which may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cookie")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Cookies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Cookies").field(&self.to_vec()).finish()
    }
}

/// Always equal: cookies change over time, and do not identify an upstream session.
impl PartialEq for Cookies {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Cookies {}

impl Hash for Cookies {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl From<Vec<Cookie>> for Cookies {
    fn from(cookies: Vec<Cookie>) -> Self {
        let kept = (!cookies.is_empty()).then(|| {
            Arc::new(Kept {
                cookies,
                ..Kept::default()
            })
        });
        let bytes = kept.as_ref().map_or(0, |kept| kept.bytes());
        Self {
            jar: Arc::new(Jar {
                is_used: AtomicBool::new(kept.is_some()),
                kept: ArcSwapOption::new(kept),
            }),
            bytes,
        }
    }
}

impl From<Cookies> for Vec<Cookie> {
    fn from(cookies: Cookies) -> Self {
        cookies.to_vec()
    }
}

impl Cookies {
    /// Total bytes of the names and values, as of deserialization or copying.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there are no cookies.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.jar
            .load()
            .as_ref()
            .is_none_or(|kept| kept.cookies.is_empty())
    }

    fn to_vec(&self) -> Vec<Cookie> {
        let kept = self.jar.load();
        kept.as_ref().map(|kept| kept.cookies.clone()).unwrap_or_default()
    }

    /// Stores the cookies that the response `headers` set at `now`, in seconds since 1970. A cookie must apply to all of `urls`.
    pub(super) fn store_from_response(&self, headers: &HeaderMap, urls: &[&Uri], now: impl FnOnce() -> u64) {
        if !headers.contains_key(SET_COOKIE) {
            return;
        }
        let now = now();
        let is_for_all = |text: &&HeaderValue| urls.iter().all(|url| parse(text, url, now).is_some());
        let set = headers.get_all(SET_COOKIE).iter().filter(is_for_all);
        let set: Vec<_> = set.filter_map(|text| parse(text, urls.first()?, now)).collect();
        self.jar.update(|known| {
            let before = known.as_deref().cloned().unwrap_or_default();
            let mut cookies = before.cookies.clone();
            for cookie in &set {
                let is_live = cookie.until.is_none_or(|until| until > now);
                let known = cookies.iter_mut().find(|other| other.name == cookie.name);
                match known {
                    Some(known) if is_live => *known = cookie.clone(),
                    Some(_) => cookies.retain(|other| other.name != cookie.name),
                    None if is_live => cookies.push(cookie.clone()),
                    None => {}
                }
            }
            cookies.truncate(MAX_COOKIES);
            let names = |cookies: &[Cookie]| {
                cookies
                    .iter()
                    .map(|cookie| cookie.name.clone())
                    .collect::<Vec<_>>()
            };
            let unstored = if names(&cookies) != names(&before.cookies) {
                UnstoredChange::Names
            } else if cookies != before.cookies {
                before.unstored.max(UnstoredChange::Values)
            } else {
                before.unstored
            };
            Some(Arc::new(Kept {
                cookies,
                unstored,
                stored: before.stored,
            }))
        });
    }

    /// Whether they should be written to the store at `now`, in seconds since 1970.
    pub fn is_store_due(&self, now: impl FnOnce() -> u64) -> bool {
        self.jar.load().as_ref().is_some_and(|kept| match kept.unstored {
            UnstoredChange::Nothing => false,
            UnstoredChange::Names => true,
            UnstoredChange::Values => now().saturating_sub(kept.stored) >= STORE_INTERVAL_SECONDS,
        })
    }

    /// Records that they are being written at `now`. Later changes count as not stored.
    pub fn mark_stored(&self, now: u64) {
        self.jar.update(|known| {
            known.as_deref().map(|kept| {
                Arc::new(Kept {
                    unstored: UnstoredChange::Nothing,
                    stored: now,
                    ..kept.clone()
                })
            })
        });
    }

    /// Records that the write failed.
    pub fn mark_unstored(&self) {
        self.jar.update(|known| {
            known.as_deref().map(|kept| {
                Arc::new(Kept {
                    unstored: UnstoredChange::Names,
                    ..kept.clone()
                })
            })
        });
    }

    /// Returns an independent copy of the cookies.
    #[must_use]
    pub fn detached_copy(&self) -> Self {
        self.to_vec().into()
    }

    /// The value of the `Cookie` header at `now`; `None` if there is no live cookie.
    pub(super) fn header(&self, now: impl FnOnce() -> u64) -> Option<HeaderValue> {
        let kept = self.jar.load();
        let kept = kept.as_ref()?;
        let now = now();
        let live = kept
            .cookies
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

/// Parses one `Set-Cookie` header; `None` if it is invalid or does not apply to `url`.
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

/// Domain matching of RFC 6265, 5.1.3.
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

/// Path matching of RFC 6265, 5.1.4.
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
        let cookies = Cookies::default();
        cookies.store_from_response(&headers, &[&url.parse().unwrap()], || NOW);
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
    fn cookies_survive_the_store_but_are_not_printed() {
        let cookies = taken("http://a.test/mcp", &["a=s3cret; Max-Age=60", "b=2"]);
        let stored = serde_json::to_string(&cookies).unwrap();
        let read: Cookies = serde_json::from_str(&stored).unwrap();
        assert!(read.to_vec() == cookies.to_vec() && read.to_vec().len() == 2);
        assert!(!read.is_store_due(|| NOW));
        assert!(!format!("{cookies:?}").contains("s3cret"));
    }

    fn set(cookies: &Cookies, set: &str) {
        let headers = HeaderMap::from_iter([(SET_COOKIE, set.parse().unwrap())]);
        cookies.store_from_response(&headers, &[&"http://a.test/mcp".parse().unwrap()], || NOW);
    }

    #[test]
    fn new_cookie_is_stored_at_once_and_new_value_later() {
        let cookies = Cookies::default();
        assert!(!cookies.is_store_due(|| NOW));
        set(&cookies, "lb=1");
        assert!(cookies.is_store_due(|| NOW));
        cookies.mark_stored(NOW);
        set(&cookies, "lb=1");
        assert!(!cookies.is_store_due(|| NOW + STORE_INTERVAL_SECONDS));
        set(&cookies, "lb=2");
        assert!(
            !cookies.is_store_due(|| NOW + STORE_INTERVAL_SECONDS - 1)
                && cookies.is_store_due(|| NOW + STORE_INTERVAL_SECONDS)
        );
        set(&cookies, "other=1");
        assert!(cookies.is_store_due(|| NOW));
        cookies.mark_stored(NOW);
        set(&cookies, "other=; Max-Age=0");
        assert!(cookies.is_store_due(|| NOW));
        assert_eq!(cookies.header(|| NOW).unwrap(), "lb=2");
    }

    #[test]
    fn copies_of_a_session_share_its_cookies() {
        let cookies = Cookies::default();
        let (shared, detached) = (cookies.clone(), cookies.detached_copy());
        set(&cookies, "lb=1");
        assert!(!shared.is_empty() && detached.is_empty());
    }

    #[test]
    fn cookie_must_apply_to_every_url() {
        let cookies = Cookies::default();
        let headers = HeaderMap::from_iter([(SET_COOKIE, "a=1; Path=/sse".parse().unwrap())]);
        let urls = ["http://a.test/sse", "http://a.test/message"].map(|url| url.parse().unwrap());
        cookies.store_from_response(&headers, &urls.each_ref(), || NOW);
        assert!(cookies.is_empty());
        cookies.store_from_response(&headers, &[&urls[0]], || NOW);
        assert!(!cookies.is_empty());
    }
}
