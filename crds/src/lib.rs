//! The interfaces between the parts of vmcp.
//!
//! [`config`] is the configuration file that the operator writes and the gateway reads, [`session_key`] is the format of the key files,
//! and [`status`] is the status that a running gateway reports. The operator and the gateway share only this crate, so that neither can
//! write a field that the other does not know.
//!
//! The feature `k8s` adds the Kubernetes kinds, `v1alpha1`, and their conditions. The gateway does not enable it, and so never compiles a
//! Kubernetes client.

#[cfg(feature = "k8s")]
pub mod condition;
pub mod config;
pub mod session_key;
pub mod status;
#[cfg(feature = "k8s")]
pub mod v1alpha1;
