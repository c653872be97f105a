//! The operator of vmcp.
fn main() {}
