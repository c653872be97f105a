//! Locations in the imported file, and the fields of an object there.

use super::ordered_json::OrderedJson;

/// A problem at a place of the imported file. The message never contains a value of `env`, `headers`, `args` or `url`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// The path in the JSON, for example `mcpServers.github.env.TOKEN`.
    pub(super) path: String,
    /// What was found, and what to do.
    pub(super) message: String,
}

impl Problem {
    pub(super) fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
        }
    }
}

/// The path of the field `name` of the object at `parent`.
pub(super) fn field_path(parent: &str, name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let name = if !name.is_empty() && name.bytes().all(is_plain) {
        name.to_owned()
    } else {
        format!("{name:?}")
    };
    if parent.is_empty() {
        name
    } else {
        format!("{parent}.{name}")
    }
}

/// The fields of an object that have not been read yet.
pub(super) struct Fields {
    path: String,
    unread: Vec<(String, OrderedJson)>,
}

impl Fields {
    /// The fields of the object `value` at `path`.
    pub(super) fn new(path: &str, value: OrderedJson) -> Result<Self, Problem> {
        match value {
            OrderedJson::Object(unread) => Ok(Self {
                path: path.to_owned(),
                unread,
            }),
            other => Err(Problem::new(path, expected("an object", &other))),
        }
    }

    /// The path of the field `name`.
    pub(super) fn path_of(&self, name: &str) -> String {
        field_path(&self.path, name)
    }

    /// The names of the fields.
    pub(super) fn names(&self) -> Vec<String> {
        self.unread.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Takes the field `name`, if it is there and not `null`.
    pub(super) fn take(&mut self, name: &str) -> Option<OrderedJson> {
        let index = self.unread.iter().position(|(other, _)| other == name)?;
        Some(self.unread.remove(index).1).filter(|value| *value != OrderedJson::Null)
    }

    /// Takes a text. Numbers and booleans are texts, too, as they are in an environment.
    pub(super) fn take_text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let path = self.path_of(name);
        self.take(name).map(|value| text(&path, value)).transpose()
    }

    /// Takes a boolean.
    pub(super) fn take_bool(&mut self, name: &str) -> Result<Option<bool>, Problem> {
        match self.take(name) {
            None => Ok(None),
            Some(OrderedJson::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(Problem::new(
                self.path_of(name),
                expected("true or false", &other),
            )),
        }
    }

    /// Takes a list of texts, with their paths.
    pub(super) fn take_texts(&mut self, name: &str) -> Result<Vec<(String, String)>, Problem> {
        let path = self.path_of(name);
        let items = match self.take(name) {
            None => return Ok(Vec::new()),
            Some(OrderedJson::List(items)) => items,
            Some(other) => return Err(Problem::new(path, expected("a list of texts", &other))),
        };
        let items = items.into_iter().enumerate();
        items
            .map(|(index, item)| {
                let path = format!("{path}[{index}]");
                text(&path, item).map(|text| (path, text))
            })
            .collect()
    }

    /// Takes an object; an absent one has no fields.
    pub(super) fn take_fields(&mut self, name: &str) -> Result<Self, Problem> {
        let path = self.path_of(name);
        let value = self.take(name).unwrap_or(OrderedJson::Object(Vec::new()));
        Self::new(&path, value)
    }

    /// The fields that nothing has taken, by name.
    pub(super) fn into_unread(self) -> Vec<(String, OrderedJson)> {
        self.unread
    }
}

fn text(path: &str, value: OrderedJson) -> Result<String, Problem> {
    match value {
        OrderedJson::Text(text) if text.contains('\0') => Err(Problem::new(
            path,
            "contains a NUL character, which no program can receive",
        )),
        OrderedJson::Text(text) | OrderedJson::Number(text) => Ok(text),
        OrderedJson::Bool(value) => Ok(value.to_string()),
        other => Err(Problem::new(path, expected("text", &other))),
    }
}

fn expected(kind: &str, found: &OrderedJson) -> String {
    format!("found {}; expected {kind}", found.kind())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusual_names_are_quoted_in_paths() {
        assert_eq!(field_path("", "mcpServers"), "mcpServers");
        assert_eq!(field_path("mcpServers", "my-server_2"), "mcpServers.my-server_2");
        assert_eq!(field_path("mcpServers", "My Server"), "mcpServers.\"My Server\"");
        assert_eq!(field_path("a", ""), "a.\"\"");
    }
}
