//! The file with the secrets: a script of the shell that sets one environment variable on each line.
//!
//! A value can refer to other variables, as in the imported file, so the shell must read it: `set -a; . ./vmcp.env; set +a`. Every variable
//! has a name of its own that begins with `MCP_`, so that none of them changes the gateway itself, as `PATH` or `NODE_OPTIONS` would.

use std::collections::{BTreeMap, BTreeSet};

use super::inputs::Inputs;
use super::ordered_json::OrderedJson;
use super::shell_quote;
use super::template::{Part, Template};

/// The beginning of each variable's name.
const PREFIX: &str = "MCP_";

/// The lines of the file.
#[derive(Clone, Default)]
pub(super) struct EnvFile {
    lines: Vec<Line>,
    /// Names that a new variable cannot have: those of the lines, and those that the imported file refers to.
    taken: BTreeSet<String>,
    /// The variable of each input, by the input's id.
    inputs: BTreeMap<String, String>,
    /// Variables of the gateway's environment that have no value here.
    required: BTreeSet<String>,
}

#[derive(Clone)]
struct Line {
    name: String,
    /// The value as the shell reads it.
    value: String,
    comment: Option<String>,
}

impl EnvFile {
    /// A file without lines, for servers that `file` describes.
    pub(super) fn new(file: &OrderedJson) -> Self {
        let mut taken = BTreeSet::new();
        file.visit_texts(&mut |text| {
            let words = text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
            taken.extend(words.filter(|word| word.starts_with(PREFIX)).map(str::to_owned));
        });
        Self {
            taken,
            ..Self::default()
        }
    }

    /// Adds a variable with the value of `template` for the setting `name` of `server`, and returns the variable's name.
    pub(super) fn add(&mut self, server: &str, name: &str, template: &Template, inputs: &Inputs) -> String {
        let mut value = String::new();
        for part in &template.0 {
            match part {
                Part::Text(text) => value.push_str(&shell_quote::always_quoted(text)),
                Part::Variable { name, default } => {
                    if default.is_none() {
                        self.require(name);
                    }
                    value.push_str(&shell_quote::variable(name, default.as_deref()));
                }
                Part::Input(id) => value.push_str(&shell_quote::variable(&self.input(id, inputs), None)),
            }
        }
        if value.is_empty() {
            value.push_str("''");
        }
        let name = self.unique_name(server, name);
        self.push(name, value, None)
    }

    /// The variable with the text that the user enters for the input `id`. Its line is added when it is used first.
    pub(super) fn input(&mut self, id: &str, inputs: &Inputs) -> String {
        if let Some(name) = self.inputs.get(id) {
            return name.clone();
        }
        let input = inputs.get(id);
        let name = self.unique_name("INPUT", id);
        let value = shell_quote::always_quoted(input.default.as_deref().unwrap_or_default());
        self.inputs.insert(id.to_owned(), name.clone());
        self.push(
            name,
            value,
            Some(format!("Enter the value: {}", input.description)),
        )
    }

    /// Notes that the user must set the environment variable `name`.
    pub(super) fn require(&mut self, name: &str) {
        self.required.insert(name.to_owned());
    }

    /// The environment variables that the user must set.
    pub(super) fn required(&self) -> impl Iterator<Item = &str> {
        self.required.iter().map(String::as_str)
    }

    /// The variables of this file whose values the user has to enter.
    pub(super) fn to_enter(&self) -> impl Iterator<Item = &str> {
        self.inputs.values().map(String::as_str)
    }

    /// The number of variables.
    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    /// The content of the file.
    pub(super) fn text(&self) -> String {
        let mut text = "# Secrets of MCP servers, for `set -a; . FILE; set +a` in a shell. Do not share or commit this file.\n".to_owned();
        for line in &self.lines {
            if let Some(comment) = &line.comment {
                let comment: String = comment
                    .chars()
                    .map(|c| if c.is_control() { ' ' } else { c })
                    .collect();
                text.push_str(&format!("# {comment}\n"));
            }
            text.push_str(&format!("{}={}\n", line.name, line.value));
        }
        text
    }

    fn push(&mut self, name: String, value: String, comment: Option<String>) -> String {
        self.lines.push(Line {
            name: name.clone(),
            value,
            comment,
        });
        name
    }

