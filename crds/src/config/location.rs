//! Finds the line of a field in a YAML text.
//!
//! Validation reports the path of a field, such as `backends[0].tools.overrides.get_time.name`, but users also need its line. The
//! deserialized types have no positions, but every error of the YAML library has one. So the text is deserialized once more with a seed
//! that follows the path and fails at its end. This costs nothing until there is an error, and it treats flow style, quoted keys and
//! anchors exactly as the first deserialization did.
//!
//! The line of a path that does not exist in the text is that of the nearest existing parent. The line of a field is that of its key, the
//! line of an item is its first line, and the line of a field behind an alias is in the anchor.

use std::cell::RefCell;
use std::fmt;

use serde::Deserialize as _;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The line number, from 1, of the field `path` in `text`.
pub(super) fn line_of_path(text: &str, path: &str) -> usize {
    let nearest = RefCell::new(DeepestMatch {
        steps: Vec::new(),
        left: path.len(),
    });
    let follow = PathFollower {
        rest: path,
        steps: Vec::new(),
        nearest: &nearest,
    };
    // An error means invalid YAML further on; the match up to there is valid.
    follow.deserialize(serde_yaml::Deserializer::from_str(text)).ok();
    line_of_steps(text, &nearest.into_inner().steps)
}

/// The line number, from 1, of the entry or item at `steps`: at each level the index of the entry or item, from 0.
pub(super) fn line_of_steps(text: &str, steps: &[usize]) -> usize {
    let seed = LocationProbe { steps, written: None };
    let failed = seed.deserialize(serde_yaml::Deserializer::from_str(text));
    let location = failed.err().and_then(|error| error.location());
    location.map_or(1, |location| location.line())
}

/// The text of the scalar at `steps`, exactly as it is written.
pub(super) fn scalar_text(text: &str, steps: &[usize]) -> Option<String> {
    let written = RefCell::new(None);
    let seed = LocationProbe {
        steps,
        written: Some(&written),
    };
    seed.deserialize(serde_yaml::Deserializer::from_str(text)).ok();
    written.into_inner()
}

/// The longest part of a path that exists in the text.
struct DeepestMatch {
    /// At each level the index of the entry or item, from 0.
    steps: Vec<usize>,
    /// The number of bytes of the path that do not match.
    left: usize,
}

/// Deserialization seed that follows a path as far as it exists.
///
/// Keys can contain the separators of a path, so that a path may be ambiguous. All interpretations that match the text are followed, and
/// the longest match wins.
struct PathFollower<'a> {
    rest: &'a str,
    steps: Vec<usize>,
    nearest: &'a RefCell<DeepestMatch>,
}

impl<'a> PathFollower<'a> {
    fn at_step(&self, step: usize, rest: &'a str) -> Self {
        let mut steps = self.steps.clone();
        steps.push(step);
        Self {
            rest,
            steps,
            nearest: self.nearest,
        }
    }
}

impl<'de> DeserializeSeed<'de> for PathFollower<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let mut nearest = self.nearest.borrow_mut();
        if self.rest.len() < nearest.left {
            nearest.left = self.rest.len();
            nearest.steps.clone_from(&self.steps);
        }
        drop(nearest);
        if self.rest.is_empty() {
            return deserializer.deserialize_ignored_any(IgnoredAny).map(drop);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for PathFollower<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value that contains `{}`", self.rest)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut step = 0_usize;
        while let Some(key) = map.next_key::<String>()? {
            match below(self.rest, &key) {
                Some(rest) => map.next_value_seed(self.at_step(step, rest))?,
                None => map.next_value::<IgnoredAny>().map(drop)?,
            }
            step = step.saturating_add(1);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        for step in 0.. {
            let more = match below(self.rest, &format!("[{step}]")) {
                Some(rest) => items.next_element_seed(self.at_step(step, rest))?,
                None => items.next_element::<IgnoredAny>()?.map(drop),
            };
            if more.is_none() {
                break;
            }
        }
        Ok(())
    }

    // A scalar: the path does not continue here, but perhaps in another interpretation.

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

/// The rest of `path` after `step`, if it begins with `step`.
fn below<'a>(path: &'a str, step: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(step)?;
    if rest.is_empty() || rest.starts_with('[') {
        return Some(rest);
    }
    rest.strip_prefix('.')
}

/// Deserialization seed that fails at the end of the steps, so that the error contains the position. With `written`, it stores the text of
/// the scalar there instead.
struct LocationProbe<'a> {
    steps: &'a [usize],
    written: Option<&'a RefCell<Option<String>>>,
}

impl<'a> LocationProbe<'a> {
    fn below(&self, steps: &'a [usize]) -> Self {
        Self { steps, ..*self }
    }
}

impl<'de> DeserializeSeed<'de> for LocationProbe<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.written {
            // Deserialized as a text, a scalar is returned exactly as it is written.
            Some(written) if self.steps.is_empty() => {
                *written.borrow_mut() = Some(String::deserialize(deserializer)?);
                Ok(())
            }
            _ => deserializer.deserialize_any(self),
        }
    }
}

