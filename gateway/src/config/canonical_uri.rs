//! Normalization of URIs, so that filter rules hold for every spelling of a URI.
//!
//! It follows RFC 3986, 6.2.2, and the WHATWG URL standard, with which the official TypeScript and Python SDKs parse URIs. Backends decode
//! the URI that they receive, and a file can be reached by many paths. Without normalization, a client could evade a rule by writing the
//! URI differently.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::runtime::step_counter;

/// The longest segment that is checked for being `..` with characters that parsers ignore.
const MAX_PARENT_SEGMENT_BYTES: usize = 64;

/// How often percent-encoding is decoded repeatedly. A server after a proxy may decode more than once, too.
const MAX_DECODINGS: usize = 3;

/// The special schemes of the URL standard with their default ports. Their URIs have an authority after any number of slashes.
const SPECIAL: [(&str, &str); 5] = [
    ("http:", ":80"),
    ("https:", ":443"),
    ("ws:", ":80"),
    ("wss:", ":443"),
    ("ftp:", ":21"),
];

/// The form in which `uri`, or a pattern of URIs, is compared: percent-decoded, without control characters, with forward slashes only, with
/// scheme and authority in lower case, without user and default port, and without empty, `.` and `..` path segments. Different resources may
/// have the same form, so it may only be used to deny access, not to identify a resource.
pub(crate) fn canonical(uri: &str) -> String {
    let plain = plain(uri);
    let scheme_end = plain.find(':').map_or(0, |end| end + 1);
    let (scheme, rest) = plain.split_at_checked(scheme_end).unwrap_or(("", &plain));
    let scheme = scheme.to_lowercase();
    let (authority, rest) = authority(&scheme, rest);
    let (path, suffix) = rest
        .split_at_checked(rest.find(['?', '#']).unwrap_or(rest.len()))
        .unwrap_or((rest, ""));
    let mut segments = Vec::new();
    for segment in path.split('/') {
        step_counter::count(segment.len() + 1);
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    let is_local = scheme == "file:" && !path.is_empty();
    let begins = if path.starts_with('/') || is_local {
        "/"
    } else {
        ""
    };
    let ends = if path.ends_with('/') && !segments.is_empty() {
        "/"
    } else {
        ""
    };
    let authority = authority.map(|authority| format!("//{authority}"));
    let authority = authority.unwrap_or_default();
    format!("{scheme}{authority}{begins}{}{ends}{suffix}", segments.join("/"))
}

/// The forms of `uri` that deny rules are matched with: the canonical form, and that form without the fragment, the query, the trailing
/// slash, and the host of a file URI, all of which many servers ignore.
pub(crate) fn deniable_forms(uri: &str) -> Vec<String> {
    let form = canonical(uri);
    let cut = |at: &[char]| {
        form.find(at)
            .and_then(|end| form.get(..end))
            .map(ToOwned::to_owned)
    };
    let shorter: Vec<_> = [cut(&['#']), cut(&['?', '#'])].into_iter().flatten().collect();
    let mut forms: Vec<_> = std::iter::once(form).chain(shorter).collect();
    let local = |form: &String| {
        let (host, path) = form.strip_prefix("file://")?.split_once('/')?;
        (!host.is_empty()).then(|| format!("file:///{path}"))
    };
    forms.extend(forms.iter().filter_map(local).collect::<Vec<_>>());
    let without_slash = |form: &String| form.strip_suffix('/').map(ToOwned::to_owned);
    forms.extend(forms.iter().filter_map(without_slash).collect::<Vec<_>>());
    forms
}

/// Whether URI parsers may disagree about the resource that `uri` refers to, so that no filter rule can hold for it. Parsers resolve a `..`
/// segment before or after they decode its neighbours, and differ in how they read encoded or non-ASCII characters in the authority.
pub(crate) fn is_ambiguous(uri: &str) -> bool {
    let mut stage = Cow::Borrowed(uri);
    for decoded in 0..=MAX_DECODINGS {
        if has_parent_segment(&stage) {
            return true;
        }
        if decoded == MAX_DECODINGS || !stage.contains('%') {
            break;
        }
        stage = Cow::Owned(percent_decode_str(&stage).decode_utf8_lossy().into_owned());
    }
    has_ambiguous_authority(uri)
}

fn has_parent_segment(text: &str) -> bool {
    step_counter::count(text.len());
    text.split(['/', '\\', '?', '#', ';']).any(|segment| {
        let plain = |character: &char| !character.is_ascii_control() && *character != ' ';
        segment.len() <= MAX_PARENT_SEGMENT_BYTES && segment.chars().filter(plain).eq("..".chars())
    })
}

fn has_ambiguous_authority(uri: &str) -> bool {
    let (scheme, rest) = uri.split_once(':').unwrap_or(("", uri));
    let is_special = SPECIAL
        .iter()
        .any(|(name, _)| name.trim_end_matches(':').eq_ignore_ascii_case(scheme));
    let is_slash = |character: char| matches!(character, '/' | '\\');
    let from = rest.trim_start_matches(is_slash);
    if !is_special && rest.len() < from.len() + 2 {
        return false;
    }
    let end = from.find(|character| is_slash(character) || matches!(character, '?' | '#'));
    let authority = from.get(..end.unwrap_or(from.len())).unwrap_or_default();
    let after_address = authority.rsplit(']').next().unwrap_or_default();
    let port = after_address.rsplit_once(':').map(|(_, port)| port);
    authority.contains('%')
        || (is_special && !authority.is_ascii())
        || port.is_some_and(|port| port.is_empty() || port.starts_with('0'))
}

/// `uri` decoded, without the parts that URI parsers ignore: control characters, surrounding white space, and everything after a NUL.
fn plain(uri: &str) -> String {
    let mut plain = Cow::Borrowed(uri);
    for _ in 0..MAX_DECODINGS {
        if !plain.contains('%') {
            break;
        }
        plain = Cow::Owned(percent_decode_str(&plain).decode_utf8_lossy().into_owned());
    }
    let plain = plain.split('\0').next().unwrap_or_default();
    let plain = plain.trim_matches(|character: char| character <= ' ');
    let mut plain = plain.replace(|character: char| character.is_ascii_control(), "");
    if plain.contains('\\') {
        plain = plain.replace('\\', "/");
    }
    plain
}

/// Splits `rest`, the part after `scheme`, into the authority and the part after it.
fn authority<'a>(scheme: &str, rest: &'a str) -> (Option<String>, &'a str) {
    let special = SPECIAL.iter().find(|(name, _)| *name == scheme);
    let from = if special.is_some() {
        Some(rest.trim_start_matches('/'))
    } else {
        rest.strip_prefix("//")
    };
    let Some(from) = from else {
        // A file URI without an authority means this machine.
        return ((scheme == "file:").then(String::new), rest);
    };
    let (authority, after) = from
        .split_at_checked(from.find(['/', '?', '#']).unwrap_or(from.len()))
        .unwrap_or((from, ""));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let mut host = host.to_lowercase();
    if let Some((_, port)) = special
        && host.ends_with(port)
    {
        host.truncate(host.len() - port.len());
    }
    if scheme == "file:" && host == "localhost" {
        host.clear();
    }
    (Some(host), after)
}

