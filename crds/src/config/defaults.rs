//! The effective configuration: all fields, including those that have their default.

use std::path::Path;

use serde_json::{Map, Value as Json};

use super::{GatewayConfig, rules, schema};
use crate::config::schema_shape;

impl GatewayConfig {
    /// Returns the configuration with all defaults filled in, as one file: the hot part is included even if it was read from a
    /// separate file.
    ///
    /// Secrets in URLs and in header prefixes are replaced by `***`, because the result is printed. The replacement is valid there, so
    /// that the result is still a valid configuration.
    ///
    /// The defaults come from the schema, which is generated from the types, so they cannot differ from the actual ones.
    #[must_use]
    pub fn effective(&self) -> Json {
        let mut whole = self.clone();
        if let Some(hot) = &mut whole.hot
            && let Some(named) = whole.hot_file.take()
        {
            // Relative paths in the hot file start at its directory.
            let directory = named.parent().unwrap_or_else(|| Path::new(""));
            let headers = hot
                .backends
                .iter_mut()
                .flat_map(|backend| backend.headers.values_mut());
            for file in headers.filter_map(|header| header.file.as_mut()) {
                *file = directory.join(&file);
            }
        }
        let schema = schema::of_file();
        let mut value = serde_json::to_value(&whole).unwrap_or_default();
        fill(&mut value, schema, schema);
        hide_secrets(&mut value);
        value
    }
}

fn hide_secrets(config: &mut Json) {
    let hide = |url: &mut Json| {
        if let Json::String(url) = url {
            *url = rules::without_secrets(url).replace(rules::HIDDEN, HIDDEN);
        }
    };
    for url in ["issuer", "jwksUrl"] {
        config.pointer_mut(&format!("/incomingAuth/oidc/{url}")).map(hide);
    }
    let backends = config.pointer_mut("/hot/backends").and_then(Json::as_array_mut);
    for backend in backends.into_iter().flatten() {
        backend.get_mut("url").map(hide);
        let headers = backend.get_mut("headers").and_then(Json::as_object_mut);
        for header in headers.into_iter().flat_map(Map::values_mut) {
            if let Some(Json::String(prefix)) = header.get_mut("prefix")
                && !is_scheme(prefix)
            {
                HIDDEN.clone_into(prefix);
            }
            // It is not for secrets, but may hold one.
            if let Some(Json::String(value)) = header.get_mut("value") {
                HIDDEN.clone_into(value);
            }
        }
    }
}

/// Replacement for a secret in a URL or a header.
const HIDDEN: &str = "***";

/// Whether `prefix` is only the name of an authentication scheme, such as `Bearer ` (RFC 9110, 11.1), and so no secret.
fn is_scheme(prefix: &str) -> bool {
    let scheme = prefix.strip_suffix(' ').unwrap_or_default();
    prefix.is_empty() || SCHEMES.iter().any(|known| known.eq_ignore_ascii_case(scheme))
}

/// Authentication schemes in use by MCP servers.
const SCHEMES: [&str; 6] = ["ApiKey", "Basic", "Bearer", "DPoP", "Key", "Token"];

/// Adds the defaults of `schema` to `value`, recursively.
fn fill(value: &mut Json, schema: &Json, root: &Json) {
    let schema = definition(schema, root);
    match value {
        Json::Object(fields) => match schema.get("properties").and_then(Json::as_object) {
            Some(properties) => fill_fields(fields, properties, root),
            None => {
                if let Some(values) = schema.get("additionalProperties") {
                    fields.values_mut().for_each(|value| fill(value, values, root));
                }
            }
        },
        Json::Array(items) => {
            if let Some(schema) = schema.get("items") {
                items.iter_mut().for_each(|item| fill(item, schema, root));
            }
        }
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {}
    }
}

fn fill_fields(fields: &mut Map<String, Json>, properties: &Map<String, Json>, root: &Json) {
    for (name, property) in properties {
        if let Some(value) = fields.get_mut(name) {
            fill(value, property, root);
            continue;
        }
        let mut value = match property.get("default") {
            Some(default) if !default.is_null() => default.clone(),
            // An optional object without required fields.
            None if property.get("$ref").is_some() && is_optional(definition(property, root)) => {
                Json::Object(Map::new())
            }
            _ => continue,
        };
        fill(&mut value, property, root);
        // Omit an object in which no field has a default.
        if value != Json::Object(Map::new()) {
            fields.insert(name.clone(), value);
        }
    }
}

