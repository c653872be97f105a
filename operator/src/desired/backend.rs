//! A member of a group, and whether it can be used.

use vmcp_crds::config::rules;
use vmcp_crds::config::{AggregationConfig, BackendConfig, Timeouts};
use vmcp_crds::v1alpha1::{MCPServerEntry, SecretFile, field_rules};

/// One MCP server of the group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// Its configuration for the gateway.
    pub config: BackendConfig,
    /// The files that its configuration names.
    pub secret_files: Vec<SecretFile>,
    /// Why this backend cannot be used because of its spec; `None` if it can. The CRD's schema rejects most such entries, but cannot
    /// express every rule.
    pub problem: Option<String>,
    /// Why this backend cannot be used because of a value that its spec refers to.
    pub secret_problem: Option<SecretProblem>,
}

/// Why a value that a spec refers to cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretProblem {
    /// The reason of the condition, in CamelCase.
    pub reason: &'static str,
    /// Names the field, the object and the key.
    pub message: String,
}

impl Backend {
    /// The backend that `entry` describes. `timeouts` are the time limits that the entry does not set.
    #[must_use]
    pub fn new(entry: &MCPServerEntry, timeouts: &Timeouts) -> Self {
        Self {
            config: entry.to_config(timeouts),
            secret_files: entry.secret_files(),
            problem: entry.check_references().err(),
            secret_problem: None,
        }
    }

    /// Checks the members of a group, whose catalogs are merged by `aggregation`. With `strategy: manual`, of two backends that are given
    /// the same name for an item, the first can be used.
    #[must_use]
    pub fn check_all(mut backends: Vec<Self>, aggregation: &AggregationConfig) -> Vec<Self> {
        for backend in &mut backends {
            let problem = backend.problem.take();
            backend.problem = problem.or_else(|| spec_problem(&backend.config, aggregation));
        }
        while let Some((name, problem)) = first_duplicate(&backends, aggregation) {
            for backend in &mut backends {
                if backend.config.name == name {
                    backend.problem = Some(problem.clone());
                }
            }
        }
        backends
    }

    /// Its configuration, if the backend can be used.
    #[must_use]
    pub fn usable_config(&self) -> Option<&BackendConfig> {
        self.left_out_because().is_none().then_some(&self.config)
    }

    /// Why the backend cannot be used; `None` if it can.
    #[must_use]
    pub fn left_out_because(&self) -> Option<&str> {
        let secret_problem = self.secret_problem.as_ref();
        let message = secret_problem.map(|problem| problem.message.as_str());
        self.problem.as_deref().or(message)
    }
}

fn spec_problem(config: &BackendConfig, aggregation: &AggregationConfig) -> Option<String> {
    if config.url.len() > field_rules::MAX_URL {
        return Some(format!("spec.url has more than {} bytes", field_rules::MAX_URL));
    }
    config.check(aggregation).err().map(|(field, problem)| {
        let parent = if field == "name" { "metadata" } else { "spec" };
        format!("{parent}.{field}: {problem}")
    })
}

/// The name of a backend that cannot be used because another one gives the same name to an item, and the problem. A missing Secret does not
/// matter: names must not depend on it.
fn first_duplicate(backends: &[Backend], aggregation: &AggregationConfig) -> Option<(String, String)> {
    let valid: Vec<&BackendConfig> = backends
        .iter()
        .filter(|backend| backend.problem.is_none())
        .map(|backend| &backend.config)
        .collect();
    let (index, (field, problem)) = rules::check_unique_names(aggregation, &valid).err()?;
    Some((valid.get(index)?.name.clone(), format!("spec.{field}: {problem}")))
}
