//! URIs that are written differently and mean the same (RFC 3986, 6.2.2, and the URL standard of browsers, on which the official SDKs of
//! TypeScript and Python read URIs).
//!
//! A rule that names a resource has to hold however a client writes its URI: backends decode what they are asked for, and files are found
//! through any path that leads there.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::runtime::step_counter;

/// The longest segment that may be `..` with characters that parsers leave out.
const MAX_PARENT_SEGMENT_BYTES: usize = 64;

/// How often what is encoded is decoded again: a server behind a proxy may do so, too.
const MAX_DECODINGS: usize = 3;

/// The schemes whose URIs have an authority however many strokes stand before it, each with its port.
const SPECIAL: [(&str, &str); 5] = [
    ("http:", ":80"),
    ("https:", ":443"),
    ("ws:", ":80"),
    ("wss:", ":443"),
    ("ftp:", ":21"),
];

/// How `uri`, or a pattern of URIs, is compared: nothing encoded, no control characters, every stroke the same way round, scheme and
/// authority in lower case and without a user or the port that goes without saying, no empty segments of the path and none that lead to
/// another. URIs that mean different things may have one form, so that it only serves to refuse.
pub(crate) fn canonical(uri: &str) -> String {
    let plain = plain(uri);
    let scheme_end = plain.find(':').map_or(0, |end| end + 1);
    let (scheme, rest) = plain.split_at_checked(scheme_end).unwrap_or(("", &plain));
    let scheme = scheme.to_lowercase();
    let (authority, rest) = authority(&scheme, rest);
    let (path, behind) = rest
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
    format!("{scheme}{authority}{begins}{}{ends}{behind}", segments.join("/"))
}

/// The forms of `uri` by which it may be denied: as it is, and without its fragment, its query, the stroke at the end of its path, and the
/// host of a file, of which many servers take no notice.
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
    let without_stroke = |form: &String| form.strip_suffix('/').map(ToOwned::to_owned);
    forms.extend(forms.iter().filter_map(without_stroke).collect::<Vec<_>>());
    forms
}

/// Whether parsers of URIs may disagree about where `uri` leads: a segment `..` is taken away before or after its neighbours are decoded,
/// and what is encoded or foreign in the authority is read as a host or not. No rule about URIs can hold for such a one.
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
    let strokes = |character: char| matches!(character, '/' | '\\');
    let from = rest.trim_start_matches(strokes);
    if !is_special && rest.len() < from.len() + 2 {
        return false;
    }
    let end = from.find(|character| strokes(character) || matches!(character, '?' | '#'));
    let authority = from.get(..end.unwrap_or(from.len())).unwrap_or_default();
    let behind_address = authority.rsplit(']').next().unwrap_or_default();
    let port = behind_address.rsplit_once(':').map(|(_, port)| port);
    authority.contains('%')
        || (is_special && !authority.is_ascii())
        || port.is_some_and(|port| port.is_empty() || port.starts_with('0'))
}

/// Decoded, and without what parsers of URIs leave out: control characters, white space around it, and what stands behind a NUL.
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

/// The authority at the beginning of `rest`, which stands behind `scheme`, and what stands behind it.
fn authority<'a>(scheme: &str, rest: &'a str) -> (Option<String>, &'a str) {
    let special = SPECIAL.iter().find(|(name, _)| *name == scheme);
    let from = if special.is_some() {
        Some(rest.trim_start_matches('/'))
    } else {
        rest.strip_prefix("//")
    };
    let Some(from) = from else {
        // A file without an authority is one of this machine.
        return ((scheme == "file:").then(String::new), rest);
    };
    let (authority, behind) = from
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
    (Some(host), behind)
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
    fn what_means_the_same_has_one_form() {
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
    fn fragments_and_queries_do_not_hide_what_is_denied() {
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
