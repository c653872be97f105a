//! Matches URIs against URI templates (RFC 6570), to find the backend of a resource that no list contains.
//!
//! Whether the resource exists is for the backend to decide. So an expression is not expanded: it matches anything that it could expand to.
//!
//! The algorithm is greedy glob matching with bounded backtracking. Templates and URIs are untrusted, so it must not be exponential. Each
//! literal is matched at its first possible place, which leaves the most text for the parts after it. Invariant: between two slashes a
//! later place never matches more than an earlier one. Only after an expression that can contain slashes may a later place succeed where an
//! earlier one fails; there at most [`MAX_RESTARTS`] places are tried.

// This input comes from untrusted clients and backends.
#![cfg_attr(
    not(test),
    warn(clippy::expect_used, clippy::indexing_slicing, clippy::string_slice)
)]

use std::ops::Range;

use memchr::memmem;

use crate::runtime::step_counter;

/// Maximum bytes of literal text in a template that is matched.
pub(super) const MAX_BYTES: usize = 2 * 1024;
/// Maximum number of expressions in a template that is matched.
pub(super) const MAX_EXPRESSIONS: usize = 16;
/// Maximum number of places tried after an expression that can contain slashes. A URI that needs more does not match.
const MAX_RESTARTS: usize = 64;

/// A URI template, parsed for matching.
#[derive(Clone, Debug)]
pub(super) struct UriTemplate {
    text: Box<str>,
    pub(super) parts: Vec<TemplatePart>,
    literal_bytes: usize,
}

#[derive(Clone, Debug)]
pub(super) enum TemplatePart {
    /// Text that a URI must contain literally.
    Literal(String),
    /// `{name}`: at least one character, none of them `/`.
    Segment,
    /// `{+name}`, `{name*}`: at least one character.
    Path,
    /// `{?name}`, `{#name}` and the other operators: anything, or nothing.
    Optional,
}

