//! A member of a group, and whether it can be used.

use std::fmt;
use std::sync::Arc;

use kube::ResourceExt as _;
use vmcp_crds::condition::find;
use vmcp_crds::config::rules;
use vmcp_crds::config::{AggregationConfig, BackendConfig, Timeouts};
use vmcp_crds::v1alpha1::{MCPServer, MCPServerEntry, SecretFile, condition_type, field_rules};

/// A member of a group.
#[derive(Clone, Debug)]
pub enum Member {
    /// A server that exists already.
    Entry(Arc<MCPServerEntry>),
    /// A server that the operator runs.
    Server(Arc<MCPServer>),
}

impl Member {
    /// Its name, which is that of the backend.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Entry(entry) => entry.name_any(),
            Self::Server(server) => server.name_any(),
        }
    }

    /// The backend that it describes. `timeouts` are the time limits that it does not set.
    #[must_use]
    pub fn to_backend(&self, timeouts: &Timeouts) -> Backend {
        match self {
            Self::Entry(entry) => Backend::new(entry, timeouts),
            Self::Server(server) => Backend::of_server(server, timeouts),
        }
    }
}

/// The kind of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemberKind {
    /// An MCPServerEntry.
    #[default]
    Entry,
    /// An MCPServer.
    Server,
}

impl fmt::Display for MemberKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Entry => "MCPServerEntry",
            Self::Server => "MCPServer",
        })
    }
}

/// One MCP server of the group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// The kind of the member that describes it.
    pub kind: MemberKind,
    /// Its configuration for the gateway.
    pub config: BackendConfig,
    /// The files that its configuration names.
    pub secret_files: Vec<SecretFile>,
    /// Why this backend cannot be used because of its spec; `None` if it can. The CRD's schema rejects most such entries, but cannot
    /// express every rule.
    pub problem: Option<String>,
    /// Why this backend cannot be used because of a value that its spec refers to.
    pub secret_problem: Option<SecretProblem>,
    /// Why this backend cannot be used yet: the operator runs it, and no pod has been ready. Its files are mounted already.
    pub not_running: Option<String>,
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
            ..Self::default()
        }
    }

    /// The backend that the operator runs for `server`. `timeouts` are the time limits that the server does not set.
    #[must_use]
    pub fn of_server(server: &MCPServer, timeouts: &Timeouts) -> Self {
        Self {
            kind: MemberKind::Server,
            config: server.to_config(timeouts),
            secret_files: server.secret_files(),
            problem: server.check_references().err(),
            not_running: not_running(server),
            ..Self::default()
        }
    }

    /// Checks the members of a group, whose catalogs are merged by `aggregation`. With `strategy: manual`, of two backends that are given
    /// the same name for an item, the first can be used.
    #[must_use]
    pub fn check_all(mut backends: Vec<Self>, aggregation: &AggregationConfig) -> Vec<Self> {
        for backend in &mut backends {
            let problem = backend.problem.take();
            backend.problem = problem.or_else(|| spec_problem(backend, aggregation));
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
        let problem = self.problem.as_deref().or(message);
        problem.or(self.not_running.as_deref())
    }
}

/// Why gateways cannot use `server` yet. Once a pod has been ready, they use it, also while no pod is ready: what it offers stays listed.
fn not_running(server: &MCPServer) -> Option<String> {
    let status = server.status.as_ref();
    if server.spec.replicas == Some(0) {
        return Some("spec.replicas is 0: no pod runs".to_owned());
    }
    if status.is_some_and(|status| status.url.is_some()) {
        return None;
    }
    let ready = status.and_then(|status| find(&status.conditions, condition_type::READY));
    // The condition says more, but a copy of a changing text would change the status of the virtual servers each time.
    let reason = ready.map_or_else(String::new, |ready| format!(" ({})", ready.reason));
    Some(format!("no pod has been ready yet{reason}"))
}

fn spec_problem(backend: &Backend, aggregation: &AggregationConfig) -> Option<String> {
    let config = &backend.config;
    if config.url.len() > field_rules::MAX_URL {
        return Some(format!("spec.url has more than {} bytes", field_rules::MAX_URL));
    }
    config.check(aggregation).err().map(|(field, problem)| {
        let parent = if field == "name" { "metadata" } else { "spec" };
        // A server has its filters for resources elsewhere.
        let field = match field.strip_prefix("resources.") {
            Some(rest) if backend.kind == MemberKind::Server => format!("resourceFilters.{rest}").into(),
            _ => field,
        };
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
