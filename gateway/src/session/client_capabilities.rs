//! A client's capabilities in one byte, so that the session id can hold them. A recovered session declares them to
//! backends.

use serde::Deserialize;
use serde_json::value::RawValue;

/// The capabilities that decide what backends may request from the client, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ClientCapabilities(pub(super) u8);

const ROOTS: u8 = 1;
const ROOTS_LIST_CHANGED: u8 = 1 << 1;
const SAMPLING: u8 = 1 << 2;
const SAMPLING_CONTEXT: u8 = 1 << 3;
const SAMPLING_TOOLS: u8 = 1 << 4;
const ELICITATION_FORM: u8 = 1 << 5;
const ELICITATION_URL: u8 = 1 << 6;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Declared {
    roots: Option<Roots>,
    sampling: Option<Sampling>,
    elicitation: Option<Elicitation>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Roots {
    list_changed: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Sampling {
    context: Option<serde::de::IgnoredAny>,
    tools: Option<serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Elicitation {
    form: Option<serde::de::IgnoredAny>,
    url: Option<serde::de::IgnoredAny>,
}

impl ClientCapabilities {
    /// Reads the capabilities from the object that the client sent. Unreadable ones count as not declared.
    pub(super) fn of(capabilities: &RawValue) -> Self {
        let declared: Declared = serde_json::from_str(capabilities.get()).unwrap_or_default();
        let mut bits = 0;
        if let Some(roots) = declared.roots {
            bits |= ROOTS | if roots.list_changed { ROOTS_LIST_CHANGED } else { 0 };
        }
        if let Some(sampling) = declared.sampling {
            bits |= SAMPLING;
            bits |= if sampling.context.is_some() {
                SAMPLING_CONTEXT
            } else {
                0
            };
            bits |= if sampling.tools.is_some() {
                SAMPLING_TOOLS
            } else {
                0
            };
        }
        if let Some(elicitation) = declared.elicitation {
            // An empty object means forms (specification 2025-11-25, client/elicitation).
            let form = elicitation.form.is_some() || elicitation.url.is_none();
            bits |= if form { ELICITATION_FORM } else { 0 };
            bits |= if elicitation.url.is_some() {
                ELICITATION_URL
            } else {
                0
            };
        }
        Self(bits)
    }

    /// Writes the object that a client with these capabilities would send.
    pub(super) fn to_json(self) -> String {
        let has = |bit| self.0 & bit != 0;
        let mut capabilities = serde_json::Map::new();
        let mut declare = |bit, name: &str, details: &[(u8, &str, serde_json::Value)]| {
            if has(bit) {
                let details = details.iter().filter(|(bit, ..)| has(*bit));
                let details = details.map(|(_, name, value)| ((*name).to_owned(), value.clone()));
                capabilities.insert(name.to_owned(), details.collect::<serde_json::Map<_, _>>().into());
            }
        };
        let some = || serde_json::json!({});
        declare(
            ROOTS,
            "roots",
            &[(ROOTS_LIST_CHANGED, "listChanged", true.into())],
        );
        declare(
            SAMPLING,
            "sampling",
            &[
                (SAMPLING_CONTEXT, "context", some()),
                (SAMPLING_TOOLS, "tools", some()),
            ],
        );
        declare(
            ELICITATION_FORM | ELICITATION_URL,
            "elicitation",
            &[
                (ELICITATION_FORM, "form", some()),
                (ELICITATION_URL, "url", some()),
            ],
        );
        serde_json::Value::Object(capabilities).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_capability_has_one_bit() {
        // Each declared capability sets its own bit.
        for (json, bits) in [
            ("{}", 0),
            (r#"{"roots":{}}"#, ROOTS),
            (r#"{"roots":{"listChanged":true}}"#, ROOTS | ROOTS_LIST_CHANGED),
            (r#"{"sampling":{}}"#, SAMPLING),
            (
                r#"{"sampling":{"context":{},"tools":{}}}"#,
                SAMPLING | SAMPLING_CONTEXT | SAMPLING_TOOLS,
            ),
            (r#"{"elicitation":{}}"#, ELICITATION_FORM),
            (r#"{"elicitation":{"url":{}}}"#, ELICITATION_URL),
            (
                r#"{"elicitation":{"form":{},"url":{}}}"#,
                ELICITATION_FORM | ELICITATION_URL,
            ),
            (r#"{"experimental":{"x":1},"roots":5}"#, 0),
        ] {
            let raw = RawValue::from_string(json.to_owned()).unwrap();
            assert_eq!(ClientCapabilities::of(&raw), ClientCapabilities(bits), "{json}");
        }
    }

    #[test]
    fn capability_bits_round_trip_through_json() {
        // The JSON object made from the bits declares the same capabilities.
        for bits in 0..128 {
            let json = RawValue::from_string(ClientCapabilities(bits).to_json()).unwrap();
            let mut expected = bits;
            // Details without the capability mean nothing.
            if bits & ROOTS == 0 {
                expected &= !ROOTS_LIST_CHANGED;
            }
            if bits & SAMPLING == 0 {
                expected &= !(SAMPLING_CONTEXT | SAMPLING_TOOLS);
            }
            assert_eq!(
                ClientCapabilities::of(&json),
                ClientCapabilities(expected),
                "{json}"
            );
        }
    }
}
