//! The handbook's list of metrics is the gateway's own.

use vmcp_gateway::telemetry::metrics::table;

#[test]
fn the_handbook_lists_every_metric_with_its_meaning() {
    let page = include_str!("../../docs/OPERATIONS.md");
    let table = table();
    assert!(
        page.contains(&table),
        "docs/OPERATIONS.md should hold, under Metrics:\n\n{table}"
    );
}
