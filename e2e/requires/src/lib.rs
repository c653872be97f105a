//! `#[requires(redis)]`: the attribute of tests that need programs which a system may lack.

use proc_macro::{TokenStream, TokenTree};

/// The environment variable with the programs that are unavailable. It has the same name in `vmcp-external`.
const UNAVAILABLE: &str = "VMCP_UNAVAILABLE";

/// The programs that a test may require. `cargo xtask test` installs them, by the same names, in `xtask/src/test.rs`.
const PROGRAMS: [&str; 12] = [
    "api-server",
    "cluster",
    "conformance",
    "control-groups",
    "go",
    "helm",
    "hosts",
    "npm",
    "parsers",
    "previous-commit",
    "python",
    "redis",
];

/// Marks a test that needs these programs, as in `#[requires(redis, control_groups)]`. It stands above `#[test]` or `#[tokio::test]`.
///
/// The test is ignored, and the test runner prints the reason, if the environment variable `VMCP_UNAVAILABLE` names one of the programs when
/// the test is compiled. `cargo xtask test` sets it. Without it the test runs, and fails if a program is missing.
#[proc_macro_attribute]
pub fn requires(programs: TokenStream, test: TokenStream) -> TokenStream {
    let unavailable = std::env::var(UNAVAILABLE).unwrap_or_default();
    let attributes = check_test(&test).and_then(|()| attributes(&programs.to_string(), &unavailable));
    match attributes {
        Ok(attributes) => attributes
            .parse::<TokenStream>()
            .into_iter()
            .flatten()
            .chain(test)
            .collect(),
        Err(error) => compile_error(&error),
    }
}

/// What stands before the test. Cargo compiles the test again when the variable that `option_env` reads has changed.
fn attributes(programs: &str, unavailable: &str) -> Result<String, String> {
    let tracked = format!("const _: Option<&str> = option_env!({UNAVAILABLE:?});");
    let missing = missing(programs, unavailable)?;
    if missing.is_empty() {
        return Ok(tracked);
    }
    let reason = format!("needs {}, which this system cannot run", missing.join(" and "));
    Ok(format!("{tracked} #[ignore = {reason:?}]"))
}

/// The programs that are both required and unavailable.
fn missing(programs: &str, unavailable: &str) -> Result<Vec<String>, String> {
    let names = programs.split(',').map(|name| name.trim().replace('_', "-"));
    let required: Vec<_> = names.filter(|name| !name.is_empty()).collect();
    if required.is_empty() {
        return Err("no program is named: write `#[requires(redis)]`".to_owned());
    }
    for name in &required {
        if !PROGRAMS.contains(&name.as_str()) {
            return Err(format!(
                "unknown program `{name}`: write one of {}",
                PROGRAMS.join(", ")
            ));
        }
    }
    let is_missing = |name: &String| unavailable.split(',').any(|other| other.trim() == name);
    Ok(required.into_iter().filter(is_missing).collect())
}

/// Fails if no test attribute follows, because then nothing would be ignored.
fn check_test(test: &TokenStream) -> Result<(), String> {
    let is_test =
        |token: TokenTree| matches!(token, TokenTree::Group(group) if group.to_string().contains("test"));
    let before_body = test
        .clone()
        .into_iter()
        .take_while(|token| token.to_string() != "fn");
    if before_body.into_iter().any(is_test) {
        return Ok(());
    }
    Err("`#[requires(...)]` stands above `#[test]` or `#[tokio::test]`".to_owned())
}

fn compile_error(message: &str) -> TokenStream {
    format!("compile_error!({message:?});")
        .parse()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{attributes, missing};

    // A program is unavailable under its whole name only.
    #[test]
    fn unavailable_program_is_found_by_its_whole_name() {
        assert_eq!(missing("redis, npm", "python, npm").unwrap(), ["npm"]);
        assert_eq!(
            missing("control_groups", "control-groups").unwrap(),
            ["control-groups"]
        );
        assert!(missing("go", "golang,argo").unwrap().is_empty());
        assert!(missing("redis", "").unwrap().is_empty());
    }

    // The test runner prints the reason, which names every missing program.
    #[test]
    fn test_with_missing_programs_is_ignored_with_reason() {
        let attributes_of = |unavailable| attributes("redis, hosts", unavailable).unwrap();
        assert!(!attributes_of("npm").contains("ignore"));
        let both = attributes_of("hosts,redis");
        assert!(
            both.ends_with("#[ignore = \"needs redis and hosts, which this system cannot run\"]"),
            "{both}"
        );
    }

    // A typing error would otherwise run the test where its program is missing.
    #[test]
    fn unknown_program_is_an_error() {
        assert!(
            missing("rediss", "")
                .unwrap_err()
                .contains("unknown program `rediss`")
        );
        assert!(missing("", "").is_err());
    }
}
