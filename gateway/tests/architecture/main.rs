//! The architecture invariants that a reader of the sources can check.

mod paths;

use std::path::{Path, PathBuf};
use std::{fs, io};

/// The layers, outermost first. Each may name only itself, those after it, and helpers.
const LAYERS: [&str; 6] = ["frontend", "session", "core", "catalog", "backend", "mcp"];

/// What builds and inspects the layers, and is not known to them. The HTTP server is a listener's, whatever it serves.
const OUTSIDE: [&str; 6] = ["admin", "app", "args", "preflight", "http", "version"];

fn sources(directory: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.clone(), fs::read_to_string(&path)?));
        }
    }
    Ok(found)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The module that a file of `src` is.
fn module(file: &Path) -> Vec<String> {
    let relative = file.strip_prefix(root()).unwrap_or(file).with_extension("");
    let mut names: Vec<String> = relative
        .iter()
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.pop_if(|name| ["mod", "lib", "main"].contains(&name.as_str()));
    names
}

/// The paths that a file names.
fn named(file: &Path, text: &str) -> Vec<paths::Path> {
    let module = module(file);
    paths::paths(text, &module.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Whether a file of the module `from` may name `path`. Every module that is neither a layer nor outside is a helper: all layers may use
/// it, and it may use no layer but the protocol, because it would be a way round the others.
fn may_name(from: &str, path: &paths::Path) -> bool {
    let to = path.segments.first().map_or("", String::as_str);
    if !path.is_local || from == to || from.is_empty() || OUTSIDE.contains(&from) {
        return true;
    }
    let layer = |name: &str| LAYERS.iter().position(|layer| *layer == name);
    match (layer(from), layer(to)) {
        (Some(from), Some(to)) => from < to,
        (None, Some(_)) => to == "mcp",
        // What stands in no module is exported again or is the root of the crate under another name, and leads anywhere.
        (_, None) => !OUTSIDE.contains(&to) && to.starts_with(|first: char| first.is_ascii_lowercase()),
    }
}

#[test]
fn layers_name_only_what_is_to_their_right() -> io::Result<()> {
    for (file, text) in sources(&root())? {
        let module = module(&file);
        let from = module.first().map_or("", String::as_str);
        for path in named(&file, &text) {
            assert!(
                may_name(from, &path),
                "{} names {path}, which {from} may not know",
                file.display()
            );
        }
        // The parser would look for what such a file names in the wrong place.
        assert!(
            !text.contains("#[path"),
            "{} includes a file from elsewhere",
            file.display()
        );
        assert!(
            !text.contains("include!("),
            "{} includes a file from elsewhere",
            file.display()
        );
    }
    Ok(())
}

#[test]
fn layer_that_names_an_outer_one_is_found() {
    let violates = |from: &[&str], text: &str| {
        paths::paths(text, from)
            .iter()
            .any(|path| !may_name(from[0], path))
    };
    for text in [
        "use crate::frontend::Call;",
        "use crate::{frontend, mcp};",
        "use crate::{mcp::{self, jsonrpc}, session::{id::SessionId}};",
        "use super::super::app;",
        "use super::super as root;",
        "use crate::*;",
        "fn f() { m!(crate::admin::x()) }",
        "use crate::Reexported;",
    ] {
        assert!(violates(&["core", "catalog"], text), "{text}");
    }
    for text in [
        "use crate::{backend::{post, events}, runtime::tasks::Tasks, mcp};",
        "use super::call;",
        "use super::*; pub(crate) fn f() {}",
        "mod tests { use super::*; }",
    ] {
        assert!(!violates(&["core", "catalog"], text), "{text}");
    }
    assert!(violates(&["runtime"], "use crate::{session::id};"));
    assert!(!violates(&["app"], "use crate::{session::id, frontend};"));
}

/// A derived reader takes `Name` for a key that it does not know, and the message passes on to a backend that takes it for `name`. So what
/// decides about a message is read by `mcp::inspected_keys`; the files below read keys one by one, or no messages.
#[test]
fn messages_are_read_by_inspected_keys_alone() -> io::Result<()> {
    let exceptions =
        ["mcp/object_edit.rs", "mcp/jsonrpc/mod.rs", "frontend/auth"].map(|path| root().join(path));
    for layer in ["mcp", "frontend"] {
        for (file, text) in sources(&root().join(layer))? {
            if exceptions.iter().any(|path| file.starts_with(path)) {
                continue;
            }
            for path in named(&file, &text) {
                let derives = path
                    .segments
                    .starts_with(&["serde", "Deserialize"].map(str::to_owned));
                assert!(
                    !derives,
                    "{} names {path}; read keys with mcp::inspected_keys",
                    file.display()
                );
            }
        }
    }
    Ok(())
}

#[test]
fn only_the_session_store_names_redis() -> io::Result<()> {
    for (file, text) in sources(&root())? {
        if file.starts_with(root().join("session/store")) {
            continue;
        }
        // The configuration has a module of that name.
        let folder = file.parent().unwrap_or(&file);
        let has_own = folder.join("redis.rs").is_file() || folder.join("redis").is_dir();
        for path in named(&file, &text) {
            let names_crate = !path.is_local && path.segments[0] == "redis" && !has_own;
            let names_store = path.is_local
                && path
                    .segments
                    .starts_with(&["session", "store", "redis"].map(str::to_owned))
                && !file.ends_with("app.rs");
            assert!(!names_crate && !names_store, "{} names {path}", file.display());
        }
    }
    Ok(())
}

#[test]
fn the_core_and_what_is_right_of_it_knows_no_session_id_and_no_http_server() -> io::Result<()> {
    for layer in ["core", "catalog", "backend", "mcp"] {
        for (file, text) in sources(&root().join(layer))? {
            for path in named(&file, &text) {
                let words = ["axum", "SessionId", "RecordKey"];
                let is_named = path
                    .segments
                    .iter()
                    .any(|segment| words.contains(&segment.as_str()))
                    || path.segments.starts_with(&["hyper", "server"].map(str::to_owned));
                assert!(!is_named, "{} names {path}", file.display());
            }
            // A word alone is the name of a parameter or of a type that has been imported, and stands in no path.
            for word in ["SessionId", "RecordKey"] {
                let mut places = text.match_indices(word).map(|(at, _)| &text[at + word.len()..]);
                let named = places.any(|behind| !behind.starts_with(char::is_alphanumeric));
                assert!(!named, "{} names {word}", file.display());
            }
        }
    }
    Ok(())
}

#[test]
fn no_file_is_longer_than_800_lines_and_main_is_a_story() -> io::Result<()> {
    for (path, text) in sources(&root())? {
        let limit = if path.ends_with("main.rs") { 120 } else { 800 };
        assert!(
            text.lines().count() <= limit,
            "{} has over {limit} lines",
            path.display()
        );
    }
    Ok(())
}
