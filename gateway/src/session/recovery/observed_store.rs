//! The session store, with the outcome of each operation recorded in the outage detector.
//!
//! Components use the store through this type only. So no operation's failure is missed, and the detector knows what the
//! store refuses.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::SessionLimits;
use crate::session::record::{Binding, NewRecord, Record, RecordKey};
use crate::session::recovery::outage::{Outage, OutageChange, StoreFailure, StoreOperation};
use crate::session::store::{
    BindOutcome, CreateOutcome, Incarnation, LoadOutcome, ProcessId, RecoverOutcome, RestoreReason,
    SessionLife, SessionStore, SetOutcome, SettingChange, StoreError, StoredOffers, StreamClaim,
    TerminateOutcome, TouchOutcome,
};
use crate::telemetry::Metrics;
use crate::telemetry::request_id::CurrentRequestId;

/// What is served while the store is unavailable.
#[derive(Clone, Copy, Debug)]
pub(in crate::session) struct OutagePolicy {
    /// Whether cached sessions are served.
    pub(in crate::session) serves_cached: bool,
    /// Maximum duration of that service. Afterwards requests fail.
    pub(in crate::session) grace: Duration,
}

/// The store as this process sees it.
#[derive(Debug)]
pub(in crate::session) struct ObservedStore {
    store: Arc<dyn SessionStore>,
    /// Names this process among the replicas that share the store.
    process_id: ProcessId,
    outage: Outage,
    policy: OutagePolicy,
    metrics: Metrics,
}

impl ObservedStore {
    pub(in crate::session) fn new(
        store: Arc<dyn SessionStore>,
        policy: OutagePolicy,
        metrics: Metrics,
    ) -> Self {
        metrics.store_answers(true);
        Self {
            store,
            process_id: ProcessId(crate::runtime::random::bytes()),
            outage: Outage::default(),
            policy,
            metrics,
        }
    }

    /// The store itself, for operations whose failure is no sign of an outage.
    pub(in crate::session) fn unobserved(&self) -> &dyn SessionStore {
        &*self.store
    }

    pub(in crate::session) fn process_id(&self) -> ProcessId {
        self.process_id
    }

    pub(in crate::session) fn outage(&self) -> &Outage {
        &self.outage
    }

    /// Whether sessions are served while the store refuses or fails some operations.
    pub(in crate::session) fn is_served_without(&self) -> bool {
        self.serves_since(|down| Some(down.since))
    }

    /// Whether cached sessions are served while the store cannot be read.
    pub(in crate::session) fn is_served_without_reads(&self) -> bool {
        self.serves_since(|down| down.reads)
    }

    fn serves_since(&self, began: fn(&StoreFailure) -> Option<Instant>) -> bool {
        let since = self.outage.current().and_then(|down| began(&down));
        self.policy.serves_cached && since.is_none_or(|since| since.elapsed() < self.policy.grace)
    }

    /// Records in the outage detector whether the store answered `operation`.
    fn observe<T>(&self, operation: StoreOperation, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        match &outcome {
            Err(error) if error.is_corrupt_record() => {
                tracing::warn!(%error, "session record unusable");
            }
            Err(error) => {
                self.metrics.store_unavailable();
                if let OutageChange::Changed { log } = self.outage.record_failure(operation, error) {
                    self.metrics.store_answers(false);
                    if log {
                        tracing::warn!(request_id = %CurrentRequestId, ?operation, %error, "session store unavailable");
                    }
                }
            }
            Ok(_) => {
                if let OutageChange::Changed { log } = self.outage.record_success(operation) {
                    self.metrics.store_answers(true);
                    if log {
                        tracing::info!("session store available again");
                    }
                }
            }
        }
        outcome
    }
}

/// The operations of [`SessionStore`], observed.
impl ObservedStore {
    pub(in crate::session) async fn create(
        &self,
        key: &RecordKey,
        record: &NewRecord,
        limits: SessionLimits,
    ) -> Result<CreateOutcome, StoreError> {
        let outcome = self.store.create(key, record, limits).await;
        self.observe(StoreOperation::Create, outcome)
    }

