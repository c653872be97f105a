//! Checks the architecture invariants in the sources: which module may use which.

mod paths;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The layers, outermost first. A layer may only use itself, the layers after it, and helpers.
const LAYERS: [&str; 6] = ["frontend", "session", "core", "catalog", "backend", "mcp"];

/// The modules that build and inspect the layers. No layer may use them. The HTTP server is among them because it serves both listeners.
const OUTSIDE: [&str; 10] = [
    "admin",
    "app",
    "args",
    "bridge",
    "commands",
    "preflight",
    "http",
    "import",
    "reload",
    "version",
];

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

/// The types of the session layer that others use, and the file that has their methods. Behaviour belongs to a component,
/// whose constructor names what it depends on; methods of one type in many files hide such dependencies.
const SESSION_FACADES: [(&str, &str); 2] = [
    ("Sessions", "session/mod.rs"),
    ("Session", "session/session_handle.rs"),
];

/// Whether `text` implements the methods of `name`, or a trait for it.
fn implements(text: &str, name: &str) -> bool {
    let mut headers = text.lines().filter(|line| line.starts_with("impl"));
    headers.any(|header| {
        let header = header.split('{').next().unwrap_or(header);
        header.split_whitespace().last() == Some(name)
    })
}

#[test]
fn session_facades_have_their_methods_in_one_file() -> io::Result<()> {
    for (file, text) in sources(&root().join("session"))? {
        for (name, own_file) in SESSION_FACADES {
            assert!(
                file.ends_with(own_file) || !implements(&text, name),
                "{} has methods of {name}; they belong in {own_file} or in a component",
                file.display()
            );
        }
    }
    assert!(implements("impl Sessions {\n}", "Sessions"));
    assert!(implements("impl Caller for Session {", "Session"));
    assert!(!implements("impl SessionCache {", "Session"));
    Ok(())
}

/// The facade builds the components. A component that names it depends on all others.
#[test]
fn session_components_name_no_facade() -> io::Result<()> {
    for (file, text) in sources(&root().join("session"))? {
        if SESSION_FACADES
            .iter()
            .any(|(_, own_file)| file.ends_with(own_file))
        {
            continue;
        }
        // The tests of a component may use the whole layer.
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        for path in named(&file, text) {
            let facade = |(name, _): &(&str, &str)| path.segments == ["session", name];
            let is_named = path.is_local && SESSION_FACADES.iter().any(facade);
            assert!(!is_named, "{} names {path}", file.display());
        }
    }
    Ok(())
}

/// The modules that `text`, the module `module`, names. A file may name the modules around it, whose types it implements.
fn dependencies(modules: &BTreeMap<Vec<String>, String>, module: &[String], text: &str) -> Vec<Vec<String>> {
    let names: Vec<&str> = module.iter().map(String::as_str).collect();
    let module_of = |path: paths::Path| {
        let prefixes = (0..=path.segments.len()).rev();
        let mut prefixes = prefixes.map(|length| path.segments[..length].to_vec());
        prefixes.find(|prefix| modules.contains_key(prefix))
    };
    // The tests of a file may use what uses the file.
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let local = paths::paths(text, &names)
        .into_iter()
        .filter(|path| path.is_local);
    let named = local.filter_map(module_of);
    named.filter(|named| !module.starts_with(named)).collect()
}

/// A circle that can be reached from `module`, if there is one. `path` leads there.
fn circle(
    graph: &BTreeMap<Vec<String>, Vec<Vec<String>>>,
    module: &[String],
    path: &mut Vec<Vec<String>>,
    done: &mut BTreeSet<Vec<String>>,
) -> Option<Vec<Vec<String>>> {
    if let Some(start) = path.iter().position(|earlier| earlier == module) {
        return Some(path.split_off(start));
    }
    if !done.insert(module.to_vec()) {
        return None;
    }
    path.push(module.to_vec());
    for next in graph.get(module).into_iter().flatten() {
        if let Some(found) = circle(graph, next, path, done) {
            return Some(found);
        }
    }
    path.pop();
    None
}

/// A circle of files is one knot: none of them can be understood, tested or replaced alone.
#[test]
fn session_files_form_no_circle() -> io::Result<()> {
    let sources = sources(&root().join("session"))?;
    let modules: BTreeMap<_, _> = sources
        .into_iter()
        .map(|(file, text)| (module(&file), text))
        .collect();
    let graph: BTreeMap<_, _> = modules
        .iter()
        .map(|(module, text)| (module.clone(), dependencies(&modules, module, text)))
        .collect();
    let mut done = BTreeSet::new();
    for module in graph.keys() {
        let found = circle(&graph, module, &mut Vec::new(), &mut done);
        assert!(found.is_none(), "these files depend on each other: {found:?}");
    }
    let edges: usize = graph.values().map(Vec::len).sum();
    assert!(edges > 100, "only {edges} dependencies were found");
    Ok(())
}

/// The diagrams of states: the page, the heading, and the file whose documentation explains each state.
const STATE_DIAGRAMS: [(&str, &str, &str); 3] = [
    ("sessions.md", "Life of a session record", "session/store/mod.rs"),
    (
        "sessions.md",
        "Freshness of a cache entry",
        "session/cache/cache_entry.rs",
    ),
    (
        "upstream-sessions.md",
        "Life of an upstream session",
        "session/upstream/mod.rs",
    ),
];

/// The states of the first diagram after `heading`.
fn states(page: &str, heading: &str) -> BTreeSet<String> {
    let lines = page.lines().skip_while(|line| !line.ends_with(heading));
    let lines = lines.skip_while(|line| *line != "stateDiagram-v2");
    let arrows = lines
        .take_while(|line| *line != "```")
        .filter_map(|line| line.split_once(" --> "));
    arrows
        .flat_map(|(from, to)| [from.trim(), to.split(':').next().unwrap_or(to).trim()])
        .filter(|state| *state != "[*]")
        .map(str::to_lowercase)
        .collect()
}

#[test]
fn code_names_each_state_of_the_diagrams() -> io::Result<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/architecture");
    for (page, heading, file) in STATE_DIAGRAMS {
        let states = states(&fs::read_to_string(docs.join(page))?, heading);
        assert!(
            states.len() >= 5,
            "{page} has no diagram under {heading:?}: {states:?}"
        );
        let text = fs::read_to_string(root().join(file))?;
        for state in states {
            let is_named = text
                .lines()
                .any(|line| line.starts_with("//!") && line.contains(&format!("*{state}*")));
            assert!(is_named, "{file} does not name the state *{state}* of {page}");
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
