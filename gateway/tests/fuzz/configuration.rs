//! Configuration files with random mistakes: the error names the right line, and nothing panics.

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use vmcp_crds::config::{ConfigError, GatewayConfig};
use vmcp_gateway::config::Config;

const REGRESSIONS: &str = "tests/fuzz/regressions/configuration.txt";

const EXAMPLES: [&str; 3] = [
    include_str!("../../../examples/gateway.yaml"),
    include_str!("../../../examples/aggregation.yaml"),
    include_str!("../../../examples/desktop.yaml"),
];

/// One of the examples with a few mistakes.
fn mistyped() -> impl Strategy<Value = String> {
    let mistake = (any::<Index>(), any::<Index>(), 0..8_u8, words());
    (select(EXAMPLES.to_vec()), vec(mistake, 1..5)).prop_map(|(example, mistakes)| {
        let mut lines: Vec<String> = example
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(str::to_owned)
            .collect();
        for (line, place, kind, word) in mistakes {
            if lines.is_empty() {
                lines.push(String::new());
            }
            let line = line.index(lines.len());
            let characters: Vec<char> = lines[line].chars().collect();
            let place = place.index(characters.len() + 1);
            let (before, after) = characters.split_at(place);
            let (before, after): (String, String) = (before.iter().collect(), after.iter().collect());
            match kind {
                0 => drop(lines.remove(line)),
                1 => lines.insert(line, lines[line].clone()),
                2 => lines[line] = before,
                3 => lines[line] = after,
                4 => lines[line] = format!("{before}{word}{after}"),
                5 => {
                    let key = lines[line].split(':').next().unwrap_or_default().to_owned();
                    lines[line] = format!("{key}: {word}");
                }
                6 => lines[line].insert(0, ' '),
                _ => lines.insert(line, word),
            }
        }
        lines.join("\n")
    })
}

/// A text that replaces another one.
fn words() -> impl Strategy<Value = String> {
    let usual = select(vec![
        "[]",
        "{}",
        "null",
        "~",
        "-1",
        "1e99",
        "0x10",
        "true",
        "\"",
        "'",
        "*",
        "&a",
        "*a",
        "!!binary x",
        "|",
        ">-",
        "? ",
        "- ",
        ": ",
        "# ",
        "---",
        "...",
        "%",
        "@",
        "`",
        "\t",
        "\u{feff}",
        "{version: v1}",
        "[1, [2, {a: b}]]",
        "version: v1",
        "999999999999999999999999",
        "1s",
        "-5s",
        "0s",
        "http://",
        "http://[::1",
        "ftp://a/b",
        "http://u:p@h/",
        "prefix",
        "{backend}",
        "<<: *a",
        "\u{0}",
    ]);
    prop_oneof![4 => usual.prop_map(str::to_owned), 1 => "\\PC{0,8}"]
}

fn has_empty_name_or_url(config: &GatewayConfig) -> bool {
    let mut backends = config.hot.iter().flat_map(|hot| &hot.backends);
    backends.any(|backend| backend.name.is_empty() || (backend.url.is_empty() && backend.command.is_empty()))
}

proptest! {
    #![proptest_config(super::config(REGRESSIONS))]

    /// A file is rejected with the line of the mistake, or is valid.
    #[test]
    fn mistyped_file_is_valid_or_error_has_a_line(text in mistyped()) {
        let file = Path::new("gateway.yaml");
        match GatewayConfig::parse(&text, file) {
            // An empty name or URL is written as a missing one. The validation, which comes later, refuses both.
            Ok(config) if has_empty_name_or_url(&config) => {}
            Ok(config) => {
                // A valid configuration survives a round trip.
                let written = serde_yaml::to_string(&config);
                prop_assert!(written.is_ok(), "{:?}", written);
                let read = GatewayConfig::parse(&written.unwrap_or_default(), file);
                prop_assert_eq!(read.ok(), Some(config));
            }
            Err(ConfigError::Invalid { line, path, message, .. }) => {
                let last = text.lines().count() + 1;
                prop_assert!(
                    (1..=last).contains(&line),
                    "line {} at `{}`: {}", line, path, message
                );
                prop_assert!(!message.is_empty());
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    /// The validation of a mistyped file does not panic.
    #[test]
    fn validation_does_not_panic(text in mistyped()) {
        let directory = std::env::temp_dir().join(format!("vmcp-fuzz-{}", std::process::id()));
        prop_assert!(fs::create_dir_all(&directory).is_ok());
        let file = directory.join("gateway.yaml");
        prop_assert!(fs::write(&file, &text).is_ok());
        if let Err(error) = Config::load(&file, None) {
            let message = error.to_string();
            prop_assert!(message.contains("gateway.yaml"), "{}", message);
            if let ConfigError::Invalid { line, .. } = error {
                prop_assert!((1..=text.lines().count() + 1).contains(&line), "{}", message);
            }
        }
        drop(fs::remove_dir_all(&directory));
    }
}
