//! Checks the language of the sources and docs: banned phrases, long test names, and names that stand for two things.
//!
//! `rules.rs` has the rules. The check is a help, not a fence: an exception is one line there with its reason.

mod rules;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rules::{
    FILE_EXCEPTIONS, FOLDER_EXCEPTIONS, MAX_TEST_NAME_LENGTH, PHRASE_EXCEPTIONS, PHRASES, TYPE_EXCEPTIONS,
};

/// File names that may repeat within a crate.
const COMMON_FILE_NAMES: [&str; 4] = ["mod.rs", "main.rs", "lib.rs", "tests.rs"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All files below `folder` whose names end with `extension`, as paths relative to the root of the repository.
fn files(folder: &str, extension: &str) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(folder))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if folder == "." {
            name.clone()
        } else {
            format!("{folder}/{name}")
        };
        if entry.file_type()?.is_dir() {
            if !["target", "node_modules"].contains(&name.as_str()) && !name.starts_with('.') {
                found.extend(files(&path, extension)?);
            }
        } else if name.ends_with(extension) {
            found.push(path);
        }
    }
    Ok(found)
}

/// The folders of the crates, relative to the root of the repository.
fn crates() -> io::Result<Vec<String>> {
    let manifests = files(".", "Cargo.toml")?;
    let folders = manifests
        .iter()
        .filter_map(|manifest| manifest.strip_suffix("/Cargo.toml"));
    Ok(folders.map(str::to_owned).collect())
}

fn read(path: &str) -> io::Result<String> {
    fs::read_to_string(root().join(path))
}

fn is_in_exempt_folder(path: &str) -> bool {
    FOLDER_EXCEPTIONS
        .iter()
        .any(|(folder, _)| Path::new(path).starts_with(folder))
}

/// The lines of prose in a file in lower case, with their numbers: the comments of a source file, or a Markdown page without its code
/// blocks.
fn prose(path: &str, text: &str) -> Vec<(usize, String)> {
    let is_source = path.ends_with(".rs");
    let mut is_in_code_block = false;
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let start = line.trim_start();
        if start.starts_with("```") {
            is_in_code_block = !is_in_code_block;
        }
        let is_prose = if is_source {
            start.starts_with("//")
        } else {
            !is_in_code_block
        };
        if is_prose {
            found.push((index + 1, line.to_lowercase()));
        }
    }
    found
}

/// Whether `line` contains `phrase` as whole words.
fn contains_phrase(line: &str, phrase: &str) -> bool {
    let is_edge = |character: Option<char>| character.is_none_or(|character| !character.is_alphanumeric());
    line.match_indices(phrase).any(|(at, _)| {
        let after = &line[at + phrase.len()..];
        is_edge(line[..at].chars().next_back()) && (phrase.ends_with(' ') || is_edge(after.chars().next()))
    })
}

/// The names of the tests in a source file.
fn test_names(text: &str) -> Vec<&str> {
    let mut is_test = false;
    let mut names = Vec::new();
    for line in text.lines().map(str::trim_start) {
        if line.starts_with("#[test") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some((_, signature)) = line.split_once("fn ") {
            if is_test {
                names.push(signature.split('(').next().unwrap_or_default());
            }
            is_test = false;
        }
    }
    names
}

/// The names of the types and traits in a source file that are visible outside their module.
fn visible_types(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for line in text.lines() {
        let Some(item) = line.trim_start().strip_prefix("pub") else {
            continue;
        };
        let item = item.split_once(") ").map_or(item, |(_, item)| item);
        let mut words = item.split_whitespace();
        if words
            .next()
            .is_some_and(|word| ["struct", "enum", "trait"].contains(&word))
        {
            let name = words.next().unwrap_or_default().chars();
            names.push(name.take_while(|character| character.is_alphanumeric()).collect());
        }
    }
    names
}

/// The entries of `places` with more than one place, as `folder: name in places`, without those in `exceptions`.
fn duplicates(
    folder: &str,
    places: BTreeMap<String, Vec<String>>,
    exceptions: &[(&str, &str, &str)],
) -> Vec<String> {
    let is_exception = |name: &str| {
        exceptions
            .iter()
            .any(|(own, exception, _)| *own == folder && *exception == name)
    };
    let duplicates = places
        .into_iter()
        .filter(|(name, paths)| paths.len() > 1 && !is_exception(name));
    duplicates
        .map(|(name, paths)| format!("{folder}: {name} in {}", paths.join(", ")))
        .collect()
}