    pub(in crate::session) async fn load(&self, key: &RecordKey) -> Result<LoadOutcome, StoreError> {
        self.observe(StoreOperation::Load, self.store.load(key).await)
    }

    pub(in crate::session) async fn bind_backend(
        &self,
        key: &RecordKey,
        backend: &str,
        expected: u64,
        binding: &Binding,
    ) -> Result<BindOutcome, StoreError> {
        let outcome = self.store.bind_backend(key, backend, expected, binding).await;
        self.observe(StoreOperation::Bind, outcome)
    }

    pub(in crate::session) async fn set(
        &self,
        key: &RecordKey,
        setting: &SettingChange,
    ) -> Result<SetOutcome, StoreError> {
        self.observe(StoreOperation::Set, self.store.set(key, setting).await)
    }

    pub(in crate::session) async fn touch(
        &self,
        keys: &[RecordKey],
    ) -> Result<Vec<TouchOutcome>, StoreError> {
        self.observe(StoreOperation::Touch, self.store.touch(keys).await)
    }

    /// Claims the session's GET stream for this process.
    pub(in crate::session) async fn claim_stream(&self, key: &RecordKey) -> Result<StreamClaim, StoreError> {
        let outcome = self.store.claim_stream(key, self.process_id).await;
        self.observe(StoreOperation::ClaimStream, outcome)
    }

    pub(in crate::session) async fn terminate(
        &self,
        key: &RecordKey,
        life: SessionLife,
    ) -> Result<TerminateOutcome, StoreError> {
        let outcome = self.store.terminate(key, life).await;
        self.observe(StoreOperation::Terminate, outcome)
    }

    pub(in crate::session) async fn recover(
        &self,
        key: &RecordKey,
        life: SessionLife,
        new: &NewRecord,
    ) -> Result<RecoverOutcome, StoreError> {
        let outcome = self.store.recover(key, life, new).await;
        self.observe(StoreOperation::Recover, outcome)
    }

    pub(in crate::session) async fn restore(
        &self,
        key: &RecordKey,
        record: &Record,
        missing: RestoreReason,
    ) -> Result<RecoverOutcome, StoreError> {
        let outcome = self.store.restore(key, record, missing).await;
        self.observe(StoreOperation::Restore, outcome)
    }

    pub(in crate::session) async fn incarnation(&self) -> Result<Incarnation, StoreError> {
        self.observe(StoreOperation::Incarnation, self.store.incarnation().await)
    }

    pub(in crate::session) async fn offers(&self) -> Result<StoredOffers, StoreError> {
        self.observe(StoreOperation::Offers, self.store.offers().await)
    }

    pub(in crate::session) async fn keep_offer(
        &self,
        backend: &str,
        offer: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        let outcome = self.store.keep_offer(backend, offer).await;
        self.observe(StoreOperation::Offers, outcome)
    }

    pub(in crate::session) async fn shared_session(
        &self,
        backend: &str,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let outcome = self.store.shared_session(backend).await;
        self.observe(StoreOperation::Offers, outcome)
    }

    pub(in crate::session) async fn keep_shared_session(
        &self,
        backend: &str,
        session: &[u8],
    ) -> Result<(), StoreError> {
        let outcome = self.store.keep_shared_session(backend, session).await;
        self.observe(StoreOperation::Offers, outcome)
    }

    /// Claims a block of request ids at `backend` for this process.
    pub(in crate::session) async fn claim_id_block(
        &self,
        backend: &str,
        block: u32,
        is_held: bool,
    ) -> Result<u32, StoreError> {
        let claiming = self
            .store
            .claim_id_block(backend, self.process_id, block, is_held);
        self.observe(StoreOperation::Offers, claiming.await)
    }

    pub(in crate::session) async fn probe_reads(&self) -> Result<(), StoreError> {
        self.observe(StoreOperation::ProbeReads, self.store.probe_reads().await)
    }

    pub(in crate::session) async fn probe_writes(&self) -> Result<(), StoreError> {
        self.observe(StoreOperation::ProbeWrites, self.store.probe_writes().await)
    }
}