fn is_optional(definition: &Json) -> bool {
    definition.get("properties").is_some() && definition.get("required").is_none()
}

/// Resolves `schema`: follows its reference, and of an `anyOf` takes the choice that is not `null`.
fn definition<'a>(schema: &'a Json, root: &'a Json) -> &'a Json {
    if let Some(choices) = schema.get("anyOf").and_then(Json::as_array) {
        let some = choices.iter().find(|choice| choice.get("$ref").is_some());
        return some.map_or(schema, |some| definition(some, root));
    }
    schema_shape::definition(schema, root)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> GatewayConfig {
        GatewayConfig::parse(text, Path::new("gateway.yaml")).unwrap()
    }

    #[test]
    fn effective_config_includes_defaults_and_means_the_same() {
        let config = parse(
            "{version: v1, hot: {logLevel: debug, limits: {sessions: 5}, backends: [{name: a, url: 'http://a'}, {name: b, url: 'http://b', tools: {allow: [x]}}]}}",
        );
        let effective = config.effective();
        for (path, expected) in [
            ("/drainDelay", "5s".into()),
            ("/namespace", "default".into()),
            ("/listeners/mcp", "127.0.0.1:4483".into()),
            ("/sessionStorage/provider", "memory".into()),
            ("/sessionStorage/keyPrefix", "vmcp:".into()),
            ("/hot/logLevel", "debug".into()),
            ("/hot/aggregation/strategy", "prefix".into()),
            ("/hot/aggregation/pageSize", 10_000.into()),
            ("/hot/limits/sessions", 5.into()),
            ("/hot/limits/requestBytes", 4_194_304.into()),
            ("/hot/backends/1/tools/allow/0", "x".into()),
        ] {
            let expected: Json = expected;
            assert_eq!(
                effective.pointer(path),
                Some(&expected),
                "{path} of {effective:#}"
            );
        }
        assert_eq!(parse(&serde_yaml::to_string(&effective).unwrap()), config);
    }

    #[test]
    fn effective_config_hides_secrets() {
        let config = parse(
            "{version: v1, incomingAuth: {type: oidc, oidc: {issuer: 'https://i', audience: a, jwksUrl: 'https://i/keys?code=s3cret'}}, \
             hot: {backends: [{name: a, url: 'http://a/mcp?key=s3cret', headers: {\
             Authorization: {env: A, prefix: 'bearer '}, X-Key: {env: B, prefix: 's3cret '}, X-Region: {value: s3cret}}}]}}",
        );
        let effective = config.effective();
        for (path, expected) in [
            ("/hot/backends/0/url", "http://a/mcp?key=***"),
            ("/incomingAuth/oidc/jwksUrl", "https://i/keys?code=***"),
            ("/incomingAuth/oidc/issuer", "https://i"),
            ("/hot/backends/0/headers/Authorization/prefix", "bearer "),
            ("/hot/backends/0/headers/X-Key/prefix", "***"),
            ("/hot/backends/0/headers/X-Region/value", "***"),
        ] {
            assert_eq!(effective.pointer(path), Some(&expected.into()), "{path}");
        }
        assert!(!effective.to_string().contains("s3cret"), "{effective:#}");
        // The result is a valid configuration, and its effective configuration is the same.
        let again = parse(&serde_yaml::to_string(&effective).unwrap());
        assert_eq!(again.effective(), effective);
        assert!(rules::endpoint(&again.hot.unwrap().backends[0].url).is_ok());
    }

    #[test]
    fn effective_config_includes_hot_file() {
        let mut config = parse("{version: v1, hotFile: backends/hot.yaml}");
        let header = "backends: [{name: a, url: 'http://a', headers: {X-Key: {file: key}}}]";
        config.hot = parse(&format!("{{version: v1, hot: {{instructions: x, {header}}}}}")).hot;
        let effective = config.effective();
        assert_eq!(effective.get("hotFile"), None);
        assert_eq!(effective.pointer("/hot/instructions"), Some(&"x".into()));
        let file = effective.pointer("/hot/backends/0/headers/X-Key/file");
        assert_eq!(file, Some(&"backends/key".into()));
    }
}
