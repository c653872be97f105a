//! The contracts of vmcp, and nothing else.
//!
//! [`config`] is the file that the operator writes and the gateway reads, [`session_key`] the key files that stand beside
//! it, and [`status`] what a running gateway says of itself. They are the only things that the two share, so that a field
//! which one side writes and the other does not know cannot exist.
//!
//! With the feature `k8s` there are also the Kubernetes kinds, `v1alpha1`, and their conditions. The gateway does without
//! it and never compiles a Kubernetes client.

#[cfg(feature = "k8s")]
pub mod condition;
pub mod config;
pub mod session_key;
pub mod status;
#[cfg(feature = "k8s")]
pub mod v1alpha1;
