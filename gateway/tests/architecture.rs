//! The architecture invariants that a reader of the sources can check.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// The layers, outermost first. Each may name only itself and those after it.
const LAYERS: [&str; 5] = ["frontend", "session", "core", "backend", "wire"];

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

#[test]
fn layers_name_only_what_is_to_their_right() -> io::Result<()> {
    for (index, layer) in LAYERS.iter().enumerate() {
        for (path, text) in sources(&root().join(layer))? {
            for outer in LAYERS[..index].iter().chain(&["admin", "app", "args", "server"]) {
                // The generic HTTP server belongs to nobody's layer but the frontend's.
                let named =
                    text.contains(&format!("crate::{outer}::")) || text.contains(&format!("crate::{outer};"));
                assert!(
                    !named,
                    "{} names the layer {outer}, which is to its left",
                    path.display()
                );
            }
        }
    }
    Ok(())
}

#[test]
fn only_the_session_store_names_redis() -> io::Result<()> {
    for (path, text) in sources(&root())? {
        let inside = path.starts_with(root().join("session/store"));
        assert!(
            inside || !text.contains("::redis::") || path.ends_with("app.rs"),
            "{} names redis",
            path.display()
        );
        assert!(
            inside || !text.lines().any(|line| line.starts_with("use redis")),
            "{} names redis",
            path.display()
        );
    }
    Ok(())
}

#[test]
fn the_core_and_what_is_right_of_it_knows_no_session_id_and_no_http_server() -> io::Result<()> {
    for layer in ["core", "backend", "wire"] {
        for (path, text) in sources(&root().join(layer))? {
            for word in ["axum", "SessionId", "RecordKey", "hyper::server"] {
                // Whole words: a field of another process's answer may begin like one.
                let mut places = text.match_indices(word).map(|(at, _)| &text[at + word.len()..]);
                let named = places.any(|behind| !behind.starts_with(char::is_alphanumeric));
                assert!(!named, "{} names {word}", path.display());
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
