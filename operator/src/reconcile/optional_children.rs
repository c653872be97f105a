//! Applies and deletes children whose kind a cluster may not have.

use serde::Serialize;

use super::Reconciler;
use crate::api_server::{NamespacedObject, ObjectName};
use crate::apply::apply;
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
    /// The API server rejects it or its deletion, or an object of that name belongs to another owner; with the reason of the condition and
    /// its message.
    Refused(&'static str, String),
    /// It exists as wanted.
    Applied(K),
}

impl Reconciler<'_> {
    /// Applies `wanted` or, if it is `None` and the status says that one `may_exist`, deletes it. A failure does not stop the reconcile: the
    /// endpoint is served without this child.
    pub(super) async fn reconcile_optional<K>(
        &self,
        state: &mut ServerState,
        wanted: Option<&K>,
        may_exist: bool,
    ) -> Result<OptionalChild<K>, Error>
    where
        K: NamespacedObject + Serialize + 'static,
    {
        let Some(wanted) = wanted else {
            return if may_exist {
                self.delete_optional().await
            } else {
                Ok(OptionalChild::NotWanted)
            };
        };
        let live = match self.optional::<K>().await {
            Ok(live) => live,
            Err(error) if error.is_not_found() => return Ok(OptionalChild::KindMissing),
            Err(error) if error.is_rejection() => {
                return Ok(OptionalChild::Refused("ApplyRefused", error.to_string()));
            }
            Err(error) => return Err(error),
        };
        match apply(&self.context.client, &mut state.applied, wanted, live.as_ref()).await {
            Ok(applied) => {
                if applied.is_some() {
                    self.context.metrics.record_apply(&K::kind(&()));
                }
                // Without a live object it was applied.
                Ok(applied
                    .or(live)
                    .map_or(OptionalChild::KindMissing, OptionalChild::Applied))
            }
            // A server-side apply creates the object, so it is the kind that is not found: it was removed since the read.
            Err(error) if error.is_not_found() => Ok(OptionalChild::KindMissing),
            Err(error) if error.is_rejection() => {
                Ok(OptionalChild::Refused("ApplyRefused", error.to_string()))
            }
            Err(error) if error.is_not_owned() => {
                Ok(OptionalChild::Refused("ChildNotOwned", error.to_string()))
            }
            Err(error) => Err(error),
        }
    }

    async fn delete_optional<K: NamespacedObject>(&self) -> Result<OptionalChild<K>, Error> {
        let deleted = match self.optional::<K>().await {
            Ok(Some(child)) if owner::is_controlled_by(&child, self.server) => self.delete(&child).await,
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        };
        match deleted {
            Ok(()) => Ok(OptionalChild::NotWanted),
            Err(error) if error.is_rejection() => {
                Ok(OptionalChild::Refused("ApplyRefused", error.to_string()))
            }
            Err(error) => Err(error),
        }
    }

    /// The object of this kind that has the name of the workload. An error that it is not found means that the kind is missing: for a missing
    /// object there is no error.
    async fn optional<K: NamespacedObject>(&self) -> Result<Option<K>, Error> {
        let name = ObjectName::parse(&names::workload(self.server))?;
        self.objects::<K>()?.get(&name).await
    }
}
