//! The resources, the template, and the bytes that several test servers share.

use std::sync::LazyLock;

use rmcp::ErrorData;
use rmcp::model::{ReadResourceResponse, ReadResourceResult, Resource, ResourceContents, ResourceTemplate};
use serde_json::json;

use crate::test_server::Shared;

/// A red pixel, as a PNG in base64.
pub(crate) const PIXEL: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8/5+hHgAHggJ/PchI7wAAAABJRU5ErkJggg==";

/// A sound without samples, as a WAV in base64.
pub(crate) const SILENCE: &str = "UklGRiQAAABXQVZFZm10IBAAAAABAAEARKwAAIhYAQACABAAZGF0YQAAAAA=";

static BUILT_IN: LazyLock<Vec<Resource>> = LazyLock::new(|| {
    vec![
        resource("test://static-text", "A text that never changes", "text/plain"),
        resource("test://static-binary", "An image that never changes", "image/png"),
        resource(
            "test://watched-resource",
            "A text that can be subscribed to",
            "text/plain",
        ),
    ]
});

fn resource(uri: &str, description: &str, mime_type: &str) -> Resource {
    let name = uri.strip_prefix("test://").unwrap_or(uri);
    Resource::new(uri, name)
        .with_description(description)
        .with_mime_type(mime_type)
}

/// Every resource, in the order in which it is listed.
pub(crate) fn list(shared: &Shared) -> Vec<Resource> {
    let added = |uri: &str| resource(uri, "Added while running", "text/plain");
    shared
        .list_edits
        .resources
        .apply(&BUILT_IN, |resource| &resource.uri, added)
}

/// The one template.
pub(crate) fn templates() -> Vec<ResourceTemplate> {
    vec![
        ResourceTemplate::new("test://template/{id}/data", "template")
            .with_description("A text that repeats the id in its URI")
            .with_mime_type("application/json"),
    ]
}

/// The contents of one resource.
pub(crate) fn read(shared: &Shared, uri: &str) -> Result<ReadResourceResponse, ErrorData> {
    let contents = match uri {
        _ if let Some(id) = templated(uri) => {
            let data = json!({"id": id, "templateTest": true, "data": format!("Data for ID: {id}")});
            ResourceContents::text(data.to_string(), uri).with_mime_type("application/json")
        }
        _ if !list(shared).iter().any(|resource| resource.uri == uri) => {
            let message = format!("Resource not found: {uri}");
            return Err(ErrorData::resource_not_found(message, Some(json!({"uri": uri}))));
        }
        "test://static-text" => text("This is the content of the static text resource.", uri),
        "test://static-binary" => ResourceContents::blob(PIXEL, uri).with_mime_type("image/png"),
        "test://watched-resource" => text("Watched resource content", uri),
        added => text(added, uri),
    };
    Ok(ReadResourceResult::new(vec![contents]).into())
}

/// The id in a URI of the template.
fn templated(uri: &str) -> Option<&str> {
    let id = uri.strip_prefix("test://template/")?.strip_suffix("/data")?;
    (!id.is_empty() && !id.contains('/')).then_some(id)
}

fn text(text: &str, uri: &str) -> ResourceContents {
    ResourceContents::text(text, uri).with_mime_type("text/plain")
}
