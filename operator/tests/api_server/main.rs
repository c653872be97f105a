//! The operator on a real API server, with exactly the rights that its chart grants. No node runs pods and no built-in
//! controller works: tests make by hand what those would.

mod children;
mod conditions;
mod election;
mod gateway;
mod hot_config;
mod quiet;
mod replicas;
mod secrets;
mod world;
