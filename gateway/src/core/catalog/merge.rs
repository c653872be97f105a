//! Many backends' offers as one.
//!
//! An advertised name is a pure function of the backend's name and the tool's name there, never of who else is in the group, so
//! that adding a backend renames nothing. Tools are sorted by their advertised names: the list is the same from every replica.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use serde_json::value::RawValue;

use super::member::Member;
use crate::backend::{Backend, Listed};
use crate::wire::jsonrpc::Named;
use crate::wire::splice::splice;

/// Stands between the backend's name and the tool's. Names of backends are DNS labels, which never hold it, so that the first
/// one in an advertised name is always this one.
pub(super) const SEPARATOR: char = '_';

/// The longest name that may be advertised (specification, server/tools).
const MAX_NAME_BYTES: usize = 128;

/// What is offered at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The tools, sorted by their advertised names.
    pub tools: Vec<Tool>,
    /// The result of `tools/list`.
    pub tools_list: Bytes,
    /// Backends whose tools are not known yet.
    pub unknown: Vec<Backend>,
    /// What backends offer and clients are not, with the reason: a sentence each.
    pub conflicts: Vec<String>,
    by_name: HashMap<Arc<str>, usize>,
}

/// A tool that is offered.
#[derive(Clone, Debug)]
pub struct Tool {
    /// The name that clients see.
    pub advertised: Arc<str>,
    /// The backend that has it.
    pub backend: Backend,
    /// Its name there.
    pub name: Arc<str>,
    json: Bytes,
}

impl Snapshot {
    /// The tool that is offered as `advertised`.
    #[must_use]
    pub fn tool(&self, advertised: &str) -> Option<&Tool> {
        self.by_name
            .get(advertised)
            .and_then(|index| self.tools.get(*index))
    }
}

pub(super) fn merge<'a>(members: impl Iterator<Item = &'a Member>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for member in members {
        match &member.state().tools {
            None => snapshot.unknown.push(member.backend.clone()),
            Some(tools) => {
                for tool in tools.iter() {
                    match advertise(&member.backend, tool) {
                        Ok(tool) => snapshot.tools.push(tool),
                        Err(conflict) => snapshot.conflicts.push(conflict),
                    }
                }
            }
        }
    }
    snapshot.tools.sort_by(|a, b| a.advertised.cmp(&b.advertised));
    let conflicts = &mut snapshot.conflicts;
    snapshot.tools.dedup_by(|later, kept| {
        let same = later.advertised == kept.advertised;
        if same {
            conflicts.push(format!(
                "backend {} lists the tool {:?} twice",
                kept.backend.name(),
                kept.name
            ));
        }
        same
    });
    snapshot.by_name = snapshot
        .tools
        .iter()
        .enumerate()
        .map(|(index, tool)| (Arc::clone(&tool.advertised), index))
        .collect();
    snapshot.tools_list = tools_list(&snapshot.tools);
    snapshot
}