#[cfg(test)]
mod tests {
    use super::{canonical, deniable_forms, is_ambiguous};
    use crate::runtime::step_counter::assert_linear;

    #[test]
    fn canonical_form_takes_linear_time() {
        for unit in ["../", "a/", "%2e%2e%2f", "%25", "//", "\\\\", "A", "%"] {
            assert_linear(
                200,
                |many| format!("x://y/{}", unit.repeat(many)),
                |uri| {
                    drop(canonical(&uri));
                    is_ambiguous(&uri);
                },
            );
        }
    }

    #[test]
    fn equivalent_uris_have_one_canonical_form() {
        for (uri, form) in [
            ("file:///a/secret", "file:///a/secret"),
            ("file:/a/secret", "file:///a/secret"),
            ("file:a", "file:///a"),
            ("file://localhost/a/secret", "file:///a/secret"),
            ("file:\\\\\\a\\secret", "file:///a/secret"),
            ("\u{1}file:///a/sec\tret\r\n ", "file:///a/secret"),
            ("file:///a/secret\0.txt", "file:///a/secret"),
            ("file:///a/secret%00.txt", "file:///a/secret"),
            ("file:///a/sec%09ret", "file:///a/secret"),
            ("file:///a/%2573ecret", "file:///a/secret"),
            ("db://user:password@Host/x", "db://host/x"),
            ("db://host:80/x", "db://host:80/x"),
            ("http:/host:80/x", "http://host/x"),
            ("HTTPS:host/x", "https://host/x"),
            ("https:////host:443//x", "https://host/x"),
            ("file:///a/%73ecret", "file:///a/secret"),
            ("FILE:///a/./b/..//secret", "file:///a/secret"),
            ("file:///a%2F..%2fa/secret", "file:///a/secret"),
            ("db://Host/Rows?x=/../y#Z", "db://host/Rows?x=/../y#Z"),
            ("db://Host", "db://host"),
            ("Mail:Someone/x", "mail:Someone/x"),
            ("*secret", "*secret"),
            ("file:///../../etc", "file:///etc"),
            ("x://a/{+path}", "x://a/{+path}"),
            ("x://a/b/?.txt", "x://a/b/?.txt"),
            ("x://a/%ff", "x://a/\u{fffd}"),
            ("", ""),
        ] {
            assert_eq!(canonical(uri), form, "{uri}");
        }
    }

    #[test]
    fn deny_rules_ignore_fragment_query_and_file_host() {
        assert_eq!(
            deniable_forms("x://a/b?c#d"),
            ["x://a/b?c#d", "x://a/b?c", "x://a/b"]
        );
        assert_eq!(deniable_forms("x://a/b"), ["x://a/b"]);
        assert_eq!(deniable_forms("x://a/b/"), ["x://a/b/", "x://a/b"]);
        assert_eq!(
            deniable_forms("file://host/a/b"),
            ["file://host/a/b", "file:///a/b"]
        );
    }

    #[test]
    fn uri_that_parsers_read_differently_is_ambiguous() {
        for uri in [
            "file:///a/x%3F/../secret",
            "file:///a/x%2Fy/../secret",
            "db://host/x%3F/../secret",
            "db://host/x\\y/../secret",
            "file:///pub/x%3F/../../secret",
            "file:///a/x?/../secret",
            "file:///a//../secret",
            "file:///a/%252e%252e/secret",
            "file:///a/.%09./secret",
            "db://evil%2F@host/secret",
            "http://host:080/s",
            "https://host:/s",
            "https://ho\u{ad}st/s",
            "https:ho\u{ad}st/s",
        ] {
            assert!(is_ambiguous(uri), "{uri}");
        }
        for uri in [
            "file:///a/b..c/...",
            "file:///a/%C3%A9?x=%2F",
            "db://user:password@Host:5432/x",
            "https://host:8080/s",
            "https://[fe80::0]/s",
            "notes://größe/x",
            "mail:someone@host",
            "",
        ] {
            assert!(!is_ambiguous(uri), "{uri}");
        }
    }
}
