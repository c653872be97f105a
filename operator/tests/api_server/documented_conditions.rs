//! Every reason in the tables of conditions in docs/kubernetes.md is produced by a test.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::json;
use vmcp_external::requires;

use crate::fake_gateway::FakeGateway;
use crate::harness::Harness;
use crate::hot_config::rendered_hash;

/// The rows of the table of conditions in a section, as type, status and reason. A cell may have several of each.
fn documented_conditions<'a>(page: &'a str, section: &str) -> BTreeSet<(&'a str, &'a str, &'a str)> {
    let (_, table) = page.split_once(&format!("\n## {section}\n")).unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let mut found = BTreeSet::new();
    for line in table.lines() {
        let cells = match line.split('|').collect::<Vec<_>>().as_slice() {
            ["", types, statuses, reasons, ..] => [*types, *statuses, *reasons],
            _ => continue,
        };
        let [types, statuses, reasons] = cells.map(|cell| cell.split(',').map(str::trim).collect::<Vec<_>>());
        if !statuses
            .iter()
            .all(|status| ["True", "False", "Unknown"].contains(status))
        {
            continue;
        }
        for (index, reason) in reasons.iter().enumerate() {
            // "as above" repeats other rows. Several statuses are those of the reasons, in their order.
            if reason.contains(' ') {
                continue;
            }
            let status = statuses.get(index).unwrap_or(&statuses[0]);
            found.extend(types.iter().map(|type_| (*type_, *status, *reason)));
        }
    }
    found
}

/// The source of all tests, without white space.
fn sources_of_tests(root: &Path) -> String {
    let mut sources = String::new();
    for folder in ["tests/api_server", "../e2e/tests", "../e2e/tests/kubernetes"] {
        for file in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    sources.retain(|character| !character.is_whitespace());
    sources
}

#[test]
fn every_documented_condition_is_in_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("../docs/kubernetes.md")).unwrap();
    let tests = sources_of_tests(root);
    let conditions = documented_conditions(&page, "Conditions");
    assert!(conditions.len() > 60, "{conditions:?}");
    let untested: Vec<_> = conditions
        .into_iter()
        .filter(|(type_, status, reason)| !tests.contains(&format!("\"{type_}\",\"{status}\",\"{reason}\"")))
        .collect();
    assert!(
        untested.is_empty(),
        "no test waits for these conditions of docs/kubernetes.md: {untested:#?}"
    );
    // Those of a server.
    let of_servers = documented_conditions(&page, "Servers that the operator runs");
    assert!(of_servers.len() > 15, "{of_servers:?}");
    for (type_, status, reason) in of_servers {
        let wait = format!("\"{type_}\",\"{status}\",\"{reason}\"");
        assert!(tests.contains(&wait), "no test waits for {wait} of an MCPServer");
    }
    // Those of a group are waited for together with its members.
    let of_groups = documented_conditions(&page, "Servers in several groups");
    assert_eq!(of_groups.len(), 3, "{of_groups:?}");
    for (_, _, reason) in of_groups {
        assert!(tests.contains(&format!(",\"{reason}\",&[")), "{reason}");
    }
}

