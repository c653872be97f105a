//! The fields of a struct that were set.

use std::borrow::Cow;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value as Json};

/// The fields of a `T` that were set. The others come from defaults that are known later, so a field that was set to the default of `T`
/// differs from one that was not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetFields<T> {
    fields: Map<String, Json>,
    of: PhantomData<T>,
}

impl<T> SetFields<T> {
    /// Whether no field was set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }
}

impl<T: Clone + Serialize + DeserializeOwned> SetFields<T> {
    /// A `T` with these fields, and all others from `defaults`.
    #[must_use]
    pub fn over(&self, defaults: &T) -> T {
        let Ok(Json::Object(mut fields)) = serde_json::to_value(defaults) else {
            return defaults.clone();
        };
        fields.extend(self.fields.clone());
        // The fields were valid for a `T` when they were read.
        serde_json::from_value(Json::Object(fields)).unwrap_or_else(|_| defaults.clone())
    }
}

impl<T> Default for SetFields<T> {
    fn default() -> Self {
        Self {
            fields: Map::new(),
            of: PhantomData,
        }
    }
}

impl<T> Serialize for SetFields<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.fields.serialize(serializer)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for SetFields<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields = Map::deserialize(deserializer)?;
        fields.retain(|_, value| !value.is_null());
        serde_json::from_value::<T>(Json::Object(fields.clone())).map_err(D::Error::custom)?;
        Ok(Self {
            fields,
            of: PhantomData,
        })
    }
}

impl<T: JsonSchema> JsonSchema for SetFields<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::{Duration, Timeouts};

    // A field that an entry sets wins, also if it sets the built-in default.
    #[test]
    fn set_field_wins_over_defaults() {
        let defaults = Timeouts {
            call: Duration::from_secs(300),
            idle: Duration::from_secs(10),
            ..Timeouts::default()
        };
        let set: SetFields<Timeouts> = serde_json::from_value(json!({"call": "120s"})).unwrap();
        let merged = set.over(&defaults);
        assert_eq!(merged.call, Duration::from_secs(120));
        assert_eq!(merged.idle, Duration::from_secs(10));
        assert_eq!(SetFields::default().over(&defaults), defaults);
    }

    #[test]
    fn invalid_field_is_rejected() {
        let read = |value| serde_json::from_value::<SetFields<Timeouts>>(value).unwrap_err();
        let message = read(json!({"call": "soon"})).to_string();
        assert!(message.contains("a duration with units"), "{message}");
        let message = read(json!({"cal": "1s"})).to_string();
        assert!(message.contains("unknown field"), "{message}");
    }
}
