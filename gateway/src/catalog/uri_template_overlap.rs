//! Decides whether two URI templates match a common URI: the intersection of two regular languages, by a search through pairs of positions
//! (product automaton).

// This input comes from untrusted backends.
#![cfg_attr(
    not(test),
    warn(clippy::expect_used, clippy::indexing_slicing, clippy::string_slice)
)]

use super::uri_owners::normalize;
use crate::catalog::uri_template::{TemplatePart, UriTemplate};

/// Maximum number of symbols of a template that is compared. A longer one is assumed to overlap with every template that has the same
/// beginning.
const MAX_SYMBOLS: usize = 1024;

/// A state of the automaton of a template.
#[derive(Clone, Copy, Debug)]
enum Symbol {
    /// One byte, which must be this one.
    Byte(u8),
    /// One byte; `slash` says whether it may be `/`.
    One { slash: bool },
    /// Any number of bytes; `slash` says whether they may contain `/`.
    Many { slash: bool },
}

/// Whether some URI matches both templates. Adds the steps taken to `steps`.
pub(super) fn overlap(one: &UriTemplate, other: &UriTemplate, steps: &mut usize) -> bool {
    let (first, second) = (one.literal_beginning(), other.literal_beginning());
    *steps += 1;
    (first.starts_with(second) || second.starts_with(first))
        && have_common_string(&symbols(one), &symbols(other), steps)
}

/// Whether the template matches some URI inside `beginning`, which is an authority or a directory.
pub(super) fn overlaps_prefix(template: &UriTemplate, beginning: &str, steps: &mut usize) -> bool {
    let literal = &*normalize(template.literal_beginning());
    *steps += 1;
    if !literal.starts_with(beginning) && !beginning.starts_with(literal) {
        return false;
    }
    let slash = if beginning.ends_with(['/', ':']) { "" } else { "/" };
    if literal.starts_with(&format!("{beginning}{slash}")) {
        return true;
    }
    let bytes = beginning.bytes().chain(slash.bytes()).map(Symbol::Byte);
    let inside: Vec<_> = bytes.chain([Symbol::Many { slash: true }]).collect();
    have_common_string(&symbols(template), &inside, steps)
}

fn symbols(template: &UriTemplate) -> Vec<Symbol> {
    let mut symbols = Vec::new();
    for part in &template.parts {
        match part {
            TemplatePart::Literal(literal) => symbols.extend(literal.bytes().map(Symbol::Byte)),
            TemplatePart::Segment => {
                symbols.extend([Symbol::One { slash: false }, Symbol::Many { slash: false }]);
            }
            TemplatePart::Path => symbols.extend([Symbol::One { slash: true }, Symbol::Many { slash: true }]),
            TemplatePart::Optional => symbols.push(Symbol::Many { slash: true }),
        }
    }
    symbols
}

/// Whether the end of both can be reached with the same bytes. Visits each pair of positions at most once.
fn have_common_string(one: &[Symbol], other: &[Symbol], steps: &mut usize) -> bool {
    if one.len().max(other.len()) > MAX_SYMBOLS {
        return true;
    }
    let width = other.len() + 1;
    let mut seen = vec![false; (one.len() + 1) * width];
    let mut open = vec![(0, 0)];
    while let Some((at, beside)) = open.pop() {
        let is_new = seen
            .get_mut(at * width + beside)
            .map(|seen| !std::mem::replace(seen, true));
        if is_new != Some(true) {
            continue;
        }
        *steps += 1;
        let (first, second) = (one.get(at), other.get(beside));
        if first.is_none() && second.is_none() {
            return true;
        }
        if matches!(first, Some(Symbol::Many { .. })) {
            open.push((at + 1, beside));
        }
        if matches!(second, Some(Symbol::Many { .. })) {
            open.push((at, beside + 1));
        }
        if let (Some(first), Some(second)) = (first, second)
            && first.shares_byte_with(*second)
        {
            open.push((first.position_after(at), second.position_after(beside)));
        }
    }
    false
}

impl Symbol {
    fn shares_byte_with(self, other: Self) -> bool {
        match (self, other) {
            (Self::Byte(one), Self::Byte(other)) => one == other,
            (Self::Byte(byte), Self::One { slash } | Self::Many { slash })
            | (Self::One { slash } | Self::Many { slash }, Self::Byte(byte)) => slash || byte != b'/',
            _ => true,
        }
    }

    /// The position after one byte was consumed at `at`.
    fn position_after(self, at: usize) -> usize {
        match self {
            Self::Many { .. } => at,
            Self::Byte(_) | Self::One { .. } => at + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn overlaps(one: &str, other: &str) -> bool {
        let (one, other) = (UriTemplate::new(one), UriTemplate::new(other));
        let answer = overlap(&one, &other, &mut 0);
        assert_eq!(overlap(&other, &one, &mut 0), answer);
        answer
    }

    #[test]
    fn templates_overlap_if_a_uri_matches_both() {
        for (one, other, expected) in [
            ("db://main/{+x}", "db://main/u{y}", true),
            ("db://a/{x}/c", "db://a/b/{y}", true),
            ("db://a/{x}/c", "db://a/b/{y}/d", false),
            ("gh://{owner}/issues/{n}", "gh://{owner}/pulls/{n}", false),
            ("gh://{owner}/issues/{n}", "gh://{+path}", true),
            ("file:///srv/a/{+p}", "file:///srv/b/{+p}", false),
            ("x://{a}", "x://{a}/{b}", false),
            ("x://{a}{?q}", "x://{a}/{b}", true),
            ("x://fixed", "x://{a}", true),
            ("x://fixed", "x://fixed2", false),
            ("{+any}", "x://{a}", true),
            ("y://{a}", "x://{a}", false),
        ] {
            assert_eq!(overlaps(one, other), expected, "{one} {other}");
        }
    }

    #[test]
    fn template_overlaps_an_authority_or_a_directory() {
        for (template, beginning, expected) in [
            ("db://main/{+x}", "db://main", true),
            ("db://{table}/rows", "db://main", true),
            ("db://{table}", "db://main", false),
            ("db://main2/{+x}", "db://main", false),
            ("db://{+x}", "db://main", true),
            ("file:///{+x}", "file:///srv/a/", true),
            ("file:///{x}", "file:///srv/a/", false),
            ("file:///srv/{x}/b", "file:///srv/a/", true),
            ("file:///srv/b/{+x}", "file:///srv/a/", false),
            ("urn:{x}", "urn:isbn:", true),
        ] {
            let template = UriTemplate::new(template);
            assert_eq!(
                overlaps_prefix(&template, beginning, &mut 0),
                expected,
                "{template:?} {beginning}"
            );
        }
    }

    #[test]
    fn overlap_steps_are_bounded_by_the_product() {
        let (one, other) = ("{+a}x".repeat(100), "{+a}y".repeat(100));
        let mut steps = 0;
        overlap(&UriTemplate::new(&one), &UriTemplate::new(&other), &mut steps);
        assert!(steps <= 302 * 302, "{steps}");
    }

    proptest! {
        #[test]
        fn uri_that_matches_both_is_never_missed(
            one in "(a|b|/|\\{x\\}|\\{\\+x\\}){0,6}",
            other in "(a|b|/|\\{x\\}|\\{\\+x\\}){0,6}",
            uri in "[ab/]{0,6}",
        ) {
            let fits = |template: &str| UriTemplate::new(template).matches(&uri);
            if fits(&one) && fits(&other) {
                prop_assert!(overlaps(&one, &other), "{} {} {}", one, other, uri);
            }
        }
    }
}
