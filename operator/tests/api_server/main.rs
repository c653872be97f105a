//! The operator on a real API server, with exactly the permissions that its chart grants. No node runs pods and, except in
//! `controller_manager`, no built-in controller runs: tests create by hand what those would.
//!
//! | promise | module |
//! | --- | --- |
//! | nothing is written while nothing changes, and a change writes no more than it needs | `idle`, `no_writes`, `single_change` |
//! | a thousand virtual servers are reconciled within a minute, with little memory | `cold_start` |
//! | the operator outlives a restart, conflicts, expired watches and throttling of the API server | `api_server_restart`, `api_faults` |
//! | fields of other managers stay; the operator's own are repaired | `field_managers`, `children`, `foreign_objects` |
//! | new definitions keep objects and pods | `definition_upgrade` |
//! | each right is needed; a missing one is named | `rights`, `missing_rights`, `charts/namespace_scope` |
//! | one operator writes at a time, and another takes over | `election`, `leadership`, `process` |
//! | the replica count is the spec's, or else left alone | `replicas` |
//! | the Redis password is only referenced, and its change rolls the pods | `secrets`, `bad_resources` for the rules of the schema |
//! | user ids follow the namespace | `openshift` |
//! | pods that terminate or belong to others do not count | `owned_pods` |
//! | a server that the operator runs is a backend once a pod is ready | `mcp_server` |

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

mod admission;
mod api_faults;
mod api_server_restart;
mod backend_secrets;
mod bad_resources;
mod children;
mod cold_start;
mod conditions;
mod controller_manager;
mod definition_upgrade;
mod deletion;
mod documented_conditions;
mod election;
mod endpoint;
mod failing_writes;
mod fake_gateway;
mod fault_proxy;
mod field_managers;
mod foreign_objects;
mod gateway_conditions;
mod groups;
mod hand_edits;
mod harness;
mod helm_wait;
mod hot_config;
mod idle;
mod injection;
mod kubectl;
mod leadership;
mod malformed_response;
mod mcp_server;
mod mcp_server_conditions;
mod mcp_server_objects;
mod memory;
mod missing_kinds;
mod missing_rights;
mod no_writes;
mod openshift;
mod optional_children;
mod owned_pods;
mod policy;
mod process;
mod rejected_entries;
mod rejected_mcp_servers;
mod rejected_resources;
mod replicas;
mod requests;
mod rights;
mod schema_and_rules;
mod second_installation;
mod secrets;
mod single_change;
mod workload;
