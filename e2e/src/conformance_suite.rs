//! The official conformance suite, run against a gateway in front of our test server.
//!
//! The suite lists the scenarios that a revision requires, and others that it runs without scoring them. All have to pass. A scenario without
//! a result counts as failed, so a scenario that does not run cannot be taken for one that passes.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use tempfile::TempDir;
use vmcp_crds::config::ConflictStrategy;
use vmcp_external::npm::{self, Packages};
use vmcp_external::process::Process;

use crate::gateway::{Gateway, Recipe};
use crate::http_client::Session;
use crate::test_server::TestServer;
use crate::wait;

/// How long the suite may take. It gives each of its scenarios 30 s, and needs 3 s for all of them.
const LIMIT: Duration = Duration::from_secs(300);

/// What stands behind the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backends {
    /// The test server alone, its names as they are.
    One,
    /// The test server, whose prefix is empty, and another one whose names have a prefix.
    Two,
}

impl fmt::Display for Backends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::One => "one backend, strategy none",
            Self::Two => "two backends, the second one prefixed",
        })
    }
}

/// The result of the suite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuiteReport {
    /// The scenarios, in the suite's order: first those that count.
    pub scenarios: Vec<Scenario>,
}

/// A scenario and its checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// Whether the revision demands it.
    pub scored: bool,
    /// How many of its checks passed.
    pub passed: usize,
    /// The failures, as the suite reports them.
    pub failures: Vec<String>,
    /// The warnings of the suite.
    pub warnings: Vec<String>,
}

/// A check, as the suite writes it down.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Check {
    id: String,
    status: String,
    description: Option<String>,
    error_message: Option<String>,
}

impl Scenario {
    /// Whether there was a check, and all checks passed.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.failures.is_empty() && self.passed > 0
    }

    fn new(name: &str, scored: bool, checks: Option<&[Check]>) -> Self {
        let of = |status: &str| -> Vec<String> {
            let checks = checks.unwrap_or_default().iter();
            let checks = checks.filter(|check| check.status == status);
            checks.map(Check::text).collect()
        };
        let mut failures = of("FAILURE");
        if checks.is_none() {
            failures.push("the suite has no result for it".to_owned());
        }
        Self {
            name: name.to_owned(),
            scored,
            passed: of("SUCCESS").len(),
            failures,
            warnings: of("WARNING"),
        }
    }
}

impl Check {
    fn text(&self) -> String {
        let said = self.error_message.as_ref().or(self.description.as_ref());
        format!("{}: {}", self.id, said.map_or("no reason given", |text| text))
    }
}

impl SuiteReport {
    /// The number of scored scenarios that pass, and of all scored scenarios.
    #[must_use]
    pub fn score(&self) -> (usize, usize) {
        let scored = self.scenarios.iter().filter(|scenario| scenario.scored);
        let (passed, all): (Vec<_>, Vec<_>) = (
            scored.clone().filter(|scenario| scenario.holds()).collect(),
            scored.collect(),
        );
        (passed.len(), all.len())
    }

    /// Whether there is a scenario, and all pass, scored or not.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.scenarios.is_empty() && self.scenarios.iter().all(Scenario::holds)
    }
}

/// One line for each scenario, each failure and each warning, and the score as the last one.
impl fmt::Display for SuiteReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for scenario in &self.scenarios {
            let verdict = if scenario.holds() { "ok    " } else { "FAILED" };
            let note = if scenario.scored { "" } else { ", not scored" };
            let passed = scenario.passed;
            writeln!(f, "  {verdict} {} ({passed} passed{note})", scenario.name)?;
            for failure in &scenario.failures {
                writeln!(f, "         {failure}")?;
            }
            for warning in &scenario.warnings {
                writeln!(f, "         warning: {warning}")?;
            }
        }
        let (passed, all) = self.score();
        write!(f, "scored {passed}/{all}")
    }
}

/// Starts a gateway with these backends and runs what `revision` demands of a server.
///
/// # Errors
/// When something cannot be started, or the suite does not know the revision; that a scenario fails is no error.
pub fn run(revision: &str, backends: Backends) -> anyhow::Result<SuiteReport> {
    let packages = npm::conformance()?;
    let first = TestServer::start(&[])?;
    let second = match backends {
        Backends::One => None,
        Backends::Two => Some(TestServer::start(&["--name", "second"])?),
    };
    let gateway = gateway(&first, second.as_ref())?;
    let demanded = demanded(&packages, revision)?;
    let results = TempDir::new()?;
    // By this name: the suite checks that other names than the loopback's are refused.
    let url = format!("http://localhost:{}/mcp", gateway.mcp.port());
    let mut command = packages.command("conformance");
    command
        .args(["server", "--url", &url, "--requirements", revision, "-o"])
        .arg(results.path());
    let mut suite = Process::start("conformance", &command)?;
    let ended = wait::until("the suite ends", LIMIT, || suite.ended()?.context("it runs"));
    ended.with_context(|| suite.last_words())?;
    let mut checks = results_in(results.path())?;
    ensure!(
        !checks.is_empty(),
        "the suite has checked nothing; {}",
        suite.last_words()
    );
    let scenarios = demanded
        .iter()
        .map(|(name, scored)| Scenario::new(name, *scored, checks.remove(name).as_deref()))
        .collect();
    ensure!(
        checks.is_empty(),
        "the suite has run {:?}, which it does not list",
        checks.keys()
    );
    Ok(SuiteReport { scenarios })
}

