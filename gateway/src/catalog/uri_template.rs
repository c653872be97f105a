//! Which URIs a URI template may stand for (RFC 6570).
//!
//! This finds the backend for a URI; whether the resource exists is the backend's to say. So an expression is not expanded but
//! replaced by what it could become at most.
//!
//! It happens for every read of a resource that no list names, and both the template and the URI are a stranger's. So nothing is tried in
//! all ways: the match is greedy. Each literal is taken at the first place where it can be, which leaves the most to what follows. That is
//! right between two slashes, because what a later place leaves is less of the same. Only behind an expression that may hold slashes
//! another place can lead further, and is tried where the one before cannot.

// Strangers send what is read here.
#![cfg_attr(
    not(test),
    warn(clippy::expect_used, clippy::indexing_slicing, clippy::string_slice)
)]

use std::ops::Range;

use memchr::memmem;

use crate::runtime::step_counter;

/// The longest template that is used to find resources.
pub(super) const MAX_BYTES: usize = 2 * 1024;
/// The most expressions of a template that is used to find resources.
pub(super) const MAX_EXPRESSIONS: usize = 16;
/// How many places are tried for what follows an expression that may hold slashes. A URI that is made to lead astray more often fits nothing.
const MAX_RESTARTS: usize = 64;

/// A URI template, ready for matching.
#[derive(Clone, Debug)]
pub(super) struct UriTemplate {
    text: Box<str>,
    pub(super) parts: Vec<TemplatePart>,
    literal_bytes: usize,
}

#[derive(Clone, Debug)]
pub(super) enum TemplatePart {
    /// Itself.
    Literal(String),
    /// `{name}`: at least one character, none of them `/`.
    Segment,
    /// `{+name}`, `{name*}`: at least one character.
    Path,
    /// `{?name}`, `{#name}` and the other operators: anything, or nothing.
    Optional,
}

impl UriTemplate {
    /// Reads a template. A brace that is not closed stands for itself.
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

    /// How much of the template is literal: the more, the more it says about a URI that matches.
    pub(super) fn literal_bytes(&self) -> usize {
        self.literal_bytes
    }

    /// The template as it is written.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// What all its URIs begin with.
    pub(super) fn literal_beginning(&self) -> &str {
        match self.parts.first() {
            Some(TemplatePart::Literal(literal)) => literal,
            _ => "",
        }
    }

    /// Whether it is short enough to be used to find resources.
    pub(super) fn is_usable(&self) -> bool {
        let expressions = self.parts.iter().filter(|part| part.literal().is_none()).count();
        self.literal_bytes <= MAX_BYTES && expressions <= MAX_EXPRESSIONS
    }

    /// Whether `uri` may come from this template. Takes time in proportion to its length.
    pub(super) fn matches(&self, uri: &str) -> bool {
        let uri = uri.as_bytes();
        // Literals and expressions alternate, and the first and the last are literals.
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
        let Some(last_free) = expressions.rev().find(|at| self.is_free(*at)) else {
            let last = self.parts.len() - 2;
            return self
                .forward(1..last, uri, first.len())
                .is_ok_and(|at| is_segment(uri.get(at..).unwrap_or_default()));
        };
        // What stands before the last expression that may hold anything is taken from the left, what stands behind it from the right.
        let Some(start) = self.forward_freely(1..last_free, uri, first.len()) else {
            return false;
        };
        let Some(end) = self.backward(last_free + 1..self.parts.len() - 1, uri) else {
            return false;
        };
        start + self.least(last_free) <= end
    }

    /// Whether the part at `at` is an expression that may hold slashes.
    fn is_free(&self, at: usize) -> bool {
        self.parts.get(at).is_some_and(TemplatePart::may_hold_slashes)
    }

    /// How many bytes the part at `at` takes at least.
    fn least(&self, at: usize) -> usize {
        self.parts.get(at).map_or(0, TemplatePart::least)
    }

    fn literal(&self, at: usize) -> Option<&[u8]> {
        self.parts.get(at).and_then(TemplatePart::literal)
    }

    /// Where the parts `range` end at the earliest that begin at `start`: expressions, each followed by a literal.
    fn forward_freely(&self, range: Range<usize>, uri: &[u8], start: usize) -> Option<usize> {
        let (mut at, mut start) = (range.start, start);
        while at < range.end {
            // Up to the next expression that may hold anything.
            let mut next = (at + 2..range.end).step_by(2);
            let end = next.find(|at| self.is_free(*at)).unwrap_or(range.end);
            start = if self.is_free(at) {
                self.behind_free(at..end, uri, start)?
            } else {
                self.forward(at..end, uri, start).ok()?
            };
            at = end;
        }
        Some(start)
    }

