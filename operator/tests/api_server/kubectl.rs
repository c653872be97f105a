//! What kubectl shows of the kinds.

use serde_json::json;
use vmcp_external::requires;

use crate::harness::{Harness, eventually, server};

// `kubectl get mcp` lists all kinds, each kind has a short name and columns, and `kubectl explain` knows the fields.
#[requires(api_server)]
#[tokio::test]
async fn kubectl_lists_and_explains_the_kinds() {
    let harness = Harness::start("kubectl").await;
    harness.apply_group(&["time"]).await;
    harness.apply_server(json!({})).await;
    harness
        .apply_mcp_server("weather", json!({"npm": {"package": "weather"}}))
        .await;
    harness
        .wait_for_server_condition("weather", "Ready", "False", "DeploymentProgressing")
        .await;
    harness
        .wait_for_condition("Ready", "False", "DeploymentProgressing")
        .await;
    let get = |kind: &str| {
        let get = ["get", kind, "-o", "wide", "-n", &harness.namespace];
        server().kubectl(get).unwrap()
    };
    let all = get("mcp");
    for name in [
        "virtualmcpserver.vmcp.dev/x",
        "mcpgroup.vmcp.dev/group",
        "mcpserver.vmcp.dev/weather",
        "mcpserverentry.vmcp.dev/time",
    ] {
        assert!(all.contains(name), "{name} is not in {all}");
    }
    for (short, columns) in [
        ("vmcp", "NAME READY REASON REPLICAS BACKENDS TOOLS URL AGE"),
        ("mcpg", "NAME READY REASON MEMBERS DESCRIPTION AGE"),
        ("mcpentry", "NAME GROUP URL AGE"),
        ("mcps", "NAME READY REASON REPLICAS TOOLS RESTARTS URL PHASE AGE"),
    ] {
        let table = get(short);
        let header: Vec<&str> = table
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        assert_eq!(header.join(" "), columns, "{table}");
    }
    let row = get("vmcp");
    assert!(
        row.contains("DeploymentProgressing") && row.contains("http://vmcp-x."),
        "{row}"
    );
    for (field, description) in [
        ("vmcp.spec.limits.sessions", "Maximum number of sessions"),
        (
            "vmcp.spec.podTemplate.spec.nodeSelector",
            "Labels that a node must have",
        ),
        (
            "mcpentry.spec.tls.caBundleRef",
            "PEM certificates that are trusted",
        ),
        (
            "mcpg.spec.selector",
            "Labels of the MCPServers and MCPServerEntries",
        ),
        ("mcps.spec.command", "The program to start"),
        (
            "mcps.spec.podTemplate.spec.containers.image",
            "`spec.image` of the MCPServer",
        ),
    ] {
        // The API server describes a new kind shortly after it serves it.
        eventually(&format!("{field} is explained"), async || {
            let explained = server().kubectl(["explain", field]).ok()?;
            let explained = explained.split_whitespace().collect::<Vec<_>>().join(" ");
            explained.contains(description).then_some(())
        })
        .await;
    }
}
