//! Applies and deletes children whose kind a cluster may not have.

use serde::Serialize;

use super::Reconciler;
use crate::api_server::{NamespacedObject, ObjectName};
use crate::desired::names;
use crate::error::Error;
use crate::owner;
use crate::server_state::ServerState;

/// What became of a child whose kind the cluster may not have.
#[derive(Clone, Debug)]
pub enum OptionalChild<K> {
    /// The spec has none, and none of this virtual server exists.
    NotWanted,
    /// The cluster does not have the kind.
    KindMissing,
    /// It could not be applied or deleted: the API server rejects that, or does not work, or an object of that name belongs to another owner;
    /// with the reason of the condition and its message.
    Failed(&'static str, String),
    /// It exists as wanted.
    Applied(K),
}

impl Reconciler<'_> {
    /// Applies `wanted` or, if it is `None` and the status says that one `may_exist`, deletes it. A failure does not stop the reconcile: the
    /// endpoint is served without this child. `None` if nothing is known yet: another installation applies it, or the first attempt has failed.
    pub(super) async fn reconcile_optional<K>(
        &self,
        state: &mut ServerState,
        wanted: Option<&K>,
        may_exist: bool,
    ) -> Option<OptionalChild<K>>
    where
        K: NamespacedObject + Serialize + 'static,
    {
        let result = match wanted {
            Some(wanted) => self.apply_optional(state, wanted).await,
            None if may_exist => self.delete_optional().await,
            None => Ok(Some(OptionalChild::NotWanted)),
        };
        let kind = K::kind(&());
        let failure = match result {
            Ok(child) => {
                state.optional_failures.remove(&*kind);
                return child;
            }
            Err(error) if error.is_rejection() => OptionalChild::Failed("ApplyRefused", error.to_string()),
            Err(error) if error.is_not_owned() => OptionalChild::Failed("ChildNotOwned", error.to_string()),
            Err(error) => {
                let failures = state.optional_failures.entry(kind.into_owned()).or_default();
                *failures = failures.saturating_add(1);
                return (*failures > 1).then(|| OptionalChild::Failed("ApplyFailed", error.to_string()));
            }
        };
        state.optional_failures.remove(&*kind);
        Some(failure)
    }

    async fn apply_optional<K>(
        &self,
        state: &mut ServerState,
        wanted: &K,
    ) -> Result<Option<OptionalChild<K>>, Error>
    where
        K: NamespacedObject + Serialize + 'static,
    {
        let wanted = self.marked(wanted);
        let live = match self.optional::<K>().await {
            Err(error) if error.is_not_found() => return Ok(Some(OptionalChild::KindMissing)),
            live => live?,
        };
        if self.yields_to_other_installation(state, live.as_ref()) {
            return Ok(None);
        }
        match self.write_child(state, &wanted, live.as_ref()).await {
            // A server-side apply creates the object, so it is the kind that is not found: it was removed since the read.
            Err(error) if error.is_not_found() => Ok(Some(OptionalChild::KindMissing)),
            // Without a live object it was applied.
            applied => Ok(applied?.or(live).map(OptionalChild::Applied)),
        }
    }

    async fn delete_optional<K: NamespacedObject>(&self) -> Result<Option<OptionalChild<K>>, Error> {
        let deleted = match self.optional::<K>().await {
            Ok(Some(child)) if owner::is_controlled_by(&child, self.server) => self.delete(&child).await,
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        };
        deleted.map(|()| Some(OptionalChild::NotWanted))
    }

    /// The object of this kind that has the name of the workload. An error that it is not found means that the kind is missing: for a missing
    /// object there is no error.
    async fn optional<K: NamespacedObject>(&self) -> Result<Option<K>, Error> {
        let name = ObjectName::parse(&names::workload(self.server))?;
        self.objects::<K>()?.get(&name).await
    }
}