fn advertise(backend: &Backend, listed: &Listed) -> Result<Tool, String> {
    let advertised = format!("{}{SEPARATOR}{}", backend.name(), listed.name);
    let refuse = |reason: &str| {
        Err(format!(
            "the tool {:?} of backend {} is not offered: {reason}",
            listed.name,
            backend.name()
        ))
    };
    if advertised.len() > MAX_NAME_BYTES {
        return refuse("with its prefix the name is longer than 128 characters");
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_./-".contains(&byte);
    if !advertised.bytes().all(allowed) {
        return refuse("its name has characters outside A-Z a-z 0-9 _ . / -");
    }
    let Some(json) = renamed(listed, &advertised) else {
        return refuse("its name cannot be found in its description");
    };
    Ok(Tool {
        advertised: advertised.into(),
        backend: backend.clone(),
        name: listed.name.as_str().into(),
        json,
    })
}

/// The tool's description with the advertised name, and everything else as the backend wrote it.
fn renamed(listed: &Listed, advertised: &str) -> Option<Bytes> {
    let item: &RawValue = serde_json::from_slice(&listed.json).ok()?;
    let (name, _) = Named::parse(Some(item)).ok()?;
    splice(&listed.json, name.get(), format!("\"{advertised}\"").as_bytes())
}

fn tools_list(tools: &[Tool]) -> Bytes {
    let size: usize = tools.iter().map(|tool| tool.json.len() + 1).sum();
    let mut list = BytesMut::with_capacity(size + 16);
    list.put_slice(br#"{"tools":["#);
    for (index, tool) in tools.iter().enumerate() {
        if index > 0 {
            list.put_u8(b',');
        }
        list.put_slice(&tool.json);
    }
    list.put_slice(b"]}");
    list.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{BackendError, Transport};
    use crate::config::BackendName;

    fn member(name: &str, tools: &[&str]) -> Member {
        let name = BackendName::for_test(name);
        let member = Member::new(Backend::new(
            name,
            "http://localhost/mcp".parse().unwrap(),
            Transport::new(),
        ));
        let listed = |json: &&str| {
            let raw: &RawValue = serde_json::from_str(json).unwrap();
            let name = Named::parse(Some(raw)).unwrap().1.into_owned();
            Listed {
                name,
                json: Bytes::copy_from_slice(json.as_bytes()),
            }
        };
        member.observe(Ok(tools.iter().map(listed).collect()));
        member
    }

    #[tokio::test]
    async fn a_tool_keeps_every_byte_but_its_name() {
        let member = member(
            "time",
            &[r#"{"x-vendor": 1.0, "name" :"now", "inputSchema":{"$defs":{}}}"#],
        );
        let snapshot = merge([&member].into_iter());
        assert_eq!(
            snapshot.tools_list,
            r#"{"tools":[{"x-vendor": 1.0, "name" :"time_now", "inputSchema":{"$defs":{}}}]}"#
        );
        assert_eq!(&*snapshot.tool("time_now").unwrap().name, "now");
    }

    #[tokio::test]
    async fn tools_are_sorted_whatever_the_order_of_the_backends() {
        let (a, b) = (
            member("a", &[r#"{"name":"z"}"#, r#"{"name":"y"}"#]),
            member("b", &[r#"{"name":"x"}"#]),
        );
        let one = merge([&a, &b].into_iter());
        let other = merge([&b, &a].into_iter());
        assert_eq!(one.tools_list, other.tools_list);
        let names: Vec<_> = one.tools.iter().map(|tool| &*tool.advertised).collect();
        assert_eq!(names, ["a_y", "a_z", "b_x"]);
    }

    #[tokio::test]
    async fn a_name_that_may_not_be_advertised_is_reported_and_left_out() {
        let long = format!(r#"{{"name":"{}"}}"#, "x".repeat(127));
        let member = member(
            "a",
            &[
                r#"{"name":"white space"}"#,
                &long,
                r#"{"name":"ok"}"#,
                r#"{"name":"ok"}"#,
            ],
        );
        let snapshot = merge([&member].into_iter());
        assert_eq!(snapshot.tools.len(), 1);
        assert_eq!(snapshot.conflicts.len(), 3, "{:?}", snapshot.conflicts);
    }

    #[tokio::test]
    async fn a_backend_that_has_not_answered_yet_is_unknown_and_one_that_failed_keeps_its_tools() {
        let silent = Member::new(Backend::new(
            BackendName::for_test("b"),
            "http://localhost/mcp".parse().unwrap(),
            Transport::new(),
        ));
        let failing = member("a", &[r#"{"name":"x"}"#]);
        failing.observe(Err(BackendError::Status(500)));
        let snapshot = merge([&silent, &failing].into_iter());
        assert_eq!(snapshot.unknown.len(), 1);
        assert!(snapshot.tool("a_x").is_some());
    }
}
