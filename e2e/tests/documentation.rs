//! The documentation has no dead links, and names no missing source file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The Markdown files of this repository.
fn pages() -> anyhow::Result<Vec<PathBuf>> {
    let (root, mut pages) = (root(), Vec::new());
    for folder in ["docs", "charts", "e2e", "examples"] {
        collect(&root.join(folder), &mut pages)?;
    }
    for entry in std::fs::read_dir(&root)? {
        pages.push(entry?.path());
    }
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    Ok(pages)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// The anchors that GitHub gives the headings of `page`.
fn anchors(page: &str) -> BTreeSet<String> {
    let outside_code = page.split("\n```").step_by(2).flat_map(str::lines);
    let headings = outside_code.filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let words = line.trim_start_matches('#').trim().to_lowercase();
            let kept = words
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

/// The targets of the links in `page` that lead to files of this repository.
fn links(page: &str) -> impl Iterator<Item = &str> {
    let targets = page.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://") && !target.contains(char::is_whitespace))
}

/// Each link leads to a file, and each anchor to a heading of it.
#[test]
fn documentation_links_resolve() -> anyhow::Result<()> {
    let mut checked = 0;
    for page in pages()? {
        let text = std::fs::read_to_string(&page)?;
        for link in links(&text) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().context("a page is in a folder")?.join(file),
            };
            ensure!(target.exists(), "{} links to {link}", page.display());
            if !anchor.is_empty() {
                let there = anchors(&std::fs::read_to_string(&target)?);
                ensure!(there.contains(anchor), "{} links to {link}", page.display());
            }
            checked += 1;
        }
    }
    assert!(checked > 100, "only {checked} links");
    Ok(())
}

/// Each source file that a page of the architecture names, by the end of its path, exists.
#[test]
fn documentation_source_files_exist() -> anyhow::Result<()> {
    let (mut sources, mut pages) = (Vec::new(), vec![root().join("docs/ARCHITECTURE.md")]);
    for folder in ["crds", "gateway", "operator", "bench", "e2e", "xtask"] {
        collect(&root().join(folder), &mut sources)?;
    }
    collect(&root().join("docs/architecture"), &mut pages)?;
    let mut checked = 0;
    for page in pages {
        let text = std::fs::read_to_string(&page)?;
        let quoted = text.split('`').skip(1).step_by(2);
        let is_source = |path: &&str| {
            Path::new(path)
                .extension()
                .is_some_and(|extension| extension == "rs")
        };
        for path in quoted.filter(is_source).filter(|path| !path.contains('*')) {
            let exists = sources.iter().any(|source| source.ends_with(path));
            ensure!(exists, "{} names {path}, which does not exist", page.display());
            checked += 1;
        }
    }
    assert!(checked > 50, "only {checked} files");
    Ok(())
}