// The virtual server's own references, here to the authorities of the issuer: missing, without the key, unusable, and good.
#[requires(api_server)]
#[tokio::test]
async fn missing_value_of_server_makes_it_not_ready() {
    let harness = Harness::start("own-values").await;
    harness.apply_group(&[]).await;
    let authorities = |reference: &str| {
        let mut oidc =
            json!({"issuer": "https://id.example.com", "audience": ["https://tools.example.com/mcp"]});
        oidc["caBundleRef"][reference] = json!({"name": "ca", "key": "ca.crt"});
        json!({"incomingAuth": {"type": "oidc", "oidc": oidc}})
    };
    let object = |kind: &str, data: &str, key: &str, value: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "ca"}, data: {key: value}});
    harness.apply_server(authorities("configMapKeyRef")).await;
    harness
        .wait_for_conditions(&[
            ("SecretsResolved", "False", "ConfigMapNotFound"),
            ("Ready", "False", "ConfigMapNotFound"),
        ])
        .await;
    harness.apply(&object("ConfigMap", "data", "other", "x")).await;
    harness
        .wait_for_conditions(&[
            ("SecretsResolved", "False", "ConfigMapKeyNotFound"),
            ("Ready", "False", "ConfigMapKeyNotFound"),
        ])
        .await;
    harness.apply_server(authorities("secretKeyRef")).await;
    harness
        .wait_for_conditions(&[
            ("SecretsResolved", "False", "SecretNotFound"),
            ("Ready", "False", "SecretNotFound"),
        ])
        .await;
    harness.apply(&object("Secret", "stringData", "other", "x")).await;
    harness
        .wait_for_conditions(&[
            ("SecretsResolved", "False", "SecretKeyNotFound"),
            ("Ready", "False", "SecretKeyNotFound"),
        ])
        .await;
    harness
        .apply(&object("Secret", "stringData", "ca.crt", "no certificate"))
        .await;
    harness
        .wait_for_conditions(&[
            ("SecretsResolved", "False", "SecretValueInvalid"),
            ("Ready", "False", "SecretValueInvalid"),
        ])
        .await;
    let good = "-----BEGIN CERTIFICATE-----";
    harness
        .apply(&object("Secret", "stringData", "ca.crt", good))
        .await;
    harness
        .wait_for_condition("SecretsResolved", "True", "SecretsResolved")
        .await;
}

// The schema counts characters, and Redis keys are limited in bytes.
#[requires(api_server)]
#[tokio::test]
async fn value_that_only_the_operator_refuses_stalls() {
    let harness = Harness::start("too-long").await;
    harness.apply_group(&[]).await;
    let prefix = "\u{e4}".repeat(200);
    harness
        .apply_server(json!({"sessionStorage": {"provider": "redis", "address": "r:1", "keyPrefix": prefix}}))
        .await;
    harness
        .wait_for_conditions(&[
            ("ConfigValid", "False", "ConfigInvalid"),
            ("Ready", "False", "ConfigInvalid"),
            ("Stalled", "True", "ConfigInvalid"),
        ])
        .await;
}

// With the defaults, the group is found and the warning about memory does not apply.
#[requires(api_server)]
#[tokio::test]
async fn defaults_give_no_warning() {
    let harness = Harness::start("defaults").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    harness
        .wait_for_condition("GroupRefValidated", "True", "GroupRefValid")
        .await;
    harness
        .wait_for_condition(
            "SessionStorageWarning",
            "False",
            "SessionStorageWarningNotApplicable",
        )
        .await;
}

#[requires(api_server)]
#[tokio::test]
async fn gateway_that_does_not_answer_is_reported() {
    let harness = Harness::start("unreachable").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    let gateway = FakeGateway::start("another-token", &rendered_hash(&harness).await).await;
    harness.roll_out(&[&gateway]).await;
    harness
        .wait_for_condition("Ready", "False", "GatewayUnreachable")
        .await;
}

#[requires(api_server)]
#[tokio::test]
async fn server_with_zero_replicas_is_scaled_to_zero() {
    let harness = Harness::start("zero").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({"replicas": 0})).await;
    harness.observe_deployment(0).await;
    harness.wait_for_condition("Ready", "True", "ScaledToZero").await;
}

#[requires(api_server)]
#[tokio::test]
async fn rollout_without_progress_is_stalled() {
    let harness = Harness::start("no-progress").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    harness.exceed_progress_deadline().await;
    harness
        .wait_for_condition("Stalled", "True", "ProgressDeadlineExceeded")
        .await;
}

#[requires(api_server)]
#[tokio::test]
async fn missing_config_map_or_key_is_reported() {
    let harness = Harness::start("ca-bundle").await;
    harness.apply_group(&[]).await;
    harness
        .apply(&json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPServerEntry", "metadata": {"name": "time"},
            "spec": {
                "groupRef": {"name": "group"}, "url": "https://time:8000/mcp",
                "tls": {"caBundleRef": {"configMapKeyRef": {"name": "ca", "key": "ca.crt"}}},
            },
        }))
        .await;
    harness.apply_server(json!({})).await;
    harness
        .wait_for_condition("SecretsResolved", "False", "ConfigMapNotFound")
        .await;
    harness
        .apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ca"}, "data": {"other": "x"}}))
        .await;
    harness
        .wait_for_condition("SecretsResolved", "False", "ConfigMapKeyNotFound")
        .await;
}
