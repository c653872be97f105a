//! A process's view of a session.

use std::collections::BTreeMap;
use std::time::Duration;

use vmcp_gateway::mcp::revision::Revision;
use vmcp_gateway::session::record::bindings::Bindings;
use vmcp_gateway::session::record::{NewRecord, PrincipalTag, Record};
use vmcp_gateway::session::store::SessionLife;

/// Names a principal: each byte of its tag.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Principal(pub(crate) u8);

/// The parts of a record that can change, its principal and its life.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Held {
    pub(crate) principal: Principal,
    pub(crate) life: SessionLife,
    pub(crate) version: u64,
    pub(crate) level: Option<String>,
    pub(crate) watched: BTreeMap<String, String>,
    pub(crate) bindings: Bindings,
}

impl Held {
    pub(crate) fn new(principal: Principal, life: SessionLife) -> Self {
        Self {
            principal,
            life,
            version: 1,
            level: None,
            watched: BTreeMap::new(),
            bindings: Bindings::default(),
        }
    }

    /// Restores what `known` has and this record has lost.
    pub(crate) fn write_what_is_lost(&mut self, known: &Self) {
        let behind = self.version < known.version;
        let mut is_changed = behind;
        for (backend, binding) in known.bindings.iter() {
            let there = self.bindings.get(backend).map_or(0, |bound| bound.generation);
            if there < binding.generation {
                self.bindings.insert(backend, binding.clone());
                is_changed = true;
            }
        }
        if behind {
            (self.level, self.watched) = (known.level.clone(), known.watched.clone());
            self.version = known.version;
        }
        self.version += u64::from(is_changed);
    }

    pub(crate) fn record(&self) -> Record {
        let new = new_record(self.principal);
        Record {
            principal_tag: new.principal_tag,
            revision: new.revision,
            capabilities: new.capabilities,
            client_info: new.client_info,
            life: self.life,
            version: self.version,
            untouched: Duration::ZERO,
            left: Duration::ZERO,
            remaining: Duration::ZERO,
            log_level: self.level.clone(),
            subscriptions: self.watched.clone(),
            bindings: self.bindings.clone(),
        }
    }
}

pub(crate) fn new_record(principal: Principal) -> NewRecord {
    NewRecord {
        principal_tag: PrincipalTag([principal.0; 16]),
        other_tags: Vec::new(),
        revision: Revision::V2025_06_18,
        capabilities: r#"{"roots":{}}"#.into(),
        client_info: r#"{"name":"model"}"#.into(),
    }
}

pub(crate) fn held(record: Record) -> Held {
    let principal = Principal(record.principal_tag.0[0]);
    let created = NewRecord {
        principal_tag: record.principal_tag,
        other_tags: Vec::new(),
        revision: record.revision,
        capabilities: record.capabilities,
        client_info: record.client_info,
    };
    assert_eq!(
        created,
        new_record(principal),
        "what a session began with never changes"
    );
    Held {
        principal,
        life: record.life,
        version: record.version,
        level: record.log_level,
        watched: record.subscriptions,
        bindings: record.bindings,
    }
}
