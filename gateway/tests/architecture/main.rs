//! Checks the architecture invariants in the sources: which module may use which.

mod paths;

use std::path::{Path, PathBuf};
use std::{fs, io};

/// The layers, outermost first. A layer may only use itself, the layers after it, and helpers.
const LAYERS: [&str; 6] = ["frontend", "session", "core", "catalog", "backend", "mcp"];

/// The modules that build and inspect the layers. No layer may use them. The HTTP server is among them because it serves both listeners.
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

/// The module path of a file in `src`.
fn module(file: &Path) -> Vec<String> {
    let relative = file.strip_prefix(root()).unwrap_or(file).with_extension("");
    let mut names: Vec<String> = relative
        .iter()
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.pop_if(|name| ["mod", "lib", "main"].contains(&name.as_str()));
    names
}

/// The Rust paths in a file.
fn named(file: &Path, text: &str) -> Vec<paths::Path> {
    let module = module(file);
    paths::paths(text, &module.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Whether a file of the module `from` may use `path`. Every module that is neither a layer nor outside is a helper. All layers may use it,
/// and it may use no layer except `mcp`. Otherwise a layer could use outer layers through it.
fn may_name(from: &str, path: &paths::Path) -> bool {
    let to = path.segments.first().map_or("", String::as_str);
    if !path.is_local || from == to || from.is_empty() || OUTSIDE.contains(&from) {
        return true;
    }
    let layer = |name: &str| LAYERS.iter().position(|layer| *layer == name);
    match (layer(from), layer(to)) {
        (Some(from), Some(to)) => from < to,
        (None, Some(_)) => to == "mcp",
        // A name directly in the crate root is a re-export or an alias of the root, and may refer to any layer.
        (_, None) => !OUTSIDE.contains(&to) && to.starts_with(|first: char| first.is_ascii_lowercase()),
    }
}

#[test]
fn layers_use_only_inner_layers_and_helpers() -> io::Result<()> {
    for (file, text) in sources(&root())? {
        let module = module(&file);
        let from = module.first().map_or("", String::as_str);
        for path in named(&file, &text) {
            assert!(
                may_name(from, &path),
                "{} uses {path}, which {from} must not use",
                file.display()
            );
        }
        // The paths of an included file would be resolved from the wrong module.
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
fn use_of_an_outer_layer_is_found() {
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

/// Decisions about a message are based on `mcp::inspected_keys`. A derived deserializer ignores `Name` as an unknown key, but a backend may
/// read it as `name`. The exceptions read keys one by one, or do not read messages.
#[test]
fn messages_are_read_only_with_inspected_keys() -> io::Result<()> {
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
                    "{} uses {path}; read keys with mcp::inspected_keys",
                    file.display()
                );
            }
        }
    }
    Ok(())
}

#[test]
fn only_the_session_store_uses_redis() -> io::Result<()> {
    for (file, text) in sources(&root())? {
        if file.starts_with(root().join("session/store")) {
            continue;
        }
        // The configuration has a module of the same name.
        let folder = file.parent().unwrap_or(&file);
        let has_own = folder.join("redis.rs").is_file() || folder.join("redis").is_dir();
        for path in named(&file, &text) {
            let names_crate = !path.is_local && path.segments[0] == "redis" && !has_own;
            let names_store = path.is_local
                && path
                    .segments
                    .starts_with(&["session", "store", "redis"].map(str::to_owned))
                && !file.ends_with("app.rs");
            assert!(!names_crate && !names_store, "{} uses {path}", file.display());
        }
    }
    Ok(())
}

/// The core and the layers after it use neither session ids nor the HTTP server.
#[test]
fn core_uses_neither_session_ids_nor_http_server() -> io::Result<()> {
    for layer in ["core", "catalog", "backend", "mcp"] {
        for (file, text) in sources(&root().join(layer))? {
            for path in named(&file, &text) {
                let words = ["axum", "SessionId", "RecordKey"];
                let is_named = path
                    .segments
                    .iter()
                    .any(|segment| words.contains(&segment.as_str()))
                    || path.segments.starts_with(&["hyper", "server"].map(str::to_owned));
                assert!(!is_named, "{} uses {path}", file.display());
            }
            // A single word, such as the name of an imported type, is not part of a path.
            for word in ["SessionId", "RecordKey"] {
                let mut places = text.match_indices(word).map(|(at, _)| &text[at + word.len()..]);
                let named = places.any(|after| !after.starts_with(char::is_alphanumeric));
                assert!(!named, "{} uses {word}", file.display());
            }
        }
    }
    Ok(())
}

#[test]
fn files_have_at_most_800_lines_and_main_120() -> io::Result<()> {
    for (path, text) in sources(&root())? {
        let limit = if path.ends_with("main.rs") { 120 } else { 800 };
        assert!(
            text.lines().count() <= limit,
            "{} has more than {limit} lines; split it",
            path.display()
        );
    }
    Ok(())
}
