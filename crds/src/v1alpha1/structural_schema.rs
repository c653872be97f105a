//! Adapts the schema of the gateway's configuration types to what a CustomResourceDefinition allows.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::{Value as Json, json};

/// Adapts the schema of the spec, and gives the status a default.
///
/// - Defaults move from the schema into the descriptions. The API server would write them into every object, where they would stay when a
///   later version has another default, and the operator could not tell them from a value that a user has set.
/// - Formats of integers that Kubernetes does not know become bounds.
/// - A quantity gets a pattern and a short description. Kubernetes' own is longer than a page, and its schema allows every text.
/// - An object without a status gets an observed generation that no object has. kstatus, and so `helm install --wait`, takes an object without
///   conditions for one that is up to date, and would not wait for the operator.
pub(super) fn adapt(crd: &mut CustomResourceDefinition) {
    for version in &mut crd.spec.versions {
        let schema = version
            .schema
            .as_mut()
            .and_then(|schema| schema.open_api_v3_schema.as_mut());
        let Some(fields) = schema.and_then(|schema| schema.properties.as_mut()) else {
            continue;
        };
        for field in fields.get_mut("spec").into_iter().flat_map(children) {
            adapt_field(field);
        }
        if let Some(status) = fields.get_mut("status") {
            status.default = Some(JSON(json!({"observedGeneration": -1})));
        }
    }
}

fn adapt_field(schema: &mut JSONSchemaProps) {
    schema.example = None;
    if let Some(default) = schema.default.take().map(|default| default.0) {
        describe_default(schema, &default);
    }
    bound_integer(schema);
    describe_quantity(schema);
    for child in children(schema) {
        adapt_field(child);
    }
}

/// Appends the default to the description, unless it describes its default itself.
fn describe_default(schema: &mut JSONSchemaProps, default: &Json) {
    let default = match default {
        Json::String(text) => text.clone(),
        Json::Bool(_) | Json::Number(_) | Json::Array(_) => default.to_string(),
        Json::Null | Json::Object(_) => return,
    };
    let description = schema.description.get_or_insert_default();
    if !default.is_empty() && !description.contains("Default: ") {
        description.push_str(&format!(" Default: `{default}`."));
    }
}

/// Replaces a format of integers that Kubernetes does not know by a bound.
fn bound_integer(schema: &mut JSONSchemaProps) {
    let maximum = match schema.format.as_deref() {
        Some("uint16") => Some(u16::MAX.into()),
        Some("uint32") => Some(u32::MAX.into()),
        // Kubernetes has no larger integers than i64.
        Some("uint64") => None,
        _ => return,
    };
    schema.format = None;
    schema.maximum = schema.maximum.or(maximum);
}

/// Matches a quantity that is not negative, as Kubernetes does.
const QUANTITY: &str = r"^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$";

fn describe_quantity(schema: &mut JSONSchemaProps) {
    let description = schema.description.as_deref().unwrap_or_default();
    if description.starts_with("Quantity is a fixed-point representation") {
        schema.description = Some("A quantity, for example `500m` of CPU or `128Mi` of memory.".to_owned());
        schema.pattern = Some(QUANTITY.to_owned());
    }
}

/// The schemas of the fields, of the items of a list, and of the values of a map.
fn children(schema: &mut JSONSchemaProps) -> impl Iterator<Item = &mut JSONSchemaProps> {
    let items = match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => Some(&mut **items),
        _ => None,
    };
    let values = match &mut schema.additional_properties {
        Some(JSONSchemaPropsOrBool::Schema(values)) => Some(&mut **values),
        _ => None,
    };
    let fields = schema
        .properties
        .iter_mut()
        .flat_map(std::collections::BTreeMap::values_mut);
    fields.chain(items).chain(values)
}
