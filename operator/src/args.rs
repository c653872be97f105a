//! Command-line arguments and environment variables.

use std::net::SocketAddr;

use clap::{Parser, Subcommand};
use vmcp_crds::config::Duration;

use crate::desired::mcp_server::ServerImages;
use crate::pod_user::PodUser;
use crate::policy::{Policy, SecretLabel};
use crate::telemetry::LogFormat;
use crate::watch::Scope;

/// Kubernetes operator for vmcp: runs gateway pods and a Service for each VirtualMCPServer.
///
/// The operator needs the custom resource definitions of the chart vmcp-crds and the permissions that the chart vmcp-operator
/// grants. It finds the API server in the same way as kubectl: in a pod through its service account, elsewhere through KUBECONFIG.
///
/// Several replicas can run at once. Only the replica that holds the Lease is active.
#[derive(Clone, Debug, Parser)]
#[command(name = "vmcp-operator", version)]
pub struct Args {
    /// What to do instead of running the operator.
    #[command(subcommand)]
    pub command: Option<OperatorCommand>,

    /// Namespaces to watch, separated by commas; all namespaces if empty
    ///
    /// Example: team-a,team-b. The operator then needs a Role in each of these namespaces and no ClusterRole.
    #[arg(
        long,
        env = "VMCP_WATCH_NAMESPACES",
        value_delimiter = ',',
        value_name = "NAMESPACES"
    )]
    pub watch_namespaces: Vec<String>,

    /// Gateway image for virtual servers without spec.image
    #[arg(long, env = "VMCP_GATEWAY_IMAGE", default_value = concat!("vmcp.dev/gateway:", env!("CARGO_PKG_VERSION")), value_name = "IMAGE")]
    pub gateway_image: String,

    /// Image with `npx`, for servers with spec.npm
    #[arg(
        long,
        env = "VMCP_NPM_IMAGE",
        default_value = "docker.io/library/node:24-slim",
        value_name = "IMAGE"
    )]
    pub npm_image: String,

    /// Image with `uvx`, for servers with spec.pypi
    #[arg(
        long,
        env = "VMCP_PYPI_IMAGE",
        default_value = "ghcr.io/astral-sh/uv:python3.13-bookworm-slim",
        value_name = "IMAGE"
    )]
    pub pypi_image: String,

    /// Prefixes that `spec.image` of a virtual server or a server may begin with, separated by commas; any image if empty
    ///
    /// Without this option, anyone who can create a VirtualMCPServer or an MCPServer can run any image. A prefix matches whole parts of the name:
    /// registry.example/team allows registry.example/team/gateway:1 but not registry.example/teams. The images of
    /// --gateway-image, --npm-image and --pypi-image are always allowed.
    #[arg(
        long,
        env = "VMCP_ALLOWED_IMAGE_PREFIXES",
        value_delimiter = ',',
        value_name = "PREFIXES"
    )]
    pub allowed_image_prefixes: Vec<String>,

    /// Label that a Secret must have before the operator uses it for a virtual server, as key or key=value
    ///
    /// Example: vmcp.dev/usable=true. Without this option, anyone who can create a VirtualMCPServer, an MCPServer or an
    /// MCPServerEntry can use any Secret of the namespace. Secrets that the operator created itself do not need the label.
    #[arg(long, env = "VMCP_SECRET_LABEL", value_name = "LABEL")]
    pub secret_label: Option<SecretLabel>,

    /// User id of gateway pods: auto, fixed (65532) or namespace (the cluster's choice)
    ///
    /// auto: in a namespace with the annotation openshift.io/sa.scc.uid-range, the pods name no user id and no group id, so that the cluster chooses
    /// them from the range; elsewhere they are fixed. The operator needs the right to get namespaces for this.
    #[arg(
        long,
        env = "VMCP_POD_USER",
        value_enum,
        default_value = "auto",
        value_name = "USER"
    )]
    pub pod_user: PodUser,

    /// Listen address for /livez, /readyz and /metrics
    ///
    /// [::] is all addresses of IPv4 and IPv6, or of IPv4 on a machine without IPv6.
    #[arg(
        long,
        env = "VMCP_ADMIN_LISTEN",
        default_value = "[::]:8080",
        value_name = "ADDRESS"
    )]
    pub admin_listen: SocketAddr,

    /// Use leader election; if false, run only one replica of the operator
    #[arg(long, env = "VMCP_LEADER_ELECTION", default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub leader_election: bool,

    /// Name of the Lease for leader election
    #[arg(
        long,
        env = "VMCP_LEASE_NAME",
        default_value = "vmcp-operator",
        value_name = "NAME"
    )]
    pub lease_name: String,

    /// Namespace of the Lease; in a pod, the pod's own namespace
    #[arg(
        long,
        env = "POD_NAMESPACE",
        default_value = "default",
        value_name = "NAMESPACE"
    )]
    pub namespace: String,

    /// Name of this operator process in the Lease and in Events; in a pod, the pod's name
    ///
    /// It must be unique. The default is the host name with a random suffix.
    #[arg(long, env = "POD_NAME", value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub identity: Option<String>,

    /// Log level (error, warn, info, debug, trace) or directives such as info,vmcp_operator=debug
    ///
    /// Only the operator's own messages are logged, even if the filter names a library. Libraries log responses of the API server,
    /// which can contain Secrets.
    #[arg(long, env = "VMCP_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,

    /// Log format
    #[arg(
        long,
        env = "VMCP_LOG_FORMAT",
        value_enum,
        default_value = "text",
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,
}

