//! The line of a text at which a field stands.
//!
//! What validation refuses, it names by the field's path, such as `backends[0].tools.overrides.get_time.name`; the person who mends it
//! wants the line. The types that a text is read into keep no positions, but the YAML library puts one into every error. So the text is
//! read once more, by something that follows the path and fails where it ends. That costs nothing until something is refused, and sees
//! flow style, quoted keys and anchors exactly as the first reading did.
//!
//! A path that names nothing, because the field is missing or the text gives it by an alias that is not what it seems, ends at the nearest
//! field above. A field's line is that of its key; an item's is that of its first line; what an alias stands for, stands at its anchor.

use std::cell::RefCell;
use std::fmt;

use serde::Deserialize as _;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The line, counted from 1, of the field in `text` that `path` names.
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
    // A text that is broken further on was refused for that; how far the path led, is known.
    follow.deserialize(serde_yaml::Deserializer::from_str(text)).ok();
    line_of_steps(text, &nearest.into_inner().steps)
}

/// The line, counted from 1, of the entry or item to which `steps` lead: at each level, which one it is, counted from 0.
pub(super) fn line_of_steps(text: &str, steps: &[usize]) -> usize {
    let seed = LocationProbe { steps, written: None };
    let failed = seed.deserialize(serde_yaml::Deserializer::from_str(text));
    let location = failed.err().and_then(|error| error.location());
    location.map_or(1, |location| location.line())
}

/// What is written at the end of `steps`, when it is a value without others in it.
pub(super) fn scalar_text(text: &str, steps: &[usize]) -> Option<String> {
    let written = RefCell::new(None);
    let seed = LocationProbe {
        steps,
        written: Some(&written),
    };
    seed.deserialize(serde_yaml::Deserializer::from_str(text)).ok();
    written.into_inner()
}

/// How far a path leads.
struct DeepestMatch {
    /// At each level, which entry or item it is, counted from 0.
    steps: Vec<usize>,
    /// How many bytes of the path name nothing.
    left: usize,
}

/// Follows a path as far as it leads.
///
/// Keys may hold the very characters that separate them in a path, so that one path may be read in several ways: each that the text allows is
/// followed, and the one that leads furthest counts.
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
        write!(f, "something that holds `{}`", self.rest)
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

    // A value without anything in it: the path leads no further here, and perhaps elsewhere.

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

/// What is left of `path` below `step`, if it begins with that.
fn below<'a>(path: &'a str, step: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(step)?;
    if rest.is_empty() || rest.starts_with('[') {
        return Some(rest);
    }
    rest.strip_prefix('.')
}

/// Fails where the steps end, and thereby learns the position; or goes on to the value there and takes down how it is written.
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
            // As a text it comes as it is written, whatever it is.
            Some(written) if self.steps.is_empty() => {
                *written.borrow_mut() = Some(String::deserialize(deserializer)?);
                Ok(())
            }
            _ => deserializer.deserialize_any(self),
        }
    }
}

/// At the end of the steps everything is refused, because nothing is expected: that is what the methods do which are not here.
impl<'de> Visitor<'de> for LocationProbe<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("another")
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

    /// The line that holds `HERE` is the one that `path` is at; lines count from 1.
    fn found(text: &str, path: &str) {
        let expected = text.lines().position(|line| line.contains("HERE")).unwrap() + 1;
        assert_eq!(line_of_path(text, path), expected, "{path} in\n{text}");
    }

    #[test]
    fn a_field_is_found_in_maps_and_in_lists() {
        let text = |here: &str| {
            let text = "# a comment\nversion: v1\nlist:\n  - name: a\n    url: x\n\n  - name: b\n    tools:\n      allow:\n      - one\n      - two\n    url: y\n";
            text.replacen(here, &format!("{here} # HERE"), 1)
        };
        found(&text("version: v1"), "version");
        found(&text("list:"), "list");
        found(&text("- name: a"), "list[0]");
        found(&text("url: x"), "list[0].url");
        found(&text("- name: b"), "list[1].name");
        found(&text("- two"), "list[1].tools.allow[1]");
        found(&text("url: y"), "list[1].url");
    }

    #[test]
    fn flow_style_quotes_and_odd_keys_are_found() {
        found("a: {b: 1,\n  c: [1,\n   2], # HERE\n d: 3}", "a.c[1]");
        found("a: {b: 1,\n \"c\": 2, # HERE\n d: 3}", "a.c");
        found("'a.b':\n  \"c d\":\n    'e[0].f': 1 # HERE\n", "a.b.c d.e[0].f");
        found("a:\n  1: x\n  2: y # HERE\n", "a.2");
        found("a:\n  ? b\n  : c\n  ? d # HERE\n  : e\n", "a.d");
        found("a: |\n  b: c\nb: >- # HERE\n  text\n  more\n", "b");
        found("a:\n  é*?: 1\n  \"\\u00fc\": 2 # HERE\n", "a.ü");
    }

    #[test]
    fn of_two_readings_the_one_that_leads_further_counts() {
        found("a:\n  b: 1\na.b:\n  c: 2 # HERE\n", "a.b.c");
        found("a.b:\n  x: 1\na:\n  b:\n    c: 2 # HERE\n", "a.b.c");
        found("'a[0]': 1 # HERE\na: []\n", "a[0]");
    }

    #[test]
    fn what_an_alias_stands_for_is_at_its_anchor() {
        let text = "x: &x\n  name: a # HERE\n  url: b\nlist:\n  - *x\n";
        found(text, "list[0].name");
        found("x: &x {name: a}\ny: *x # HERE\n", "y");
    }

    #[test]
    fn what_is_not_there_is_at_the_nearest_field_above() {
        found("a:\n  b: # HERE\n    c: 1\n", "a.b.d");
        found("a:\n  b: # HERE\n    c: 1\n", "a.b.d[3].e");
        found("a:\n  - b: 1\n  - c: 2 # HERE\n", "a[1].x");
        found("a: # HERE\n  - b: 1\n", "a[7].x");
        found("a: {b: } # HERE\nc: 1", "a.b.x");
        found("# none\n\na: 1 # HERE\nb: 2", "c");
        assert_eq!(line_of_path("", "a"), 1);
    }

    #[test]
    fn a_text_that_nobody_would_write_has_a_line_still() {
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
