//! Waits for what the operator does.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::events::v1::Event;
use kube::Resource;
use kube::api::ListParams;
use serde::de::DeserializeOwned;
use vmcp_crds::v1alpha1::VirtualMCPServer;

use super::Harness;

/// Time limit of every wait, also on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

impl Harness {
    /// Waits until the object `name` exists and `expect` returns a value for it.
    pub(crate) async fn wait_for<K, T>(&self, what: &str, name: &str, expect: impl Fn(&K) -> Option<T>) -> T
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let api = self.api::<K>();
        eventually(what, async || {
            api.get_opt(name).await.unwrap().as_ref().and_then(&expect)
        })
        .await
    }

    /// Waits until the object `name` exists.
    pub(crate) async fn wait_for_object<K>(&self, name: &str) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.wait_for(&format!("{} {name} exists", K::kind(&())), name, |object: &K| {
            Some(object.clone())
        })
        .await
    }

    /// Waits until there is an Event of this type with this reason.
    pub(crate) async fn wait_for_event(&self, type_: &str, reason: &str) {
        let events = self.api::<Event>();
        eventually(&format!("there is an Event {type_} {reason}"), async || {
            let list = events.list(&ListParams::default()).await.unwrap();
            let is_wanted = |event: &Event| {
                (event.type_.as_deref(), event.reason.as_deref()) == (Some(type_), Some(reason))
            };
            list.iter().any(is_wanted).then_some(())
        })
        .await;
    }

    /// Waits until a condition of the virtual server `x` has this status and reason.
    pub(crate) async fn wait_for_condition(&self, type_: &str, expected: &str, reason: &str) {
        self.wait_for(
            &format!("{type_} is {expected}: {reason}"),
            "x",
            |server: &VirtualMCPServer| {
                let status = server.status.as_ref()?;
                let condition = vmcp_crds::condition::find(&status.conditions, type_)?;
                (condition.status == expected && condition.reason == reason).then_some(())
            },
        )
        .await;
    }

    /// Waits until the virtual server `x` has each of these conditions, given as type, status and reason.
    pub(crate) async fn wait_for_conditions(&self, expected: &[(&str, &str, &str)]) {
        for (type_, status, reason) in expected {
            self.wait_for_condition(type_, status, reason).await;
        }
    }

    /// Waits until the message of a condition of the virtual server `x` contains `words`, and returns the condition's reason.
    pub(crate) async fn wait_for_words(&self, type_: &str, words: &str) -> String {
        self.wait_for(
            &format!("{type_} says {words:?}"),
            "x",
            |server: &VirtualMCPServer| {
                let status = server.status.as_ref()?;
                let condition = vmcp_crds::condition::find(&status.conditions, type_)?;
                condition
                    .message
                    .contains(words)
                    .then(|| condition.reason.clone())
            },
        )
        .await
    }

    /// Waits until a condition of the virtual server `x` has this status, with any reason.
    pub(crate) async fn wait_for_status(&self, type_: &str, expected: &str) {
        self.wait_for(
            &format!("{type_} is {expected}"),
            "x",
            |server: &VirtualMCPServer| {
                let status = server.status.as_ref()?;
                let condition = vmcp_crds::condition::find(&status.conditions, type_)?;
                (condition.status == expected).then_some(())
            },
        )
        .await;
    }
}

/// Whether the operator says that a virtual server is not ready.
pub(crate) fn is_not_ready(server: &VirtualMCPServer) -> bool {
    let conditions = server.status.as_ref().map(|status| &status.conditions);
    let ready = conditions.and_then(|conditions| vmcp_crds::condition::find(conditions, "Ready"));
    ready.is_some_and(|ready| ready.status == "False")
}

/// Polls until `found` returns a value.
pub(crate) async fn eventually<T>(what: &str, mut found: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        if let Some(value) = found().await {
            return value;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "not within {DEADLINE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