/// What the program can do instead of running the operator.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum OperatorCommand {
    /// Check that the kinds are installed, that the operator has its permissions, and that an operator is active
    ///
    /// It takes the options of the operator, before the word `check`, and its environment variables. `helm test` runs it.
    Check {
        /// Time that an operator has to become active
        #[arg(long, default_value = "60s", value_name = "DURATION")]
        timeout: Duration,
    },
}

impl Args {
    /// The images that the operator brings.
    #[must_use]
    pub fn images(&self) -> ServerImages {
        ServerImages {
            gateway: self.gateway_image.clone(),
            npm: self.npm_image.clone(),
            pypi: self.pypi_image.clone(),
        }
    }

    /// The scopes to watch: the named namespaces, or the whole cluster.
    #[must_use]
    pub fn scopes(&self) -> Vec<Scope> {
        let named = self
            .watch_namespaces
            .iter()
            .map(|name| name.trim())
            .filter(|name| !name.is_empty());
        let mut scopes: Vec<Scope> = named.map(|name| Scope::Namespace(name.to_owned())).collect();
        scopes.dedup();
        if scopes.is_empty() {
            scopes.push(Scope::Cluster);
        }
        scopes
    }

    /// The policy on images and Secrets.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let prefixes = self.allowed_image_prefixes.iter().map(|prefix| prefix.trim());
        Policy {
            image_prefixes: prefixes
                .filter(|prefix| !prefix.is_empty())
                .map(str::to_owned)
                .collect(),
            secret_label: self.secret_label.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(arguments: &[&str]) -> Vec<Scope> {
        let arguments = ["vmcp-operator"].iter().chain(arguments);
        Args::try_parse_from(arguments).unwrap().scopes()
    }

    #[test]
    fn no_namespaces_watches_whole_cluster() {
        assert_eq!(scopes(&[]), [Scope::Cluster]);
        assert_eq!(scopes(&["--watch-namespaces", ""]), [Scope::Cluster]);
    }

    #[test]
    fn image_prefixes_and_secret_label_become_policy() {
        let policy = |arguments: &[&str]| {
            let arguments = ["vmcp-operator"].iter().chain(arguments);
            Args::try_parse_from(arguments).map(|args| args.policy())
        };
        let off = policy(&["--allowed-image-prefixes", ""]).unwrap();
        assert!(off.image_prefixes.is_empty() && off.secret_label.is_none());
        let both = policy(&["--allowed-image-prefixes", "a/, b", "--secret-label", "c=d"]).unwrap();
        assert_eq!(both.image_prefixes, ["a/", "b"]);
        assert_eq!(both.secret_label.unwrap().to_string(), "c=d");
        assert!(policy(&["--secret-label", "a b"]).is_err());
    }

    #[test]
    fn namespaces_are_separated_by_commas() {
        let two = [Scope::Namespace("a".to_owned()), Scope::Namespace("b".to_owned())];
        assert_eq!(scopes(&["--watch-namespaces", "a, b"]), two);
    }
}
