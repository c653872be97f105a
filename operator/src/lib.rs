//! The Kubernetes operator of vmcp: it runs gateway pods behind one Service for each `VirtualMCPServer`.
//!
//! A reconcile of one virtual server has three steps: [`resolve`] turns the references of the spec into values, [`desired`] renders
//! the Kubernetes objects, and [`status`] derives the conditions from what it observes. The last two are pure functions.
//! [`reconcile`] connects them and talks to the API server, and [`controller`] decides when it runs.
//!
//! All requests to the API server go through [`api_server`], which rejects invalid names.
//!
//! Children are written only by server-side apply ([`apply`]), so no fields are compared: the API server knows which fields are
//! ours. A reconcile with nothing to do writes nothing.

pub mod admin;
pub mod api_server;
pub mod app;
pub mod apply;
pub mod args;
pub mod backoff;
pub mod changed_namespaces;
pub mod config_nudge;
pub mod controller;
pub mod desired;
pub mod error;
pub mod event_recorder;
pub mod events;
pub mod group_status;
pub mod identity;
pub mod installation;
pub mod installation_check;
pub mod invalid_objects;
pub mod key_rotation;
mod kube_error;
pub mod lease;
pub mod mappers;
pub mod mcp_server_queue;
pub mod metrics;
pub mod optional_kinds;
pub mod owned_fields;
pub mod owner;
pub mod pod_user;
pub mod policy;
pub mod prune;
pub mod reconcile;
pub mod replica_handover;
pub mod resolve;
pub mod secret_values;
pub mod server_state;
pub mod session_keys;
pub mod spec_validation;
pub mod status;
pub mod status_client;
pub mod telemetry;
pub mod undone_changes;
mod value_facts;
pub mod watch;
mod watch_backoff;
pub mod watch_health;
pub mod watched_fields;
pub mod workload;
