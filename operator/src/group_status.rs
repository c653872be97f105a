//! The status of groups: their members, and which of them are left out.
//!
//! A group has no objects of its own, so there is no reconcile of a group: when a custom resource of a namespace changes, the status of
//! all its groups is derived again, and written where it differs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use vmcp_crds::condition::{ConditionUpdate, merge};
use vmcp_crds::config::{AggregationConfig, Timeouts};
use vmcp_crds::v1alpha1::field_rules::one_line;
use vmcp_crds::v1alpha1::{
    MAX_MEMBERS, MCPGroup, MCPGroupStatus, MCPServer, MCPServerEntry, ObservedBackendState, ObservedMember,
    VirtualMCPServer, condition_type,
};

use crate::api_server::{ObjectApi, ObjectName};
use crate::apply::FIELD_MANAGER;
use crate::changed_namespaces::ChangedNamespaces;
use crate::desired::{Backend, Member};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::resolve;
use crate::server_state::is_later;
use crate::watch::ReflectorStores;

/// Changes within this time are handled at once.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Delay before a failed write is tried again.
const RETRY_DELAY: Duration = Duration::from_secs(2);
/// Maximum number of characters of a problem in the status.
const MAX_PROBLEM_CHARS: usize = 256;
/// Maximum number of members that a message names.
const MAX_NAMED_MEMBERS: usize = 3;

/// Writes the status of the groups in one scope.
pub struct GroupStatusWriter {
    /// Client for the API server.
    pub client: Client,
    /// The objects that the watches of this scope have seen.
    pub stores: ReflectorStores,
    /// The metrics of this process.
    pub metrics: Metrics,
}

/// The last written status of each group, with its resource version. The watch may still show an older one.
type WrittenStatuses = HashMap<ObjectRef<MCPGroup>, (String, MCPGroupStatus)>;

