//! Texts with references such as `${TOKEN}`, as clients expand them.
//!
//! | reference | client | stands for |
//! | --- | --- | --- |
//! | `${NAME}`, `${NAME:-default}` | Claude Code | an environment variable |
//! | `${env:NAME}` | VS Code, Cursor | an environment variable |
//! | `${input:ID}` | VS Code | a text that the user enters |
//! | `${workspaceFolder}`, `${workspaceFolderBasename}`, `${userHome}`, `${/}`, `${pathSeparator}` | VS Code, Cursor | a text |

use std::path::PathBuf;

/// A part of a text.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub(super) enum Part {
    /// Text that stands for itself.
    Text(String),
    /// The value of an environment variable, or `default` if it is empty or not set.
    Variable { name: String, default: Option<String> },
    /// The text that the user enters for the input with this id.
    Input(String),
}

/// A text with references. Two texts never follow each other.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub(super) struct Template(pub(super) Vec<Part>);

/// The folders that references can name.
pub(super) struct Folders {
    /// The folder of the project that the file belongs to.
    pub(super) project: PathBuf,
    /// The user's home.
    pub(super) home: Option<PathBuf>,
}

impl Template {
    /// Finds the references in `text`.
    ///
    /// # Errors
    /// When a reference is unknown. The message does not contain it, because it may be a part of a secret.
    pub(super) fn parse(text: &str, folders: &Folders) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, reference)) = rest.split_once("${") {
            let Some((body, behind)) = reference.split_once('}') else {
                break;
            };
            push_text(&mut parts, before);
            match reference_of(body, folders)? {
                Part::Text(text) => push_text(&mut parts, &text),
                part => parts.push(part),
            }
            rest = behind;
        }
        push_text(&mut parts, rest);
        Ok(Self(parts))
    }

    /// The text, if it has no references.
    pub(super) fn literal(&self) -> Option<&str> {
        match &*self.0 {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Text(last)) => last.push_str(text),
        _ => parts.push(Part::Text(text.to_owned())),
    }
}

fn reference_of(body: &str, folders: &Folders) -> Result<Part, String> {
    let folder = |folder: &std::path::Path| Ok(Part::Text(folder.display().to_string()));
    if let Some(id) = body.strip_prefix("input:") {
        return Ok(Part::Input(id.to_owned()));
    }
    if let Some(name) = body.strip_prefix("env:") {
        return variable(name, None).ok_or_else(unknown);
    }
    match body {
        "workspaceFolder" => return folder(&folders.project),
        "workspaceFolderBasename" => {
            let name = folders.project.file_name().unwrap_or_default();
            return Ok(Part::Text(name.to_string_lossy().into_owned()));
        }
        "userHome" => {
            let home = folders.home.as_deref();
            return home.map_or_else(|| Err("`${userHome}`: HOME is not set".to_owned()), folder);
        }
        "/" | "pathSeparator" => return Ok(Part::Text("/".to_owned())),
        _ => {}
    }
    let (name, default) = match body.split_once(":-") {
        Some((name, default)) => (name, Some(default.to_owned())),
        None => (body, None),
    };
    variable(name, default).ok_or_else(unknown)
}

fn variable(name: &str, default: Option<String>) -> Option<Part> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let starts_well = name.starts_with(|first: char| !first.is_ascii_digit());
    (starts_well && name.bytes().all(is_word)).then(|| Part::Variable {
        name: name.to_owned(),
        default,
    })
}

fn unknown() -> String {
    "contains an unknown reference `${...}`; known are ${NAME}, ${NAME:-default}, ${env:NAME}, ${input:ID}, ${workspaceFolder}, \
     ${workspaceFolderBasename}, ${userHome} and ${pathSeparator}; replace it by its value, and import again"
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Part>, String> {
        let folders = Folders {
            project: "/work/shop".into(),
            home: Some("/home/ada".into()),
        };
        Template::parse(text, &folders).map(|template| template.0)
    }

    fn text(text: &str) -> Part {
        Part::Text(text.to_owned())
    }

    fn variable(name: &str, default: Option<&str>) -> Part {
        Part::Variable {
            name: name.to_owned(),
            default: default.map(str::to_owned),
        }
    }

    #[test]
    fn references_of_all_clients_are_found() {
        for (found, expected) in [
            ("", vec![]),
            (
                "plain $HOME {x} ${unclosed",
                vec![text("plain $HOME {x} ${unclosed")],
            ),
            ("${TOKEN}", vec![variable("TOKEN", None)]),
            (
                "Bearer ${env:TOKEN}!",
                vec![text("Bearer "), variable("TOKEN", None), text("!")],
            ),
            (
                "${URL:-http://a}/x",
                vec![variable("URL", Some("http://a")), text("/x")],
            ),
            ("${EMPTY:-}", vec![variable("EMPTY", Some(""))]),
            ("${input:api-key}", vec![Part::Input("api-key".to_owned())]),
            (
                "${workspaceFolder}${/}src:${userHome}${pathSeparator}x",
                vec![text("/work/shop/src:/home/ada/x")],
            ),
            ("${workspaceFolderBasename}", vec![text("shop")]),
        ] {
            assert_eq!(parse(found).unwrap(), expected, "{found}");
        }
    }

    // A reference that cannot be resolved is an error and never passed on as text.
    #[test]
    fn unknown_references_are_errors() {
        for found in [
            "${command:pick}",
            "${config:a.b}",
            "${}",
            "${9}",
            "${env:a b}",
            "${a.b:-x}",
        ] {
            let error = parse(found).unwrap_err();
            assert!(
                error.starts_with("contains an unknown reference"),
                "{found}: {error}"
            );
        }
    }
}