fn gateway(first: &TestServer, second: Option<&TestServer>) -> anyhow::Result<Gateway> {
    let mut named = vec![("fixture", first.url.as_str())];
    named.extend(second.map(|second| ("second", second.url.as_str())));
    let mut recipe = Recipe::in_memory(&named)?;
    let hot = recipe.config.hot.get_or_insert_default();
    match second {
        None => hot.aggregation.strategy = ConflictStrategy::None,
        Some(_) => hot.backends[0].prefix = Some(String::new()),
    }
    let gateway = recipe.start()?;
    // Otherwise the suite would say nothing of what it is run for.
    let tools = Session::open(gateway.mcp)?.names(gateway.mcp, "tools/list")?;
    let mut expected = vec!["echo"];
    expected.extend(second.map(|_| "second_echo"));
    for name in expected {
        ensure!(
            tools.iter().any(|tool| tool == name),
            "{name} is not among {tools:?}"
        );
    }
    Ok(gateway)
}

/// The server scenarios that the suite runs for `revision`, and whether each of them counts.
fn demanded(packages: &Packages, revision: &str) -> anyhow::Result<Vec<(String, bool)>> {
    let output = packages
        .command("conformance")
        .args(["list", "--requirements", revision])
        .output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "the suite cannot list the requirements of {revision}: {printed}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let scenarios = server_scenarios(&printed);
    ensure!(
        scenarios.iter().any(|(_, scored)| *scored),
        "the suite demands nothing of a server: {printed}"
    );
    Ok(scenarios)
}

/// Those in what `conformance list --requirements` prints: a list of those that count, and one of the others, which name their leg.
fn server_scenarios(printed: &str) -> Vec<(String, bool)> {
    let mut scenarios = Vec::new();
    let mut scored = false;
    for line in printed.lines() {
        match line.trim().strip_prefix("- ") {
            None if line.is_empty() => {}
            None => scored = line.starts_with("Server scenarios"),
            Some(name) if scored => scenarios.push((name.to_owned(), true)),
            Some(name) => {
                let name = name.strip_suffix(" [server]");
                scenarios.extend(name.map(|name| (name.to_owned(), false)));
            }
        }
    }
    scenarios
}

/// The checks of each scenario, from the folders `server-<scenario>-<time>`.
fn results_in(directory: &Path) -> anyhow::Result<BTreeMap<String, Vec<Check>>> {
    let mut results = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let folder = entry.file_name().to_string_lossy().into_owned();
        let name = scenario(&folder).with_context(|| format!("{folder} is no result of a scenario"))?;
        let text = fs::read(entry.path().join("checks.json")).with_context(|| folder.clone())?;
        let checks: Vec<Check> = serde_json::from_slice(&text).with_context(|| folder.clone())?;
        results.insert(name.to_owned(), checks);
    }
    Ok(results)
}

/// `ping` of `server-ping-2026-11-23T09-06-03-043Z`.
fn scenario(folder: &str) -> Option<&str> {
    const TIME: usize = "-2026-11-23T09-06-03-043Z".len();
    let name = folder.strip_prefix("server-")?;
    name.get(..name.len().checked_sub(TIME)?)
}

#[cfg(test)]
mod tests {
    use super::{Check, Scenario, SuiteReport, scenario, server_scenarios};

    fn check(status: &str) -> Check {
        Check {
            id: "some-check".to_owned(),
            status: status.to_owned(),
            description: Some("It answers".to_owned()),
            error_message: None,
        }
    }

    #[test]
    fn scenario_lists_name_scored_server_scenarios() {
        let printed = "Required for X (2 scenarios):\n\nServer scenarios (test against a server):\n  - ping\n  - tools-list\n\n\
                       Client scenarios (test against a client):\n  - initialize\n\n\
                       Run and reported, but never scored:\n  pending (2):\n    - polling [server]\n    - auth/x [client]\n";
        let expected = [("ping", true), ("tools-list", true), ("polling", false)];
        assert_eq!(
            server_scenarios(printed),
            expected.map(|(name, scored)| (name.to_owned(), scored))
        );
    }

    #[test]
    fn scenario_without_result_or_check_fails() {
        assert!(Scenario::new("a", true, Some(&[check("SUCCESS"), check("INFO")])).holds());
        assert!(!Scenario::new("a", true, None).holds());
        assert!(!Scenario::new("a", true, Some(&[check("INFO")])).holds());
        assert!(!Scenario::new("a", true, Some(&[check("SUCCESS"), check("FAILURE")])).holds());
    }

    /// The score leaves out what does not count and the verdict does not.
    #[test]
    fn score_skips_uncounted_checks_and_verdict_does_not() {
        let good = |name, scored| Scenario::new(name, scored, Some(&[check("SUCCESS")]));
        let mut report = SuiteReport {
            scenarios: vec![good("a", true), good("b", true), good("c", false)],
        };
        assert!(report.holds() && report.to_string().ends_with("\nscored 2/2"));
        report.scenarios[2] = Scenario::new("c", false, Some(&[check("FAILURE")]));
        assert!(!report.holds());
        report.scenarios[0] = Scenario::new("a", true, None);
        assert_eq!(report.score(), (1, 2));
        assert!(report.to_string().contains("some-check: It answers"), "{report}");
    }

    #[test]
    fn scenario_name_is_read_from_folder_name() {
        assert_eq!(
            scenario("server-server-sse-polling-2026-11-23T09-06-04-204Z"),
            Some("server-sse-polling")
        );
        assert_eq!(scenario("client-ping-2026-11-23T09-06-04-204Z"), None);
        assert_eq!(scenario("server-x"), None);
    }
}
