//! Gateways and the operator on a real Kubernetes with two nodes.

mod named_faults;
mod quick_start;
mod refused_store;
mod replaced_pods;
mod servers;
mod support;
mod traffic;
mod upgrade;
