//! The texts that VS Code asks the user for: the list `inputs` beside the servers.

use std::collections::BTreeMap;

use super::field_path::{Fields, Problem};
use super::ordered_json::OrderedJson;

/// One input.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Input {
    /// What VS Code shows to the user.
    pub(super) description: String,
    /// The text that the user gets without entering one.
    pub(super) default: Option<String>,
}

/// The inputs by their ids.
#[derive(Default)]
pub(super) struct Inputs(BTreeMap<String, Input>);

impl Inputs {
    /// The inputs in the list `value` at `path`, if there is one.
    pub(super) fn parse(value: Option<OrderedJson>, path: &str) -> Result<Self, Problem> {
        let items = match value {
            None | Some(OrderedJson::Null) => return Ok(Self::default()),
            Some(OrderedJson::List(items)) => items,
            Some(other) => {
                let message = format!("found {}; expected a list of inputs", other.kind());
                return Err(Problem::new(path, message));
            }
        };
        let mut inputs = BTreeMap::new();
        for (index, item) in items.into_iter().enumerate() {
            let mut fields = Fields::new(&format!("{path}[{index}]"), item)?;
            let Some(id) = fields.take_text("id")? else {
                return Err(Problem::new(
                    fields.path_of("id"),
                    "missing; every input needs an id",
                ));
            };
            let input = Input {
                description: fields.take_text("description")?.unwrap_or_else(|| id.clone()),
                default: fields.take_text("default")?,
            };
            inputs.insert(id, input);
        }
        Ok(Self(inputs))
    }

    /// The input `id`. An input that the list lacks has only its id.
    pub(super) fn get(&self, id: &str) -> Input {
        let unlisted = || Input {
            description: id.to_owned(),
            default: None,
        };
        self.0.get(id).cloned().unwrap_or_else(unlisted)
    }
}
