//! URIs that are written differently and mean the same (RFC 3986, 6.2.2).
//!
//! A rule that names a resource has to hold however a client writes its URI: backends decode what they are asked for, and files are found
//! through any path that leads there.

use percent_encoding::percent_decode_str;

/// How `uri`, or a pattern of URIs, is compared: nothing encoded, scheme and authority in lower case, no empty segments of the path and
/// none that lead to another. URIs that mean different things may have one form, so that it only serves to refuse.
pub(crate) fn canonical(uri: &str) -> String {
    let decoded = percent_decode_str(uri).decode_utf8_lossy();
    let authority = decoded.find("://").map(|end| end + 3);
    let (origin, rest) = match authority {
        Some(start) => {
            let length = decoded[start..].find(['/', '?', '#']);
            decoded.split_at(length.map_or(decoded.len(), |length| start + length))
        }
        None => decoded.split_at(decoded.find(':').map_or(0, |end| end + 1)),
    };
    let (path, behind) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    let begins = if path.starts_with('/') { "/" } else { "" };
    let ends = if path.ends_with('/') && !segments.is_empty() {
        "/"
    } else {
        ""
    };
    let origin = origin.to_lowercase();
    format!("{origin}{begins}{}{ends}{behind}", segments.join("/"))
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn what_means_the_same_has_one_form() {
        for (uri, form) in [
            ("file:///a/secret", "file:///a/secret"),
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
}