    /// The same for an expression that may hold anything, a literal, and expressions of segments and literals behind it.
    fn behind_free(&self, range: Range<usize>, uri: &[u8], start: usize) -> Option<usize> {
        let literal = self.literal(range.start + 1)?;
        let finder = memmem::Finder::new(literal);
        let mut from = start + self.least(range.start);
        for _ in 0..MAX_RESTARTS {
            let rest = uri.get(from..)?;
            let found = finder.find(rest);
            step_counter::count(found.unwrap_or(rest.len()) + 1);
            let end = from + found? + literal.len();
            match self.forward(range.start + 2..range.end, uri, end) {
                Ok(end) => return Some(end),
                Err(Stuck) => {
                    // Any place from which the same slash comes next leads to the same.
                    let slash = end + next_slash(uri.get(end..)?)?;
                    from = (slash + 1).saturating_sub(literal.len());
                }
            }
        }
        None
    }

    /// The same for expressions of segments, each followed by a literal.
    fn forward(&self, range: Range<usize>, uri: &[u8], start: usize) -> Result<usize, Stuck> {
        let mut start = start;
        for at in range.skip(1).step_by(2) {
            let literal = self.literal(at).ok_or(Stuck)?;
            let rest = uri.get(start..).ok_or(Stuck)?;
            let segment = next_slash(rest).unwrap_or(rest.len());
            step_counter::count(segment + 1);
            let place = match next_slash(literal) {
                // It can only be where its first slash is the next one.
                Some(before) => segment.checked_sub(before).filter(|place| {
                    step_counter::count(literal.len());
                    rest.get(*place..).is_some_and(|rest| rest.starts_with(literal))
                }),
                None => rest
                    .get(1..segment)
                    .and_then(|within| memmem::find(within, literal))
                    .map(|place| place + 1),
            };
            let place = place.filter(|place| *place > 0).ok_or(Stuck)?;
            start += place + literal.len();
        }
        Ok(start)
    }

    /// Where the parts `range` begin at the latest that end with the URI: literals, each followed by an expression of a segment.
    fn backward(&self, range: Range<usize>, uri: &[u8]) -> Option<usize> {
        let mut end = uri.len();
        for at in range.step_by(2).collect::<Vec<_>>().into_iter().rev() {
            let literal = self.literal(at)?;
            let before = uri.get(..end)?;
            let slash = memchr::memrchr(b'/', before);
            let segment = slash.map_or(0, |slash| slash + 1);
            step_counter::count(end - segment + 1);
            let place = match memchr::memrchr(b'/', literal) {
                // It can only be where its last slash is the one before.
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

/// A literal stands nowhere before the next slash.
struct Stuck;

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

    fn may_hold_slashes(&self) -> bool {
        matches!(self, Self::Path | Self::Optional)
    }

    /// How many bytes it takes at least.
    fn least(&self) -> usize {
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

    /// The same in all ways: after each part, at which places of the URI it may end.
    fn matches_in_some_way(template: &UriTemplate, uri: &str) -> bool {
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
                for end in start + part.least()..=uri.len() {
                    let is_fit = part.may_hold_slashes() || !uri[start..end].contains(&b'/');
                    ends[end] |= is_fit;
                }
            }
        }
        ends[uri.len()]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn template_fits_if_and_only_if_it_fits_in_some_way(
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
            prop_assert_eq!(template.matches(&uri), matches_in_some_way(&template, &uri), "{:?} {}", parts, uri);
        }
    }

    #[test]
    fn matching_takes_linear_time_whatever_the_template() {
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
        // The most that a template may have, and a URI that leads astray as often as it can.
        let worst = UriTemplate::new(&format!("{{+a}}{}y{{+c}}", "x{b}/".repeat(MAX_EXPRESSIONS - 2)));
        assert!(worst.is_usable());
        let uri = "xx/".repeat(2700);
        let steps = counted(|| assert!(!worst.matches(&uri)));
        assert!(steps < 64 * 1024, "{steps}");
    }

    #[test]
    fn template_that_is_too_large_is_not_usable() {
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
    fn an_expression_stands_for_what_it_could_become() {
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
    fn many_expressions_take_no_time() {
        let template = UriTemplate::new(&"{a}x".repeat(50));
        assert!(!template.matches(&"x".repeat(4000).replace("xx", "x/")));
    }
}
