//! `MCPServerEntry`: an existing MCP server as a member of a group.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::GroupRef;

/// An existing MCP server, inside or outside the cluster, as a member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "vmcp.dev",
    version = "v1alpha1",
    kind = "MCPServerEntry",
    plural = "mcpserverentries",
    singular = "mcpserverentry",
    shortname = "mcpentry",
    category = "mcp",
    namespaced,
    derive = "PartialEq",
    doc = "An existing MCP server, inside or outside the cluster, as a member of an MCPGroup. \
           Its name is the name of the backend: tools are advertised as <name>_<tool>.",
    printcolumn(name = "Group", type_ = "string", json_path = ".spec.groupRef.name"),
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.url"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 63")
        .message("metadata.name is the name of the backend: use at most 63 lower-case letters, digits and '-', and no dots")
)]
#[cfg_attr(test, kube(cel))]
#[serde(rename_all = "camelCase")]
pub struct MCPServerEntrySpec {
    /// The URL of the server's streamable HTTP endpoint, for example `http://time.tools.svc:8000/mcp`.
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(
        validation = Rule::new("self.matches('^https?://[^/?#]+([/?#].*)?$')")
            .message("url must begin with http:// or https:// and contain a host, for example http://time.tools.svc:8000/mcp"),
        validation = Rule::new("!self.matches('^[a-z]+://[^/?#]*@')")
            .message("url must not contain credentials: it is stored and quoted in clear text"),
        validation = Rule::new("!self.contains('#')")
            .message("url must not have a fragment"),
        validation = Rule::new("!self.matches('[[:space:][:cntrl:]]')")
            .message("url must not contain white space")
    )]
    pub url: String,
    /// The MCPGroup to which the server belongs, in the same namespace.
    pub group_ref: GroupRef,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(name: &str, url: &str) -> Option<String> {
        let spec = MCPServerEntrySpec {
            url: url.to_owned(),
            group_ref: GroupRef {
                name: "tools".to_owned(),
            },
        };
        MCPServerEntry::new(name, spec)
            .validate_cel()
            .err()
            .map(|errors| format!("{errors:?}"))
    }

    #[test]
    fn http_url_and_dns_label_are_accepted() {
        for url in [
            "http://time:8000/mcp",
            "https://api.example.com",
            "http://[::1]:9/mcp?x=y@z",
        ] {
            assert_eq!(refusal("time-2", url), None, "{url}");
        }
    }

    #[test]
    fn invalid_url_is_rejected_with_example() {
        for url in ["time:8000/mcp", "ftp://time/mcp", "http://", "http:///mcp"] {
            let message = refusal("time", url).unwrap();
            assert!(
                message.contains("for example http://time.tools.svc:8000/mcp"),
                "{url}: {message}"
            );
        }
    }

    #[test]
    fn url_with_fragment_is_rejected() {
        let message = refusal("time", "http://time/mcp#x").unwrap();
        assert!(message.contains("must not have a fragment"), "{message}");
    }

    #[test]
    fn url_with_credentials_is_rejected() {
        let message = refusal("time", "https://user:pass@time/mcp").unwrap();
        assert!(message.contains("must not contain credentials"), "{message}");
    }

    #[test]
    fn url_with_white_space_is_rejected() {
        let message = refusal("time", "http://time/mcp\n").unwrap();
        assert!(message.contains("white space"), "{message}");
    }

    #[test]
    fn name_that_is_not_a_backend_name_is_rejected() {
        for name in ["time.zone", &"x".repeat(64)] {
            let message = refusal(name, "http://time/mcp").unwrap();
            assert!(message.contains("name of the backend"), "{name}: {message}");
        }
    }
}
