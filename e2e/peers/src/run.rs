//! Commands that install something.

use std::process::Command;

use anyhow::{Context as _, bail};

/// How much of a failed command's output an error shows: the end, where the cause usually is.
const SHOWN_LINES: usize = 30;

/// Runs `command` to its end and returns what it printed. Its output is shown only when it fails.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<String> {
    let name = describe(command);
    let output = command.output().with_context(|| format!("cannot run {name}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut printed = String::from_utf8_lossy(&output.stdout).into_owned();
    printed.push_str(&String::from_utf8_lossy(&output.stderr));
    bail!("{name}: {}\n{}", output.status, tail(&printed))
}

/// The last lines of `text`.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

fn describe(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{run, tail};

    #[test]
    fn a_failure_names_the_command_its_status_and_what_it_printed() {
        let error = run(Command::new("sh").args(["-c", "echo no such package >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("sh -c") && text.contains('3') && text.contains("no such package"),
            "{text}"
        );
    }

    #[test]
    fn long_output_is_cut_at_its_beginning() {
        let text: String = (0..100).map(|line| format!("line {line}\n")).collect();
        assert!(tail(&text).starts_with("line 70\n") && tail(&text).ends_with("line 99"));
    }
}
