//! `MCPServerEntry`: an MCP server that runs elsewhere, as a member of a group.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::GroupRef;

/// An MCP server that somebody else runs, inside or outside the cluster, as a member of a group.
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
    doc = "An MCP server that somebody else runs, inside or outside the cluster, as a member of an MCPGroup. \
           Its name is the name of the backend: tools are offered as <name>_<tool>.",
    printcolumn(name = "Group", type_ = "string", json_path = ".spec.groupRef.name"),
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.url"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 63")
        .message("metadata.name is the name of the backend: at most 63 lower-case letters, digits and '-', no dots")
)]
#[cfg_attr(test, kube(cel))]
#[serde(rename_all = "camelCase")]
pub struct MCPServerEntrySpec {
    /// The URL of the server's streamable HTTP endpoint, for example `http://time.tools.svc:8000/mcp`.
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(
        validation = Rule::new("self.matches('^https?://[^/?#]+([/?#].*)?$')")
            .message("url begins with http:// or https:// and names a host, for example http://time.tools.svc:8000/mcp"),
        validation = Rule::new("!self.matches('^[a-z]+://[^/?#]*@')")
            .message("url must not hold credentials: it is stored and quoted in clear text"),
        validation = Rule::new("!self.contains('#')")
            .message("url must not have a fragment"),
        validation = Rule::new("!self.matches('[[:space:][:cntrl:]]')")
            .message("url must not hold white space")
    )]
    pub url: String,
    /// The group that the server belongs to, in the same namespace.
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
    fn an_http_url_and_a_dns_label_are_accepted() {
        for url in [
            "http://time:8000/mcp",
            "https://api.example.com",
            "http://[::1]:9/mcp?x=y@z",
        ] {
            assert_eq!(refusal("time-2", url), None, "{url}");
        }
    }

    #[test]
    fn a_url_that_cannot_be_called_is_refused_with_an_example() {
        for url in ["time:8000/mcp", "ftp://time/mcp", "http://", "http:///mcp"] {
            let message = refusal("time", url).unwrap();
            assert!(
                message.contains("for example http://time.tools.svc:8000/mcp"),
                "{url}: {message}"
            );
        }
    }

    #[test]
    fn a_fragment_is_refused() {
        let message = refusal("time", "http://time/mcp#x").unwrap();
        assert!(message.contains("must not have a fragment"), "{message}");
    }

    #[test]
    fn credentials_in_a_url_are_refused() {
        let message = refusal("time", "https://user:pass@time/mcp").unwrap();
        assert!(message.contains("must not hold credentials"), "{message}");
    }

    #[test]
    fn white_space_in_a_url_is_refused() {
        let message = refusal("time", "http://time/mcp\n").unwrap();
        assert!(message.contains("white space"), "{message}");
    }

    #[test]
    fn a_name_that_cannot_name_a_backend_is_refused() {
        for name in ["time.zone", &"x".repeat(64)] {
            let message = refusal(name, "http://time/mcp").unwrap();
            assert!(message.contains("name of the backend"), "{name}: {message}");
        }
    }
}
