//! Labels and annotations in a spec, for an object that the operator creates.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::json;

use crate::config::cel;

/// Maximum number of labels, and of annotations.
const MAX_ENTRIES: u32 = 64;

/// The schema of annotations.
pub(super) fn annotations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "additionalProperties": {"type": "string"},
        "maxProperties": MAX_ENTRIES,
    })
}

/// The schema of labels: those that the operator sets itself are not allowed.
pub(super) fn labels(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = annotations(generator);
    let rule = cel::rule(
        "!self.exists(key, key.startsWith('app.kubernetes.io/') || key.startsWith('vmcp.dev/'))",
        "the operator sets the labels app.kubernetes.io/* and vmcp.dev/* itself",
    );
    schema.insert("x-kubernetes-validations".to_owned(), json!([rule]));
    schema
}
