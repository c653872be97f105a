//! A real Kubernetes on one machine: two nodes with kubelet and containerd, in about ten seconds, without a container
//! engine, a registry or a virtual machine.
//!
//! [`Cluster::up`] starts it as one process tree in namespaces of its own, so nothing of the host changes and one signal
//! ends it. The calling process holds a pipe to it (the tether): when that process ends for any reason, so does the
//! cluster. [`Cluster::keep`] cuts the tether, for interactive use.
//!
//! The cluster's addresses (nodes, pods, Services, the API server) answer only inside its network namespace.
//! [`Cluster::command`] runs a program there, and [`Network`] takes a thread of a test there: sockets that such a thread
//! opens stay in the namespace, even if other threads use them.
//!
//! [`ApiServer::start`] starts only an API server with etcd on loopback ports, for tests without pods.
//!
//! The programs are built from pinned Go modules (the folder `go`) into the cache of `vmcp_external`, once; [`image`] packs
//! our own programs and a few third-party ones as container images, from files.

mod api_server;
mod audit;
mod base_images;
mod certificates;
mod cluster;
mod command;
mod deadline;
mod definitions;
mod go_modules;
mod helm;
mod hex;
pub mod image;
mod kubeconfig;
mod kubernetes;
mod machine;
mod network;
mod processes;
mod run_dir;
mod tree;

pub use api_server::ApiServer;
pub use audit::Request;
pub use cluster::{Cluster, Options};
pub use command::Command;
pub use definitions::definitions;
pub use helm::helm;
pub use network::Network;
