//! The command line of a server.
//!
//! The gateway starts a program without a shell, and passes the arguments as they are. Where an argument contains a variable or a secret, a
//! shell takes it from the environment: `[sh, -c, 'exec server --key "$MCP_ARGUMENT_2"']`.

use super::field_path::Problem;
use super::secret_text::is_secret_argument;
use super::shell_quote;
use super::template::{Folders, Template};

/// The program and its arguments.
pub(super) struct ArgumentList(Vec<Argument>);

struct Argument {
    path: String,
    template: Template,
    is_secret: bool,
}

impl ArgumentList {
    /// The command line of these texts with their paths in the file; the first is the program.
    pub(super) fn new(texts: Vec<(String, String)>, folders: &Folders) -> Result<Self, Problem> {
        let mut texts = texts;
        remove_windows_shell(&mut texts);
        let mut arguments = Vec::with_capacity(texts.len());
        let mut previous: Option<String> = None;
        for (path, text) in texts {
            let template =
                Template::parse(&text, folders).map_err(|message| Problem::new(path.clone(), message))?;
            let literal = template.literal();
            let is_secret = literal.is_some_and(|literal| is_secret_argument(previous.as_deref(), literal));
            previous = literal.map(str::to_owned);
            arguments.push(Argument {
                path,
                template,
                is_secret,
            });
        }
        Ok(Self(arguments))
    }

    /// Whether the program or an argument is a path that starts at the working directory.
    pub(super) fn has_relative_path(&self) -> bool {
        let mut literals = self.0.iter().filter_map(|argument| argument.template.literal());
        literals.any(|text| text == "." || text.starts_with("./") || text.starts_with("../"))
    }

    /// The command of the backend, and what the user should know about it. `define` is called with the name and the value of each variable
    /// that the command needs.
    pub(super) fn into_command(self, mut define: impl FnMut(&str, &Template)) -> (Vec<String>, Vec<Problem>) {
        let is_plain = |argument: &Argument| !argument.is_secret && argument.template.literal().is_some();
        if self.0.iter().all(is_plain) {
            let words = self.0.iter().filter_map(|argument| argument.template.literal());
            return (words.map(str::to_owned).collect(), Vec::new());
        }
        let mut script = "exec".to_owned();
        let mut notes = Vec::new();
        for (index, argument) in self.0.into_iter().enumerate() {
            script.push(' ');
            match argument.template.literal() {
                Some(literal) if !argument.is_secret => script.push_str(&shell_quote::quoted(literal)),
                _ => {
                    let name = format!("MCP_ARGUMENT_{index}");
                    define(&name, &argument.template);
                    script.push_str(&shell_quote::variable(&name, None));
                }
            }
            if argument.is_secret {
                notes.push(Problem::new(
                    argument.path,
                    "may be a secret, and is moved to the file with the secrets",
                ));
            }
        }
        (vec!["sh".to_owned(), "-c".to_owned(), script], notes)
    }
}

/// Removes `cmd /c`, which Windows needs to start a script such as `npx`.
fn remove_windows_shell(texts: &mut Vec<(String, String)>) {
    let lower = |index: usize| texts.get(index).map(|(_, text)| text.to_ascii_lowercase());
    let is_shell = matches!(lower(0).as_deref(), Some("cmd" | "cmd.exe"));
    if is_shell && lower(1).as_deref() == Some("/c") && texts.len() > 2 {
        texts.drain(..2);
    }
}
