//! Extracts the paths in a source file, with `use` groups expanded, resolved from the crate root.
//!
//! The source is read as tokens, so that comments and white space do not matter and paths in macro calls are found, too.

use std::iter::Peekable;

use proc_macro2::{Delimiter, TokenStream, TokenTree, token_stream};

/// A path in the source. `use a::{b, c::*}` has the paths `a::b` and `a::c::*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// The segments, from the crate root if the path begins with `crate`, `self` or `super`.
    pub(crate) segments: Vec<String>,
    /// Whether the path refers to this crate.
    pub(crate) is_local: bool,
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let root = if self.is_local { "crate::" } else { "" };
        write!(f, "{root}{}", self.segments.join("::"))
    }
}

/// The paths in `text`, the source of the module `module`. Paths of a single word are omitted, except for `use name as alias`.
///
/// # Panics
/// If `text` is not Rust.
pub(crate) fn paths(text: &str, module: &[&str]) -> Vec<Path> {
    let tokens: TokenStream = text.parse().expect("the sources are Rust");
    let mut reader = Reader {
        module: module.iter().map(|&name| name.to_owned()).collect(),
        found: Vec::new(),
    };
    reader.read(tokens);
    reader.found
}

type Tokens = Peekable<token_stream::IntoIter>;

struct Reader {
    /// The current module: the module of the file and the inline modules within it.
    module: Vec<String>,
    found: Vec<Path>,
}

impl Reader {
    fn read(&mut self, tokens: TokenStream) {
        let mut tokens = tokens.into_iter().peekable();
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Ident(word) if word == "mod" => self.read_module(&mut tokens),
                // A following `::` starts the name of an external crate.
                TokenTree::Ident(word) if word == "use" || word == "in" || word == "return" => {}
                TokenTree::Ident(word) => self.read_path(vec![word.to_string()], &mut tokens),
                TokenTree::Group(group) => self.read(group.stream()),
                TokenTree::Literal(literal) => self.read_literal(&literal.to_string()),
                TokenTree::Punct(_) => {}
            }
        }
    }

    fn read_module(&mut self, tokens: &mut Tokens) {
        let Some(TokenTree::Ident(name)) = tokens.next() else {
            return;
        };
        if let Some(TokenTree::Group(body)) = tokens.next_if(|token| matches!(token, TokenTree::Group(_))) {
            self.module.push(name.to_string());
            self.read(body.stream());
            self.module.pop();
        }
    }

    /// Reads the rest of a path that begins with `segments`.
    fn read_path(&mut self, mut segments: Vec<String>, tokens: &mut Tokens) {
        while skip_colons(tokens) {
            match tokens.peek() {
                Some(TokenTree::Ident(word)) => segments.push(word.to_string()),
                Some(TokenTree::Punct(star)) if star.as_char() == '*' => segments.push("*".to_owned()),
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                    let group = group.stream();
                    tokens.next();
                    return self.read_group(&segments, group);
                }
                // In `Vec::<u8>` the path ends here. Generic arguments are read as separate paths.
                _ => break,
            }
            tokens.next();
        }
        let is_renamed = matches!(tokens.peek(), Some(TokenTree::Ident(word)) if word == "as");
        if segments.len() > 1 || is_renamed {
            self.add(segments);
        }
    }

    /// Reads a group of a `use` declaration.
    fn read_group(&mut self, prefix: &[String], group: TokenStream) {
        let mut tokens = group.into_iter().peekable();
        let mut begins = true;
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Punct(comma) if comma.as_char() == ',' => begins = true,
                TokenTree::Ident(word) if begins => {
                    begins = false;
                    let mut segments = prefix.to_vec();
                    if word != "self" {
                        segments.push(word.to_string());
                    }
                    // A single word in a group is a path, too.
                    let before = self.found.len();
                    self.read_path(segments.clone(), &mut tokens);
                    if self.found.len() == before && segments.len() == 1 {
                        self.add(segments);
                    }
                }
                TokenTree::Punct(star) if begins && star.as_char() == '*' => {
                    self.add([prefix, &["*".to_owned()]].concat());
                }
                TokenTree::Group(nested) if begins => self.read_group(prefix, nested.stream()),
                _ => {}
            }
        }
    }

    /// Reads a string that contains a path, as in `#[serde(with = "crate::a")]`.
    fn read_literal(&mut self, literal: &str) {
        let text = literal.trim_matches('"');
        let is_path = text.contains("::")
            && text
                .chars()
                .all(|character| character.is_alphanumeric() || matches!(character, '_' | ':'));
        if is_path && let Ok(tokens) = text.parse() {
            self.read(tokens);
        }
    }

    fn add(&mut self, segments: Vec<String>) {
        let mut resolved = match segments[0].as_str() {
            "crate" | "vmcp_gateway" => Vec::new(),
            "self" => self.module.clone(),
            "super" => self
                .module
                .split_last()
                .map_or_else(Vec::new, |(_, above)| above.to_vec()),
            _ => {
                let path = Path {
                    segments,
                    is_local: false,
                };
                return self.found.push(path);
            }
        };
        for segment in segments.into_iter().skip(1) {
            match segment.as_str() {
                "super" => drop(resolved.pop()),
                "self" => {}
                _ => resolved.push(segment),
            }
        }
        self.found.push(Path {
            segments: resolved,
            is_local: true,
        });
    }
}

