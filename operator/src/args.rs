//! The command line.

use std::net::SocketAddr;

use clap::Parser;

use crate::policy::{Policy, SecretLabel};
use crate::telemetry::LogFormat;
use crate::watch::Scope;

/// Turns VirtualMCPServers into gateway pods behind one Service, and keeps them so.
///
/// It needs the custom resource definitions of the chart vmcp-crds, and the rights that the chart vmcp-operator grants. It
/// finds the API server as kubectl does: in a pod by its service account, elsewhere by KUBECONFIG.
///
/// Several may run at once; the one that holds the Lease works.
#[derive(Clone, Debug, Parser)]
#[command(name = "vmcp-operator", version)]
pub struct Args {
    /// Namespaces to watch, separated by commas; all of them when empty
    ///
    /// With namespaces, the operator needs a Role in each of them and nothing in the others.
    #[arg(
        long,
        env = "VMCP_WATCH_NAMESPACES",
        value_delimiter = ',',
        value_name = "NAMESPACES"
    )]
    pub watch_namespaces: Vec<String>,

    /// The image of the gateway, for virtual servers that name none
    #[arg(long, env = "VMCP_GATEWAY_IMAGE", default_value = concat!("vmcp.dev/gateway:", env!("CARGO_PKG_VERSION")), value_name = "IMAGE")]
    pub gateway_image: String,

    /// What `spec.image` of a virtual server must begin with, separated by commas; anything when empty
    ///
    /// Who may create a VirtualMCPServer can otherwise run any image. A prefix ends at a boundary: registry.example/team allows
    /// registry.example/team/gateway:1 but not registry.example/teams. The image of --gateway-image is always allowed.
    #[arg(
        long,
        env = "VMCP_ALLOWED_IMAGE_PREFIXES",
        value_delimiter = ',',
        value_name = "PREFIXES"
    )]
    pub allowed_image_prefixes: Vec<String>,

    /// The label that a Secret must bear before the operator uses it for a virtual server, as key or key=value
    ///
    /// Who may create a VirtualMCPServer can otherwise read every Secret of the namespace. Secrets that the operator itself made
    /// do not need it.
    #[arg(long, env = "VMCP_SECRET_LABEL", value_name = "LABEL")]
    pub secret_label: Option<SecretLabel>,

    /// Where /livez, /readyz and /metrics are served
    #[arg(
        long,
        env = "VMCP_ADMIN_LISTEN",
        default_value = "0.0.0.0:8080",
        value_name = "ADDRESS"
    )]
    pub admin_listen: SocketAddr,

    /// Whether to take the Lease before working; without it, run one operator only
    #[arg(long, env = "VMCP_LEADER_ELECTION", default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub leader_election: bool,

    /// The name of the Lease
    #[arg(
        long,
        env = "VMCP_LEASE_NAME",
        default_value = "vmcp-operator",
        value_name = "NAME"
    )]
    pub lease_name: String,

    /// The namespace of the Lease: in a pod, the pod's own
    #[arg(
        long,
        env = "POD_NAMESPACE",
        default_value = "default",
        value_name = "NAMESPACE"
    )]
    pub namespace: String,

    /// What this operator calls itself in the Lease and in events: in a pod, the pod's name
    ///
    /// No two operators may have the same. Without it, the name of the machine with a random word is taken.
    #[arg(long, env = "POD_NAME", value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub identity: Option<String>,

    /// What is logged: error, warn, info, debug or trace, or directives such as info,vmcp_operator=debug
    ///
    /// Only the operator's own messages are written, whatever the filter says: libraries write answers of the API server, and
    /// those hold Secrets.
    #[arg(long, env = "VMCP_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,

    /// How it is logged
    #[arg(
        long,
        env = "VMCP_LOG_FORMAT",
        value_enum,
        default_value = "text",
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,
}

impl Args {
    /// What to watch.
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

    /// What virtual servers may name.
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
    fn without_namespaces_the_whole_cluster_is_watched() {
        assert_eq!(scopes(&[]), [Scope::Cluster]);
        assert_eq!(scopes(&["--watch-namespaces", ""]), [Scope::Cluster]);
    }

    #[test]
    fn image_prefixes_and_the_secret_label_make_the_policy() {
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
