//! Extracts the commands in README.md.

/// Heading of the section with the commands.
const SECTION: &str = "\n## Try it\n";

/// The commands of the first block of the section "Try it", in their order, without `cargo xtask` and without comments.
pub(super) fn commands(readme: &str) -> Vec<String> {
    let section = readme.split(SECTION).nth(1).unwrap_or_default();
    let block = section.split("```sh\n").nth(1).unwrap_or_default();
    let block = block.split("```").next().unwrap_or_default();
    xtask_commands(block).collect()
}

/// The arguments of each `cargo xtask` command that has its own line.
fn xtask_commands(text: &str) -> impl Iterator<Item = String> {
    text.lines()
        .filter_map(|line| line.trim_start().strip_prefix("cargo xtask "))
        .map(|rest| rest.split(" #").next().unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    const README: &str = include_str!("../../../README.md");

    #[test]
    fn readme_has_the_commands_that_fresh_runs() {
        assert_eq!(commands(README), ["demo", "demo outages", "test"]);
    }

    /// Documents must not contain commands or options that do not exist.
    #[test]
    fn every_documented_xtask_command_parses() {
        let documents = [
            README,
            include_str!("../../../CONTRIBUTING.md"),
            include_str!("../../../RELEASING.md"),
            include_str!("../../../.github/pull_request_template.md"),
            include_str!("../../../e2e/cluster/README.md"),
        ];
        let spans = documents
            .iter()
            .flat_map(|text| text.split('`').skip(1).step_by(2));
        let spans = spans.filter(|span| !span.contains('\n')).flat_map(xtask_commands);
        let lines = documents.iter().copied().flat_map(xtask_commands);
        let found: Vec<String> = lines.chain(spans).collect();
        assert!(found.len() > 10, "{found:?}");
        for command in found {
            let words = ["cargo xtask"].into_iter().chain(command.split_whitespace());
            if let Err(error) = crate::Arguments::try_parse_from(words) {
                assert!(!error.use_stderr(), "cargo xtask {command}: {error}");
            }
        }
    }

    #[test]
    fn text_without_the_section_has_no_commands() {
        assert!(commands("# x\n\n```sh\ncargo xtask demo\n```\n").is_empty());
    }
}