/// Consumes `::` if it is next, and returns whether it was.
fn skip_colons(tokens: &mut Tokens) -> bool {
    let mut ahead = tokens.clone();
    let is_colon =
        |token: Option<TokenTree>| matches!(token, Some(TokenTree::Punct(colon)) if colon.as_char() == ':');
    if is_colon(ahead.next()) && is_colon(ahead.next()) {
        *tokens = ahead;
        return true;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::paths;

    /// The paths to this crate in `text`, the source of the module `session::store`.
    fn named(text: &str) -> Vec<String> {
        let found = paths(text, &["session", "store"]);
        found
            .iter()
            .filter(|path| path.is_local)
            .map(|path| path.segments.join("::"))
            .collect()
    }

    #[test]
    fn plain_paths_are_found_everywhere() {
        assert_eq!(named("use crate::frontend::Call;"), ["frontend::Call"]);
        assert_eq!(named("use crate::frontend;"), ["frontend"]);
        assert_eq!(
            named("fn f() -> crate::frontend::Call { crate :: frontend :: f() }"),
            ["frontend::Call", "frontend::f"]
        );
        assert_eq!(named("m!(x, [crate::frontend::f()])"), ["frontend::f"]);
        assert_eq!(
            named("macro_rules! m { () => { $crate::frontend::f() } }"),
            ["frontend::f"]
        );
        assert_eq!(
            named("let x = Vec::<crate::frontend::Call>::new();"),
            ["frontend::Call"]
        );
        assert_eq!(
            named("#[serde(with = \"crate::frontend::x\")] struct S;"),
            ["frontend::x"]
        );
        assert_eq!(named("pub(in crate::frontend) fn f() {}"), ["frontend"]);
        assert_eq!(named("use vmcp_gateway::frontend::Call;"), ["frontend::Call"]);
    }

    #[test]
    fn groups_are_expanded() {
        assert_eq!(named("use crate::{frontend, wire::x};"), ["frontend", "wire::x"]);
        assert_eq!(
            named("use crate::{session::{id::{self, Id as I}, *}, frontend::Call};"),
            ["session::id", "session::id::Id", "session::*", "frontend::Call"]
        );
        assert_eq!(
            named("use {crate::frontend::Call, std::fmt};"),
            ["frontend::Call"]
        );
        assert_eq!(named("use {{crate::{{frontend::Call}}}};"), ["frontend::Call"]);
        assert_eq!(
            named("use crate\n    // a comment\n    ::{ /* another */ frontend };"),
            ["frontend"]
        );
        assert_eq!(
            named("use self::{super::super::frontend::Call};"),
            ["frontend::Call"]
        );
    }

    #[test]
    fn relative_paths_are_resolved() {
        assert_eq!(named("use super::super::frontend::Call;"), ["frontend::Call"]);
        assert_eq!(
            named("use super::{super::frontend, find};"),
            ["frontend", "session::find"]
        );
        assert_eq!(
            named("use self::memory::Memory;"),
            ["session::store::memory::Memory"]
        );
        assert_eq!(
            named("mod tests { use super::super::super::frontend::Call; use super::*; }"),
            ["frontend::Call", "session::store::*"]
        );
        assert_eq!(named("mod a { mod b {} } use super::find;"), ["session::find"]);
    }

    #[test]
    fn alias_of_the_crate_root_is_a_path() {
        assert_eq!(named("use crate as root;"), [""]);
        assert_eq!(named("use super::super as root;"), [""]);
        assert_eq!(named("use super::{super as root};"), [""]);
        assert_eq!(named("use crate::{self as root};"), [""]);
        assert_eq!(named("use crate::*;"), ["*"]);
        assert_eq!(named("use super::super::*;"), ["*"]);
    }

    #[test]
    fn keywords_comments_and_strings_are_not_paths() {
        assert!(named("pub(crate) fn f() {} pub(super) struct S; mod a;").is_empty());
        assert!(named("// use crate::frontend::Call;\n/* crate::frontend::f() */").is_empty());
        assert!(
            named("/// See [`crate::frontend::Call`].\nfn f() { g(\"in crate::frontend::x here\") }")
                .is_empty()
        );
        assert!(named("let crate_frontend = a::b; let x = y as u8;").is_empty());
    }

    #[test]
    fn other_crates_keep_their_names() {
        let found = paths("use ::redis::{cmd, aio::{self, X}}; use redis as r;", &["core"]);
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["redis::cmd", "redis::aio", "redis::aio::X", "redis"]);
    }
}
