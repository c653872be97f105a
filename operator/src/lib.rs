//! The operator of vmcp: it turns a `VirtualMCPServer` into gateway pods behind one Service, and keeps it so.
//!
//! Three steps, one after the other, for one virtual server at a time: [`resolve`] turns the references of the spec into
//! values, [`desired`] turns values into Kubernetes objects, and [`status`] turns what can be observed into conditions.
//! The last two are pure. [`reconcile`] is the shell around them that talks to the API server, and [`controller`]
//! decides when it runs.
//!
//! Requests to the API server are made in [`api_server`] alone, which refuses names that are none.
//!
//! Children are written only by server-side apply ([`apply`]), so nothing is compared by hand: the API server knows which
//! fields are ours. A reconcile with nothing to do writes nothing.

pub mod admin;
pub mod api_server;
pub mod app;
pub mod apply;
pub mod args;
pub mod backoff;
pub mod controller;
pub mod desired;
pub mod error;
pub mod events;
pub mod field_check;
pub mod gateways;
pub mod identity;
pub mod index;
pub mod lease;
pub mod memory;
pub mod metrics;
pub mod owner;
pub mod policy;
pub mod reconcile;
pub mod reminder;
pub mod replicas;
pub mod resolve;
pub mod session_keys;
pub mod status;
pub mod telemetry;
pub mod unreadable;
pub mod unused;
pub mod watch;
