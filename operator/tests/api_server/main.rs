//! The operator on a real API server, with exactly the permissions that its chart grants. No node runs pods and, except in
//! `controller_manager`, no built-in controller runs: tests create by hand what those would.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

mod admission;
mod backend_secrets;
mod bad_resources;
mod children;
mod conditions;
mod controller_manager;
mod deletion;
mod documented_conditions;
mod election;
mod endpoint;
mod failing_writes;
mod fake_gateway;
mod foreign_objects;
mod gateway_conditions;
mod groups;
mod hand_edits;
mod harness;
mod helm_wait;
mod hot_config;
mod injection;
mod kubectl;
mod malformed_response;
mod memory;
mod missing_kinds;
mod missing_rights;
mod no_writes;
mod optional_children;
mod owned_pods;
mod policy;
mod process;
mod rejected_entries;
mod rejected_resources;
mod replicas;
mod schema_and_rules;
mod second_installation;
mod secrets;
mod workload;
