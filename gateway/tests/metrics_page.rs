//! The table of metrics in docs/OPERATIONS.md is current.

use vmcp_gateway::telemetry::metrics::table;

#[test]
fn operations_page_lists_every_metric() {
    let page = include_str!("../../docs/OPERATIONS.md");
    let table = table();
    assert!(
        page.contains(&table),
        "the section Metrics of docs/OPERATIONS.md must contain:\n\n{table}"
    );
}