impl UriTemplate {
    /// Parses a template. An unclosed brace is literal text.
    pub(super) fn new(text: &str) -> Self {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, after)) = rest.split_once('{') {
            let Some((expression, after)) = after.split_once('}') else {
                break;
            };
            parts.push(TemplatePart::Literal(literal.to_owned()));
            parts.push(TemplatePart::of(expression));
            rest = after;
        }
        parts.push(TemplatePart::Literal(rest.to_owned()));
        let literal_bytes = parts.iter().map(TemplatePart::literal_bytes).sum();
        Self {
            text: text.into(),
            parts,
            literal_bytes,
        }
    }

    /// Bytes of literal text. Of two templates that match a URI, the one with more is the better match.
    pub(super) fn literal_bytes(&self) -> usize {
        self.literal_bytes
    }

    /// The source text of the template.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The literal text before the first expression, with which all its URIs begin.
    pub(super) fn literal_beginning(&self) -> &str {
        match self.parts.first() {
            Some(TemplatePart::Literal(literal)) => literal,
            _ => "",
        }
    }

    /// Whether the template is within the limits for matching.
    pub(super) fn is_usable(&self) -> bool {
        let expressions = self.parts.iter().filter(|part| part.literal().is_none()).count();
        self.literal_bytes <= MAX_BYTES && expressions <= MAX_EXPRESSIONS
    }

    /// Whether the template can expand to `uri`. Linear in the length of `uri`.
    pub(super) fn matches(&self, uri: &str) -> bool {
        let uri = uri.as_bytes();
        // Literals and expressions alternate; the first and the last part are literals.
        let (Some(first), Some(last)) = (self.literal(0), self.literal(self.parts.len() - 1)) else {
            return false;
        };
        step_counter::count(1);
        if self.parts.len() == 1 {
            return uri == first;
        }
        if uri.len() < first.len() + last.len() || !uri.starts_with(first) || !uri.ends_with(last) {
            return false;
        }
        let Some(uri) = uri.get(..uri.len() - last.len()) else {
            return false;
        };
        let expressions = (1..self.parts.len()).step_by(2);
        let Some(last_free) = expressions.rev().find(|at| self.can_hold_slashes_at(*at)) else {
            let last = self.parts.len() - 2;
            return self
                .match_segments_forward(1..last, uri, first.len())
                .is_ok_and(|at| is_segment(uri.get(at..).unwrap_or_default()));
        };
        // The parts before the last expression with slashes are matched from the left, those after it from the right.
        let Some(start) = self.match_forward(1..last_free, uri, first.len()) else {
            return false;
        };
        let Some(end) = self.match_backward(last_free + 1..self.parts.len() - 1, uri) else {
            return false;
        };
        start + self.min_bytes(last_free) <= end
    }

    /// Whether the part at `at` is an expression that can contain slashes.
    fn can_hold_slashes_at(&self, at: usize) -> bool {
        self.parts.get(at).is_some_and(TemplatePart::can_hold_slashes)
    }

    /// Minimum bytes of the part at `at`.
    fn min_bytes(&self, at: usize) -> usize {
        self.parts.get(at).map_or(0, TemplatePart::min_bytes)
    }

    fn literal(&self, at: usize) -> Option<&[u8]> {
        self.parts.get(at).and_then(TemplatePart::literal)
    }

    /// Matches the parts `range` from `start`, each an expression followed by a literal, and returns the earliest end.
    fn match_forward(&self, range: Range<usize>, uri: &[u8], start: usize) -> Option<usize> {
        let (mut at, mut start) = (range.start, start);
        while at < range.end {
            // Up to the next expression that can contain slashes.
            let mut next = (at + 2..range.end).step_by(2);
            let end = next.find(|at| self.can_hold_slashes_at(*at)).unwrap_or(range.end);
            start = if self.can_hold_slashes_at(at) {
                self.match_after_free(at..end, uri, start)?
            } else {
                self.match_segments_forward(at..end, uri, start).ok()?
            };
            at = end;
        }
        Some(start)
    }

    /// As [`Self::match_forward`], for parts of which only the first expression can contain slashes.
    fn match_after_free(&self, range: Range<usize>, uri: &[u8], start: usize) -> Option<usize> {
        let literal = self.literal(range.start + 1)?;
        let finder = memmem::Finder::new(literal);
        let mut from = start + self.min_bytes(range.start);
        for _ in 0..MAX_RESTARTS {
            let rest = uri.get(from..)?;
            let found = finder.find(rest);
            step_counter::count(found.unwrap_or(rest.len()) + 1);
            let end = from + found? + literal.len();
            match self.match_segments_forward(range.start + 2..range.end, uri, end) {
                Ok(end) => return Some(end),
                Err(NoMatch) => {
                    // Every place before the same slash fails in the same way: continue after it.
                    let slash = end + next_slash(uri.get(end..)?)?;
                    from = (slash + 1).saturating_sub(literal.len());
                }
            }
        }
        None
    }

    /// As [`Self::match_forward`], for expressions without slashes.
    fn match_segments_forward(
        &self,
        range: Range<usize>,
        uri: &[u8],
        start: usize,
    ) -> Result<usize, NoMatch> {
        let mut start = start;
        for at in range.skip(1).step_by(2) {
            let literal = self.literal(at).ok_or(NoMatch)?;
            let rest = uri.get(start..).ok_or(NoMatch)?;
            let segment = next_slash(rest).unwrap_or(rest.len());
            step_counter::count(segment + 1);
            let place = match next_slash(literal) {
                // The literal contains a slash, so it can only match where that is the next slash.
                Some(before) => segment.checked_sub(before).filter(|place| {
                    step_counter::count(literal.len());
                    rest.get(*place..).is_some_and(|rest| rest.starts_with(literal))
                }),
                None => rest
                    .get(1..segment)
                    .and_then(|within| memmem::find(within, literal))
                    .map(|place| place + 1),
            };
            let place = place.filter(|place| *place > 0).ok_or(NoMatch)?;
            start += place + literal.len();
        }
        Ok(start)
    }

    /// Matches the parts `range` against the end of `uri`, each a literal followed by an expression without slashes, and returns the latest
    /// start.
    fn match_backward(&self, range: Range<usize>, uri: &[u8]) -> Option<usize> {
        let mut end = uri.len();
        for at in range.step_by(2).collect::<Vec<_>>().into_iter().rev() {
            let literal = self.literal(at)?;
            let before = uri.get(..end)?;
            let slash = memchr::memrchr(b'/', before);
            let segment = slash.map_or(0, |slash| slash + 1);
            step_counter::count(end - segment + 1);
            let place = match memchr::memrchr(b'/', literal) {
                // The literal contains a slash, so it can only match where that is the previous slash.
                Some(within) => slash?.checked_sub(within).filter(|place| {
                    step_counter::count(literal.len());
                    let place = before.get(*place..);
                    place.is_some_and(|rest| rest.starts_with(literal) && rest.len() > literal.len())
                })?,
                None => segment + memmem::rfind(before.get(segment..end.checked_sub(1)?)?, literal)?,
            };
            end = place;
        }
        Some(end)
    }
}

/// The literal does not occur before the next slash.
struct NoMatch;

fn next_slash(bytes: &[u8]) -> Option<usize> {
    memchr::memchr(b'/', bytes)
}

fn is_segment(bytes: &[u8]) -> bool {
    step_counter::count(bytes.len());
    !bytes.is_empty() && next_slash(bytes).is_none()
}

impl TemplatePart {
    fn of(expression: &str) -> Self {
        match expression.chars().next() {
            Some('#' | '.' | '/' | ';' | '?' | '&') => Self::Optional,
            Some('+') => Self::Path,
            _ if expression.contains('*') => Self::Path,
            _ => Self::Segment,
        }
    }

    fn literal_bytes(&self) -> usize {
        self.literal().map_or(0, <[u8]>::len)
    }

    fn literal(&self) -> Option<&[u8]> {
        match self {
            Self::Literal(literal) => Some(literal.as_bytes()),
            Self::Segment | Self::Path | Self::Optional => None,
        }
    }