    /// A name that no other variable has: `MCP_SERVER_NAME`, or `MCP_NAME` if the name begins with that of the server.
    fn unique_name(&mut self, server: &str, name: &str) -> String {
        let (server, name) = (shouted(server), shouted(name));
        let name = name.strip_prefix(PREFIX).unwrap_or(&name);
        let base = if name.starts_with(&server) {
            format!("{PREFIX}{name}")
        } else {
            format!("{PREFIX}{server}_{name}")
        };
        let mut unique = base.clone();
        let mut count = 1;
        while !self.taken.insert(unique.clone()) {
            count += 1;
            unique = format!("{base}_{count}");
        }
        unique
    }
}

/// The text in capital letters, with `_` for what the name of a variable cannot contain.
fn shouted(text: &str) -> String {
    let letter = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_uppercase()
        } else {
            '_'
        }
    };
    text.chars().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::import::template::Folders;

    fn template(text: &str) -> Template {
        let folders = Folders {
            project: "/work".into(),
            home: None,
        };
        Template::parse(text, &folders).unwrap()
    }

    /// The value of `name` after a shell has read the file, in an environment with `TOKEN=t0ken`.
    fn value_in_shell(file: &EnvFile, name: &str) -> String {
        let script = format!("set -eua\n{}set +a\nexec env", file.text());
        let output = Command::new("sh")
            .args(["-c", &script])
            .env("TOKEN", "t0ken")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let printed = String::from_utf8(output.stdout).unwrap();
        let line = format!("{name}=");
        let start = printed.find(&line).unwrap() + line.len();
        let end = printed[start..].find("|end").unwrap();
        printed[start..start + end].to_owned()
    }

    // The shell reads every value as the client would have passed it.
    #[test]
    fn values_survive_the_shell() {
        for (text, expected) in [
            ("", ""),
            ("it's \"$HOME\" `id` \\ # x", "it's \"$HOME\" `id` \\ # x"),
            ("two\nlines", "two\nlines"),
            ("Bearer ${TOKEN}", "Bearer t0ken"),
            ("${MISSING:-a \"b\" $c `d` \\e 'f'}", "a \"b\" $c `d` \\e 'f'"),
            ("${TOKEN:-x}", "t0ken"),
        ] {
            let mut file = EnvFile::default();
            let name = file.add("git", "X", &template(&format!("{text}|end")), &Inputs::default());
            assert_eq!(name, "MCP_GIT_X");
            assert_eq!(value_in_shell(&file, &name), expected, "{}", file.text());
        }
    }

    #[test]
    fn names_are_unique_and_begin_with_mcp() {
        let json = OrderedJson::parse(r#"{"a": "x${MCP_GIT_TOKEN_2}"}"#, Path::new("a")).unwrap();
        let mut file = EnvFile::new(&json);
        let mut add = |server, name| file.add(server, name, &template("x"), &Inputs::default());
        assert_eq!(add("git", "TOKEN"), "MCP_GIT_TOKEN");
        assert_eq!(add("git", "GIT_TOKEN"), "MCP_GIT_TOKEN_3");
        assert_eq!(add("my-server", "x.y z"), "MCP_MY_SERVER_X_Y_Z");
        assert_eq!(add("path", "PATH"), "MCP_PATH");
    }

    // The description of an input comes from the imported file, and must not become a command.
    #[test]
    fn input_description_stays_a_comment() {
        let json = r#"[{"id": "k", "description": "key\nrm -rf x", "default": "d"}]"#;
        let inputs =
            Inputs::parse(Some(OrderedJson::parse(json, Path::new("a")).unwrap()), "inputs").unwrap();
        let mut file = EnvFile::default();
        file.add("a", "H", &template("x ${input:k}"), &inputs);
        let text = file.text();
        assert!(
            text.ends_with(
                "# Enter the value: key rm -rf x\nMCP_INPUT_K='d'\nMCP_A_H='x '\"${MCP_INPUT_K}\"\n"
            ),
            "{text}"
        );
        assert_eq!(file.to_enter().collect::<Vec<_>>(), ["MCP_INPUT_K"]);
    }
}
