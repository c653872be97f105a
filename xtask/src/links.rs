//! Tests the links between the documents of this repository.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use vmcp_peers::run::run;

use crate::cargo::root;

/// The Markdown files that git knows, with their text, by their paths in the repository.
fn documents() -> BTreeMap<PathBuf, String> {
    let listed = run(Command::new("git")
        .args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "*.md",
            "*.MD",
        ])
        .current_dir(root()))
    .unwrap();
    let paths = listed
        .lines()
        .map(PathBuf::from)
        .filter(|path| root().join(path).is_file());
    paths
        .map(|path| {
            let text = std::fs::read_to_string(root().join(&path)).unwrap();
            (path, without_code(&text))
        })
        .collect()
}

/// `text` without its code blocks, which may hold lines that look like headings.
fn without_code(text: &str) -> String {
    let mut is_code = false;
    let lines = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The targets of the links in `text`, but for those that lead out of the repository.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://"))
}

/// The anchors of the headings of `text`, as hosting platforms make them: lower case, hyphens for spaces, no punctuation.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title
                .chars()
                .filter(|&c| c.is_alphanumeric() || " -_".contains(c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

/// `path` without `.` and `..`.
fn normalized(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut result, part| {
        match part {
            Component::ParentDir => {
                result.pop();
            }
            Component::CurDir => {}
            part => result.push(part),
        }
        result
    })
}

/// Every link from one document to a file or a heading of this repository leads to something.
#[test]
fn links_between_documents_lead_somewhere() {
    let documents = documents();
    assert!(documents.len() > 10, "{:?}", documents.keys());
    let mut broken = Vec::new();
    for (path, text) in &documents {
        for link in links(text) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                path.clone()
            } else {
                normalized(&path.parent().unwrap_or(Path::new("")).join(file))
            };
            let has_anchor = match documents.get(&target) {
                Some(text) => anchor.is_empty() || anchors(text).contains(anchor),
                None => anchor.is_empty(),
            };
            if !has_anchor || !root().join(&target).exists() {
                broken.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(
        broken.is_empty(),
        "links that lead nowhere:\n{}",
        broken.join("\n")
    );
}