impl GroupStatusWriter {
    /// Writes the status of changed groups until `stop` is cancelled.
    pub async fn run(&self, changed: &ChangedNamespaces, stop: &CancellationToken) {
        let mut written = WrittenStatuses::new();
        let write = async {
            if self.stores.ready().await.is_err() {
                return;
            }
            loop {
                let namespaces = changed.take().await;
                tokio::time::sleep(DEBOUNCE).await;
                // What changed during the sleep is seen now.
                let mut failed = false;
                for namespace in &namespaces {
                    if let Err(error) = self.write_namespace(namespace, &mut written).await {
                        tracing::warn!(namespace, %error, "failed to write status of groups");
                        changed.add(namespace.clone());
                        failed = true;
                    }
                }
                if failed {
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = write => {}
        }
    }

    async fn write_namespace(&self, namespace: &str, written: &mut WrittenStatuses) -> Result<(), Error> {
        let groups = self
            .stores
            .groups
            .state_filter(|group| group.metadata.namespace.as_deref() == Some(namespace));
        written.retain(|group, _| {
            group.namespace.as_deref() != Some(namespace) || self.stores.groups.get(group).is_some()
        });
        let health = &self.stores.health;
        // Members that are not known are not missing. They trigger another write when they are.
        if health.refusal::<MCPServerEntry>().is_some()
            || health.refusal::<MCPServer>().is_some()
            || health.refusal::<VirtualMCPServer>().is_some()
        {
            return Ok(());
        }
        let mut result = Ok(());
        for group in groups {
            let servers = self.stores.servers.state_filter(|server| {
                server.metadata.namespace.as_deref() == Some(namespace)
                    && server.spec.group_ref.name == group.name_any()
            });
            let (members, shadowed) = resolve::members(&group, &self.stores);
            let observed = observe(&members, &servers);
            // A group whose status is refused must not keep the others from being written.
            let outcome = self.write_status(&group, (&observed, &shadowed), written).await;
            result = result.and(outcome);
        }
        result
    }

    async fn write_status(
        &self,
        group: &MCPGroup,
        (members, shadowed): (&[ObservedMember], &[String]),
        written: &mut WrittenStatuses,
    ) -> Result<(), Error> {
        let key = ObjectRef::from_obj(group);
        let watched = group.resource_version();
        let old = match written.get(&key) {
            Some((version, status)) if is_later(Some(version), watched.as_deref()) => status.clone(),
            _ => {
                let mut status = group.status.clone().unwrap_or_default();
                // Other conditions belong to other writers.
                status
                    .conditions
                    .retain(|condition| condition.type_ == condition_type::READY);
                status
            }
        };
        let status = derive(group, (members, shadowed), &old, Timestamp::now());
        if status == old {
            return Ok(());
        }
        let body = json!({
            "apiVersion": MCPGroup::api_version(&()),
            "kind": MCPGroup::kind(&()),
            "metadata": {"name": group.name_any(), "uid": group.uid()},
            "status": status,
        });
        let groups =
            ObjectApi::<MCPGroup>::in_namespace(&self.client, &group.namespace().unwrap_or_default())?;
        let name = ObjectName::parse(&group.name_any())?;
        match groups.apply_status(&name, FIELD_MANAGER, &body).await {
            Ok(object) => {
                self.metrics.record_apply("MCPGroup/status");
                written.insert(key, (object.resource_version().unwrap_or_default(), status));
                Ok(())
            }
            Err(gone) if gone.is_conflict() => Ok(()),
            Err(failed) => Err(failed),
        }
    }
}

/// The members, each with the reason for which a virtual server leaves it out: its spec, or a value that the spec refers to, as the status of
/// the virtual server says. Without a virtual server, the rules that do not depend on one are checked.
fn observe(members: &[Member], servers: &[Arc<VirtualMCPServer>]) -> Vec<ObservedMember> {
    let check = |timeouts: &Timeouts, aggregation: &AggregationConfig| {
        let backends = members.iter().map(|member| member.to_backend(timeouts)).collect();
        let backends = Backend::check_all(backends, aggregation);
        backends
            .into_iter()
            .map(|backend| backend.problem)
            .collect::<Vec<_>>()
    };
    let mut servers: Vec<&VirtualMCPServer> = servers.iter().map(AsRef::as_ref).collect();
    servers.sort_by_key(|server| server.name_any());
    let mut problems = vec![None; members.len()];
    if servers.is_empty() {
        problems = check(&Timeouts::default(), &AggregationConfig::default());
    }
    let mut checked: Vec<((&Timeouts, &AggregationConfig), Vec<_>)> = Vec::new();
    for server in servers {
        let settings = (&server.spec.operational.timeouts, &server.spec.hot.aggregation);
        let found = match checked.iter().find(|(of, _)| *of == settings) {
            Some((_, found)) => found.clone(),
            None => {
                let found = check(settings.0, settings.1);
                checked.push((settings, found.clone()));
                found
            }
        };
        for ((problem, found), member) in problems.iter_mut().zip(found).zip(members) {
            let name = server.name_any();
            let found = found.or_else(|| left_out_because(server, &member.name()));
            let of_server = || found.map(|found| format!("left out by VirtualMCPServer {name}: {found}"));
            *problem = problem.take().or_else(of_server);
        }
    }
    let named = members.iter().zip(problems);
    named
        .map(|(member, problem)| ObservedMember {
            name: member.name(),
            problem: problem.map(|problem| one_line(&problem, MAX_PROBLEM_CHARS)),
        })
        .collect()
}

/// Why `server` leaves out the backend `name`, by its status.
fn left_out_because(server: &VirtualMCPServer, name: &str) -> Option<String> {
    let backends = &server.status.as_ref()?.backends;
    let mut left_out = backends
        .iter()
        .filter(|backend| backend.state == ObservedBackendState::LeftOut);
    left_out.find(|backend| backend.name == name)?.message.clone()
}

/// Derives the status of a group from its members, and from the names of the MCPServers that an MCPServerEntry of the same name replaces. The
/// transition time of an unchanged condition comes from `old`.
#[must_use]
pub fn derive(
    group: &MCPGroup,
    (members, shadowed): (&[ObservedMember], &[String]),
    old: &MCPGroupStatus,
    now: Timestamp,
) -> MCPGroupStatus {
    let generation = group.metadata.generation;
    let mut listed = members.to_vec();
    if listed.len() > MAX_MEMBERS {
        listed.sort_by_key(|member| member.problem.is_none());
        listed.truncate(MAX_MEMBERS);
    }
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    MCPGroupStatus {
        observed_generation: generation,
        conditions: merge(
            &old.conditions,
            &[ready(group, members, shadowed)],
            generation,
            now,
        ),
        member_count: Some(i32::try_from(members.len()).unwrap_or(i32::MAX)),
        members: listed,
    }
}

fn ready(group: &MCPGroup, members: &[ObservedMember], shadowed: &[String]) -> ConditionUpdate {
    let left_out: Vec<&str> = members
        .iter()
        .filter(|member| member.problem.is_some())
        .map(|member| member.name.as_str())
        .collect();
    let (status, reason, message) = if members.is_empty() {
        let by_label = if group.spec.selector.is_some() {
            ", and none has the labels in spec.selector"
        } else {
            ""
        };
        let message = format!(
            "no MCPServer or MCPServerEntry of this namespace has `groupRef: {{name: {}}}`{by_label}",
            group.name_any()
        );
        (false, "NoMembers", message)
    } else if left_out.len() == members.len() {
        (
            false,
            "NoUsableMember",
            format!("all members are left out: {}", named(&left_out)),
        )
    } else if left_out.is_empty() {
        (true, "MembersFound", format!("members: {}", members.len()))
    } else {
        let message = format!(
            "members: {}, left out: {} ({})",
            members.len(),
            left_out.len(),
            named(&left_out)
        );
        (true, "MembersFound", message)
    };
    let message = if shadowed.is_empty() {
        message
    } else {
        let names: Vec<&str> = shadowed.iter().map(String::as_str).collect();
        format!(
            "{message}; MCPServers without effect, because an MCPServerEntry of the group has the same name: {}",
            named(&names)
        )
    };
    ConditionUpdate {
        type_: condition_type::READY,
        status: Some(status),
        reason,
        message,
    }
}

fn named(members: &[&str]) -> String {
    let more = if members.len() > MAX_NAMED_MEMBERS {
        ", ..."
    } else {
        ""
    };
    let first: Vec<&str> = members.iter().take(MAX_NAMED_MEMBERS).copied().collect();
    format!("{}{more}", first.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use super::*;

    fn group(spec: &Json) -> MCPGroup {
        serde_json::from_value(json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPGroup", "metadata": {"name": "tools", "generation": 2}, "spec": spec,
        }))
        .unwrap()
    }

    fn entry(name: &str, spec: &Json) -> Member {
        let mut spec = spec.clone();
        spec["url"] = json!("http://time");
        let entry = json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPServerEntry", "metadata": {"name": name}, "spec": spec,
        });
        Member::Entry(Arc::new(serde_json::from_value(entry).unwrap()))
    }

    fn server(name: &str, strategy: &str) -> Arc<VirtualMCPServer> {
        let server = json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "VirtualMCPServer", "metadata": {"name": name},
            "spec": {"groupRef": {"name": "tools"}, "aggregation": {"strategy": strategy}},
        });
        Arc::new(serde_json::from_value(server).unwrap())
    }

    fn member(name: &str, problem: Option<&str>) -> ObservedMember {
        ObservedMember {
            name: name.to_owned(),
            problem: problem.map(str::to_owned),
        }
    }

    // A member that one of two virtual servers leaves out is listed with that server's name and the field.
    #[test]
    fn problem_names_server_and_field() {
        let members = [entry("good", &json!({})), entry("odd", &json!({"prefix": "x_"}))];
        let servers = [server("b", "none"), server("a", "prefix")];
        let observed = observe(&members, &servers);
        assert_eq!(observed[0], member("good", None));
        let problem = observed[1].problem.as_deref().unwrap();
        assert!(
            problem.starts_with("left out by VirtualMCPServer b: spec.prefix: "),
            "{problem}"
        );
        assert_eq!(observe(&members, &servers[1..])[1], member("odd", None));
        assert_eq!(observe(&members, &[])[1], member("odd", None));
    }

    // A member whose Secret is missing is left out, too. One that does not answer is not.
    #[test]
    fn missing_secret_is_a_problem_of_the_member() {
        let members = [entry("weather", &json!({})), entry("time", &json!({}))];
        let mut with_status = VirtualMCPServer::clone(&server("a", "prefix"));
        let backend = |name: &str, state: &str, message: &str| json!({"name": name, "url": "u", "state": state, "message": message});
        with_status.status = serde_json::from_value(json!({"backends": [
            backend("time", "Failing", "it refused the connection"),
            backend("weather", "LeftOut", "spec.headers.X.secretKeyRef names Secret s, which does not exist"),
        ]}))
        .unwrap();
        let observed = observe(&members, &[Arc::new(with_status)]);
        assert_eq!(
            observed,
            [
                member(
                    "weather",
                    Some(
                        "left out by VirtualMCPServer a: spec.headers.X.secretKeyRef names Secret s, which does not exist"
                    )
                ),
                member("time", None)
            ]
        );
    }

    #[test]
    fn condition_counts_members_and_names_left_out() {
        let ready = |spec: Json, members: &[ObservedMember]| {
            let status = derive(
                &group(&spec),
                (members, &[]),
                &MCPGroupStatus::default(),
                Timestamp::UNIX_EPOCH,
            );
            assert_eq!(status.observed_generation, Some(2));
            let condition = status.conditions[0].clone();
            (condition.status, condition.reason, condition.message)
        };
        let (status, reason, message) = ready(json!({}), &[]);
        assert_eq!((status.as_str(), reason.as_str()), ("False", "NoMembers"));
        assert!(
            message.contains("groupRef: {name: tools}") && !message.contains("selector"),
            "{message}"
        );
        let (.., message) = ready(json!({"selector": {}}), &[]);
        assert!(message.contains("spec.selector"), "{message}");
        let (status, reason, message) = ready(json!({}), &[member("a", None), member("b", Some("x"))]);
        assert_eq!((status.as_str(), reason.as_str()), ("True", "MembersFound"));
        assert_eq!(message, "members: 2, left out: 1 (b)");
        let (status, reason, _) = ready(json!({}), &[member("b", Some("x"))]);
        assert_eq!((status.as_str(), reason.as_str()), ("False", "NoUsableMember"));
    }

    // The list is bounded, keeps those that are left out, and the count covers all.
    #[test]
    fn members_are_bounded_and_left_out_ones_kept() {
        let mut members: Vec<ObservedMember> = (0..150)
            .map(|number| member(&format!("m{number:03}"), None))
            .collect();
        members[149].problem = Some("x".to_owned());
        let status = derive(
            &group(&json!({})),
            (&members, &[]),
            &MCPGroupStatus::default(),
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(status.members.len(), MAX_MEMBERS);
        assert_eq!(status.members.last().unwrap().name, "m149");
        assert_eq!(status.member_count, Some(150));
    }
}
