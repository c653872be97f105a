//! What the operator remembers of a virtual server between two looks at it. All of it can be lost: it saves requests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::apps::v1::Deployment;
use kube::runtime::reflector::ObjectRef;
use vmcp_crds::v1alpha1::{VirtualMCPServer, VirtualMCPServerStatus};

use crate::apply::Applied;
use crate::reminder::Reminders;

/// What is remembered of one virtual server.
#[derive(Debug, Default)]
pub struct Memory {
    /// What was applied last.
    pub applied: Applied,
    /// The Deployment that the last apply returned. The watch may still show the one before it.
    pub deployment: Option<Deployment>,
    /// The status that was written last, and the resource version that it made.
    pub written: Option<(String, VirtualMCPServerStatus)>,
    /// Which pods were told of which configuration.
    pub reminders: Reminders,
}

/// The memories of all virtual servers.
#[derive(Debug, Default)]
pub struct Memories(Mutex<HashMap<ObjectRef<VirtualMCPServer>, Arc<tokio::sync::Mutex<Memory>>>>);

impl Memories {
    /// The memory of one virtual server. The controller never looks at one server twice at once, so nobody waits for it.
    #[must_use]
    pub fn of(&self, server: &ObjectRef<VirtualMCPServer>) -> Arc<tokio::sync::Mutex<Memory>> {
        let mut memories = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        memories.entry(server.clone()).or_default().clone()
    }

    /// Forgets a virtual server that is gone.
    pub fn forget(&self, server: &ObjectRef<VirtualMCPServer>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(server);
    }
}

/// Whether resource version `a` is later than `b`. They are numbers that grow, which Kubernetes promises since 1.35 and
/// has kept always.
#[must_use]
pub fn is_later(a: Option<&str>, b: Option<&str>) -> bool {
    let number = |version: Option<&str>| version.and_then(|text| text.parse::<u128>().ok());
    number(a) > number(b)
}