    fn can_hold_slashes(&self) -> bool {
        matches!(self, Self::Path | Self::Optional)
    }

    /// Minimum bytes that the part matches.
    fn min_bytes(&self) -> usize {
        match self {
            Self::Segment | Self::Path => 1,
            Self::Literal(_) | Self::Optional => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::runtime::step_counter::{assert_linear, counted};

    /// Reference implementation: after each part, all positions at which it can end.
    fn matches_by_exhaustive_search(template: &UriTemplate, uri: &str) -> bool {
        let uri = uri.as_bytes();
        let mut ends = vec![false; uri.len() + 1];
        ends[0] = true;
        for part in &template.parts {
            let starts = std::mem::replace(&mut ends, vec![false; uri.len() + 1]);
            for (start, _) in starts.iter().enumerate().filter(|(_, is_start)| **is_start) {
                if let Some(literal) = part.literal() {
                    if uri[start..].starts_with(literal) {
                        ends[start + literal.len()] = true;
                    }
                    continue;
                }
                for end in start + part.min_bytes()..=uri.len() {
                    let is_fit = part.can_hold_slashes() || !uri[start..end].contains(&b'/');
                    ends[end] |= is_fit;
                }
            }
        }
        ends[uri.len()]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn match_agrees_with_exhaustive_search(
            parts in proptest::collection::vec(
                prop_oneof![
                    3 => "[ab/]{0,3}",
                    2 => Just("{s}".to_owned()),
                    1 => Just("{+p}".to_owned()),
                    1 => Just("{?o}".to_owned()),
                ],
                0..9,
            ),
            uri in "[ab/]{0,12}",
        ) {
            let template = UriTemplate::new(&parts.concat());
            prop_assert_eq!(template.matches(&uri), matches_by_exhaustive_search(&template, &uri), "{:?} {}", parts, uri);
        }
    }

    #[test]
    fn matching_is_linear_for_any_template() {
        for (template, unit) in [
            ("x{a}", "x"),
            ("{a}x{b}x{c}x{d}", "x"),
            ("{+a}x{b}y{c}z", "x/"),
            ("{+a}x{b}y{c}z", "xxxx"),
            ("{+a}/x{b}/x{c}/x{d}/y{+e}/z", "/xx"),
            ("{+a}x{b}x{+c}x{d}x{+e}x{f}y", "xx/"),
            ("{?a}{?b}{?c}{?d}", "x/"),
            ("{a}{b}{c}/{d}{e}/", "xx/"),
        ] {
            let template = UriTemplate::new(template);
            assert_linear(
                200,
                |units| unit.repeat(units),
                |uri| {
                    template.matches(&uri);
                },
            );
        }
        // The largest usable template, and a URI that causes the most restarts.
        let worst = UriTemplate::new(&format!("{{+a}}{}y{{+c}}", "x{b}/".repeat(MAX_EXPRESSIONS - 2)));
        assert!(worst.is_usable());
        let uri = "xx/".repeat(2700);
        let steps = counted(|| assert!(!worst.matches(&uri)));
        assert!(steps < 64 * 1024, "{steps}");
    }

    #[test]
    fn too_large_template_is_not_usable() {
        for (template, expected) in [
            ("x".repeat(MAX_BYTES), true),
            ("x".repeat(MAX_BYTES + 1), false),
            ("{a}".repeat(MAX_EXPRESSIONS), true),
            ("{a}".repeat(MAX_EXPRESSIONS + 1), false),
        ] {
            assert_eq!(UriTemplate::new(&template).is_usable(), expected, "{template}");
        }
    }

    #[test]
    fn expression_matches_its_possible_expansions() {
        for (template, uri, expected) in [
            ("test://template/{id}/data", "test://template/123/data", true),
            ("test://template/{id}/data", "test://template//data", false),
            ("test://template/{id}/data", "test://template/1/2/data", false),
            ("test://template/{id}/data", "test://template/1/data/x", false),
            ("file:///{+path}", "file:///a/b/c", true),
            ("file:///{path*}", "file:///a/b/c", true),
            ("file:///{path}", "file:///a/b", false),
            ("db://{table}/{row}", "db://users/5", true),
            ("db://{table}{?limit}", "db://users?limit=5", true),
            ("db://{table}{?limit}", "db://users", true),
            ("x://{a}-{b}", "x://1-2-3", true),
            ("x://fixed", "x://fixed", true),
            ("x://fixed", "x://fixed2", false),
            ("x://{broken", "x://{broken", true),
            ("x://{a}", "x://é", true),
        ] {
            assert_eq!(
                UriTemplate::new(template).matches(uri),
                expected,
                "{template} {uri}"
            );
        }
    }

    #[test]
    fn many_expressions_match_fast() {
        let template = UriTemplate::new(&"{a}x".repeat(50));
        assert!(!template.matches(&"x".repeat(4000).replace("xx", "x/")));
    }
}