/// The default methods of [`Visitor`] reject every scalar; that is the error at the end of the steps.
impl<'de> Visitor<'de> for LocationProbe<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("another value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((step, steps)) = self.steps.split_first() else {
            return Err(serde::de::Error::custom("here"));
        };
        for _ in 0..*step {
            map.next_entry::<IgnoredAny, IgnoredAny>()?;
        }
        if steps.is_empty() && self.written.is_none() {
            return map.next_key_seed(self.below(steps)).map(drop);
        }
        map.next_key::<IgnoredAny>()?;
        map.next_value_seed(self.below(steps))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Some((step, steps)) = self.steps.split_first() else {
            return Err(serde::de::Error::custom("here"));
        };
        for _ in 0..*step {
            items.next_element::<IgnoredAny>()?;
        }
        items.next_element_seed(self.below(steps)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asserts that `path` is on the line that contains `HERE`.
    fn assert_line(text: &str, path: &str) {
        let expected = text.lines().position(|line| line.contains("HERE")).unwrap() + 1;
        assert_eq!(line_of_path(text, path), expected, "{path} in\n{text}");
    }

    #[test]
    fn field_is_found_in_maps_and_lists() {
        let text = |here: &str| {
            let text = "# a comment\nversion: v1\nlist:\n  - name: a\n    url: x\n\n  - name: b\n    tools:\n      allow:\n      - one\n      - two\n    url: y\n";
            text.replacen(here, &format!("{here} # HERE"), 1)
        };
        assert_line(&text("version: v1"), "version");
        assert_line(&text("list:"), "list");
        assert_line(&text("- name: a"), "list[0]");
        assert_line(&text("url: x"), "list[0].url");
        assert_line(&text("- name: b"), "list[1].name");
        assert_line(&text("- two"), "list[1].tools.allow[1]");
        assert_line(&text("url: y"), "list[1].url");
    }

    #[test]
    fn flow_style_quotes_and_unusual_keys_are_found() {
        assert_line("a: {b: 1,\n  c: [1,\n   2], # HERE\n d: 3}", "a.c[1]");
        assert_line("a: {b: 1,\n \"c\": 2, # HERE\n d: 3}", "a.c");
        assert_line("'a.b':\n  \"c d\":\n    'e[0].f': 1 # HERE\n", "a.b.c d.e[0].f");
        assert_line("a:\n  1: x\n  2: y # HERE\n", "a.2");
        assert_line("a:\n  ? b\n  : c\n  ? d # HERE\n  : e\n", "a.d");
        assert_line("a: |\n  b: c\nb: >- # HERE\n  text\n  more\n", "b");
        assert_line("a:\n  é*?: 1\n  \"\\u00fc\": 2 # HERE\n", "a.ü");
    }

    #[test]
    fn longest_match_of_ambiguous_path_wins() {
        assert_line("a:\n  b: 1\na.b:\n  c: 2 # HERE\n", "a.b.c");
        assert_line("a.b:\n  x: 1\na:\n  b:\n    c: 2 # HERE\n", "a.b.c");
        assert_line("'a[0]': 1 # HERE\na: []\n", "a[0]");
    }

    #[test]
    fn field_behind_alias_is_at_its_anchor() {
        let text = "x: &x\n  name: a # HERE\n  url: b\nlist:\n  - *x\n";
        assert_line(text, "list[0].name");
        assert_line("x: &x {name: a}\ny: *x # HERE\n", "y");
    }

    #[test]
    fn missing_field_is_at_nearest_parent() {
        assert_line("a:\n  b: # HERE\n    c: 1\n", "a.b.d");
        assert_line("a:\n  b: # HERE\n    c: 1\n", "a.b.d[3].e");
        assert_line("a:\n  - b: 1\n  - c: 2 # HERE\n", "a[1].x");
        assert_line("a: # HERE\n  - b: 1\n", "a[7].x");
        assert_line("a: {b: } # HERE\nc: 1", "a.b.x");
        assert_line("# none\n\na: 1 # HERE\nb: 2", "c");
        assert_eq!(line_of_path("", "a"), 1);
    }

    #[test]
    fn deeply_nested_text_has_a_line() {
        let deep = format!("a: 1\nb: {}{}", "[".repeat(5000), "]".repeat(5000));
        let mut aliases = "a: &a [x, x]\n".to_owned();
        for (one, other) in ('a'..'y').zip('b'..'z') {
            aliases.push_str(&format!("{other}: &{other} [*{one}, *{one}]\n"));
        }
        aliases.push_str("z: [*y]\n");
        for (text, path) in [
            ("a: 1\nb: [", "b"),
            (&deep, "b[0][0]"),
            (&aliases, "z[0][0][1][0]"),
        ] {
            assert!((1..30).contains(&line_of_path(text, path)), "{path}");
        }
    }
}