#[track_caller]
fn assert_none(faults: &[String]) {
    assert!(
        faults.is_empty(),
        "{} findings; fix them, or add an exception with its reason to xtask/tests/language/rules.rs:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

#[test]
fn prose_has_no_banned_phrase() -> io::Result<()> {
    let mut faults = Vec::new();
    for path in files(".", ".rs")?.into_iter().chain(files(".", ".md")?) {
        if path.starts_with("xtask/tests/language/") || is_in_exempt_folder(&path) {
            continue;
        }
        for (number, line) in prose(&path, &read(&path)?) {
            for (phrase, instead) in PHRASES {
                let is_exception = PHRASE_EXCEPTIONS
                    .iter()
                    .any(|(file, exception, _)| *file == path && *exception == phrase);
                if contains_phrase(&line, phrase) && !is_exception {
                    faults.push(format!("{path}:{number}: \"{}\": {instead}", phrase.trim()));
                }
            }
        }
    }
    assert_none(&faults);
    Ok(())
}

#[test]
fn test_names_are_short() -> io::Result<()> {
    let mut faults = Vec::new();
    for path in files(".", ".rs")? {
        if is_in_exempt_folder(&path) {
            continue;
        }
        for name in test_names(&read(&path)?) {
            if name.len() > MAX_TEST_NAME_LENGTH {
                faults.push(format!("{path}: {name} has {} characters", name.len()));
            }
        }
    }
    assert_none(&faults);
    Ok(())
}

#[test]
fn visible_type_names_are_unique_in_a_crate() -> io::Result<()> {
    let mut faults = Vec::new();
    for folder in crates()? {
        let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for path in files(&format!("{folder}/src"), ".rs")? {
            for name in visible_types(&read(&path)?) {
                places.entry(name).or_default().push(path.clone());
            }
        }
        faults.extend(duplicates(&folder, places, &TYPE_EXCEPTIONS));
    }
    assert_none(&faults);
    Ok(())
}

#[test]
fn file_names_are_unique_in_a_crate() -> io::Result<()> {
    let mut faults = Vec::new();
    for folder in crates()? {
        let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for path in files(&format!("{folder}/src"), ".rs")? {
            let name = path.rsplit('/').next().unwrap_or_default().to_owned();
            if !COMMON_FILE_NAMES.contains(&name.as_str()) {
                places.entry(name).or_default().push(path);
            }
        }
        faults.extend(duplicates(&folder, places, &FILE_EXCEPTIONS));
    }
    assert_none(&faults);
    Ok(())
}

#[test]
fn phrases_are_found_as_whole_words_in_prose() {
    assert!(contains_phrase("// whoever asks", "whoever"));
    assert!(!contains_phrase("// nobodys", "nobody"));
    let page = "Nobody.\n```\nnobody\n```\nSomebody";
    let found: Vec<_> = prose("page.md", page)
        .into_iter()
        .filter(|(_, line)| !line.starts_with("```"))
        .map(|(number, _)| number)
        .collect();
    assert_eq!(found, [1, 5]);
    assert_eq!(prose("a.rs", "let nobody = 1;\n    // nobody").len(), 1);
}

#[test]
fn tests_and_visible_types_are_found() {
    let text = "#[test]\nfn a() {}\nfn b() {}\n#[tokio::test(start_paused = true)]\nasync fn c() {}\n";
    assert_eq!(test_names(text), ["a", "c"]);
    let text =
        "pub struct A;\npub(crate) enum B<T> {}\nstruct C;\npub(in crate::x) trait D: E {}\npub fn f() {}\n";
    assert_eq!(visible_types(text), ["A", "B", "D"]);
    let places = BTreeMap::from([("A".to_owned(), vec!["x.rs".to_owned(), "y.rs".to_owned()])]);
    assert_eq!(duplicates("a", places.clone(), &[]), ["a: A in x.rs, y.rs"]);
    assert!(duplicates("a", places, &[("a", "A", "reason")]).is_empty());
}
