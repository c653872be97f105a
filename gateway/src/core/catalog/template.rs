//! Which URIs a URI template may stand for (RFC 6570).
//!
//! This finds the backend for a URI; whether the resource exists is the backend's to say. So an expression is not expanded but
//! replaced by what it could become at most.

/// A URI template, ready for matching.
#[derive(Clone, Debug)]
pub(super) struct UriTemplate {
    parts: Vec<Part>,
    literal_bytes: usize,
}

#[derive(Clone, Debug)]
enum Part {
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
            parts.push(Part::Literal(literal.to_owned()));
            parts.push(Part::of(expression));
            rest = after;
        }
        parts.push(Part::Literal(rest.to_owned()));
        let literal_bytes = parts.iter().map(Part::literal_bytes).sum();
        Self { parts, literal_bytes }
    }

    /// How much of the template is literal: the more, the more it says about a URI that matches.
    pub(super) fn literal_bytes(&self) -> usize {
        self.literal_bytes
    }

    /// Whether `uri` may come from this template. Takes at most the product of both lengths.
    pub(super) fn matches(&self, uri: &str) -> bool {
        let bytes = uri.as_bytes();
        // After each part: at which places of the URI it may end.
        let mut ends = vec![false; bytes.len() + 1];
        ends[0] = true;
        for part in &self.parts {
            ends = part.advance(&ends, bytes);
        }
        ends[bytes.len()]
    }
}

impl Part {
    fn of(expression: &str) -> Self {
        match expression.chars().next() {
            Some('#' | '.' | '/' | ';' | '?' | '&') => Self::Optional,
            Some('+') => Self::Path,
            _ if expression.contains('*') => Self::Path,
            _ => Self::Segment,
        }
    }

    fn literal_bytes(&self) -> usize {
        match self {
            Self::Literal(literal) => literal.len(),
            Self::Segment | Self::Path | Self::Optional => 0,
        }
    }

    fn advance(&self, starts: &[bool], uri: &[u8]) -> Vec<bool> {
        let mut ends = vec![false; starts.len()];
        if let Self::Literal(literal) = self {
            for (at, _) in starts.iter().enumerate().filter(|(_, start)| **start) {
                if uri[at..].starts_with(literal.as_bytes()) {
                    ends[at + literal.len()] = true;
                }
            }
            return ends;
        }
        let mut open = false;
        for at in 0..starts.len() {
            ends[at] = open || (starts[at] && matches!(self, Self::Optional));
            let stops = matches!(self, Self::Segment) && uri.get(at) == Some(&b'/');
            open = (open || starts[at]) && !stops;
        }
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::UriTemplate;

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
