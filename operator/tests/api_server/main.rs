//! The operator on a real API server, with exactly the rights that its chart grants. No node runs pods and, but in
//! `controller_manager`, no built-in controller works: tests make by hand what those would.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

mod admission;
mod children;
mod conditions;
mod controller_manager;
mod election;
mod foreign;
mod gateway;
mod hostile;
mod hostile_answer;
mod hot_config;
mod owned_pods;
mod policy;
mod process;
mod quiet;
mod replicas;
mod secrets;
mod world;
