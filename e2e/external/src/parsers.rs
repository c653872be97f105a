//! JSON parsers of other languages, as programs that say what they understood of a message.
//!
//! Each reads messages, one a line in hexadecimal digits, and writes one line of JSON for each: `method`, `name`, `uri` and `id`, or
//! `error`. They need nothing but their language.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::run::run;
use crate::{cache, debian, npm};

const GO_READER: &str = include_str!("../parsers/reader.go");

/// A parser.
#[derive(Debug)]
pub struct Parser {
    /// The language, and how keys are found in it.
    pub name: &'static str,
    /// The program.
    pub command: Command,
}

/// The parsers of Go, Python and JavaScript.
///
/// # Errors
/// When a language is missing; the message says what to do.
pub fn all() -> anyhow::Result<Vec<Parser>> {
    let python = debian::program("python3", "python3")?;
    let python = |how: &str| {
        let mut command = Command::new(&python);
        command.arg(script("reader.py")).arg(how);
        command
    };
    let mut javascript = Command::new(npm::node()?);
    javascript.arg(script("reader.mjs"));
    let parser = |name, command| Parser { name, command };
    Ok(vec![
        parser("Go", Command::new(go_reader()?)),
        parser("JavaScript", javascript),
        parser("Python", python("last")),
        parser("Python, first of two keys", python("first")),
        parser("Python, folded keys", python("folded")),
    ])
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("parsers").join(name)
}

/// The program in Go, built once for each of its versions and for each Go.
fn go_reader() -> anyhow::Result<PathBuf> {
    let go = debian::find("go")
        .or_else(|| Some(PathBuf::from("/usr/local/go/bin/go")).filter(|go| go.is_file()))
        .context(
            "go is missing: install Go (https://go.dev/doc/install), put it on the PATH, and run this again",
        )?;
    let version = run(Command::new(&go).arg("version"))?;
    let key = cache::key("parser-go", &[GO_READER, &version]);
    let dir = cache::once(&key, |dir| {
        fs::write(dir.join("reader.go"), GO_READER)?;
        // The standard library is all that it needs: nothing may be downloaded.
        let mut build = Command::new(&go);
        build
            .args(["build", "-o", "reader", "reader.go"])
            .current_dir(dir)
            .envs([("GOPROXY", "off"), ("GOTOOLCHAIN", "local"), ("GOWORK", "off")]);
        run(&mut build)?;
        Ok(())
    })?;
    Ok(dir.join("reader"))
}
