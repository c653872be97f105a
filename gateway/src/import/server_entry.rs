//! Converts one server of the imported file into a backend.

use std::collections::BTreeMap;

use vmcp_crds::config::{AggregationConfig, BackendConfig, HeaderSource, VariableSource, Variables, rules};

use super::argument_list::ArgumentList;
use super::env_file::EnvFile;
use super::field_path::{Fields, Problem, field_path};
use super::inputs::Inputs;
use super::secret_text::{is_secret_name, is_secret_url};
use super::server_kind::ServerKind;
use super::template::{Folders, Part, Template};
use super::unread_field;

/// Beginnings of a header's value that are no secret and stay in the configuration.
const AUTHENTICATION_SCHEMES: [&str; 3] = ["Bearer ", "Basic ", "Token "];

/// What all servers of a file have in common.
pub(super) struct Surroundings<'a> {
    /// The folders that references name.
    pub(super) folders: Folders,
    /// What VS Code asks the user for.
    pub(super) inputs: Inputs,
    /// Whether the servers belong to a project, so that relative paths start at its folder.
    pub(super) is_project: bool,
    /// The value of an environment variable.
    pub(super) environment: &'a dyn Fn(&str) -> Option<String>,
}

/// A server that is being converted.
pub(super) struct ServerEntry<'a> {
    /// The name of the backend.
    pub(super) name: &'a str,
    /// Receives the secrets.
    pub(super) env_file: &'a mut EnvFile,
    /// What all servers have in common.
    pub(super) surroundings: &'a Surroundings<'a>,
    /// What the user should know, although the server is imported.
    pub(super) notes: Vec<Problem>,
}

impl ServerEntry<'_> {
    /// The backend for the server with these fields; nothing if it is disabled.
    ///
    /// # Errors
    /// What the gateway cannot express.
    pub(super) fn convert(
        &mut self,
        path: &str,
        mut fields: Fields,
    ) -> Result<Option<BackendConfig>, Problem> {
        let is_disabled = fields.take_bool("disabled")?.unwrap_or(false);
        let is_enabled = fields.take_bool("enabled")?.unwrap_or(true);
        if is_disabled || !is_enabled {
            return Ok(None);
        }
        let command = fields.take_text("command")?;
        let url = self.take_url(&mut fields)?;
        let declared = match fields.take_text("type")? {
            Some(declared) => Some(declared),
            None => fields.take_text("transport")?,
        };
        let kind = ServerKind::of(
            declared.as_deref(),
            command.is_some(),
            url.as_ref().map(|(_, url)| &**url),
        )
        .map_err(|message| Problem::new(path, message))?;
        let mut backend = BackendConfig {
            name: self.name.to_owned(),
            ..BackendConfig::default()
        };
        match kind {
            ServerKind::Command => {
                self.convert_command(&mut backend, command.unwrap_or_default(), &mut fields)?;
                if let Some((url_path, _)) = url {
                    self.note(url_path, unread_field::advice("url"));
                }
            }
            ServerKind::Url(transport) => {
                let (url_path, url) = url.unwrap_or_default();
                backend.url = self.resolved(&url_path, &url, "URL")?;
                backend.transport = transport;
                backend.headers = self.headers(fields.take_fields("headers")?)?;
                if is_secret_url(&backend.url) {
                    let message = "the URL may contain a secret, and the written configuration contains the URL; do not share that file";
                    self.note(url_path, message);
                }
                if command.is_some() {
                    self.note(fields.path_of("command"), unread_field::advice("command"));
                }
            }
        }
        backend
            .check(&AggregationConfig::default())
            .map_err(|(field, message)| {
                Problem::new(path, format!("the gateway cannot use it: `{field}`: {message}"))
            })?;
        for (name, _) in fields.into_unread() {
            self.note(field_path(path, &name), unread_field::advice(&name));
        }
        Ok(Some(backend))
    }

    /// The URL and its path in the file. Windsurf writes `serverUrl`, and Gemini `httpUrl`.
    fn take_url(&self, fields: &mut Fields) -> Result<Option<(String, String)>, Problem> {
        for name in ["url", "serverUrl", "httpUrl"] {
            if let Some(url) = fields.take_text(name)? {
                return Ok(Some((fields.path_of(name), url)));
            }
        }
        Ok(None)
    }

    fn convert_command(
        &mut self,
        backend: &mut BackendConfig,
        command: String,
        fields: &mut Fields,
    ) -> Result<(), Problem> {
        let command_path = fields.path_of("command");
        if command.contains(char::is_whitespace) && !command.contains('/') {
            let message =
                "contains spaces, and is used as the name of one program; put the arguments into `args`";
            self.note(command_path.clone(), message);
        }
        let mut texts = vec![(command_path, command)];
        texts.extend(fields.take_texts("args")?);
        let arguments = ArgumentList::new(texts, &self.surroundings.folders)?;
        let project = &self.surroundings.folders.project;
        backend.working_directory = match fields.take_text("cwd")? {
            Some(directory) => {
                let directory = self.resolved(&fields.path_of("cwd"), &directory, "folder")?;
                Some(project.join(directory))
            }
            None if self.surroundings.is_project && arguments.has_relative_path() => Some(project.clone()),
            None => None,
        };
        backend.env = self.environment(fields.take_fields("env")?)?;
        let (command, notes) = arguments.into_command(|name, template| {
            backend.env.insert(name.to_owned(), self.variable(name, template));
        });
        backend.command = command;
        self.notes.extend(notes);
        Ok(())
    }

    fn environment(&mut self, fields: Fields) -> Result<Variables, Problem> {
        let mut environment = Variables::new();
        for (_, name, template) in self.templates(fields)? {
            let source = self.variable(&name, &template);
            environment.insert(name, source);
        }
        Ok(environment)
    }

    fn headers(&mut self, fields: Fields) -> Result<BTreeMap<String, HeaderSource>, Problem> {
        let mut headers = BTreeMap::new();
        for (path, name, template) in self.templates(fields)? {
            if let Err(message) = rules::header(&name) {
                self.note(path, format!("is left out: {message}"));
            } else if template.literal() == Some("") {
                self.note(
                    path,
                    "is empty, and is left out; set it in the written configuration if the server needs it",
                );
            } else {
                let (variable, prefix) = self.source(&name, &template, &AUTHENTICATION_SCHEMES);
                let source = HeaderSource {
                    env: Some(variable),
                    prefix,
                    ..HeaderSource::default()
                };
                headers.insert(name, source);
            }
        }
        Ok(headers)
    }

    /// The texts of an object, with their paths and names.
    fn templates(&self, mut fields: Fields) -> Result<Vec<(String, String, Template)>, Problem> {
        let mut templates = Vec::new();
        for name in fields.names() {
            let path = fields.path_of(&name);
            if let Some(text) = fields.take_text(&name)? {
                let template = Template::parse(&text, &self.surroundings.folders)
                    .map_err(|message| Problem::new(path.clone(), message))?;
                templates.push((path, name, template));
            }
        }
        Ok(templates)
    }

    /// The source of an environment variable of the server. An empty value is no secret.
    fn variable(&mut self, name: &str, template: &Template) -> VariableSource {
        if template.literal() == Some("") {
            return VariableSource {
                value: Some(String::new()),
                ..VariableSource::default()
            };
        }
        VariableSource {
            env: Some(self.source(name, template, &[]).0),
            ..VariableSource::default()
        }
    }

    /// The environment variable of the gateway with the value of a setting, and the text before it: the variable that the value names, or
    /// a new one in the file with the secrets. A text in `prefixes` before the variable stays in the configuration.
    fn source(&mut self, setting: &str, template: &Template, prefixes: &[&str]) -> (String, String) {
        let (prefix, part) = match &*template.0 {
            [part] => (String::new(), Some(part)),
            [Part::Text(text), part] if prefixes.contains(&&**text) => (text.clone(), Some(part)),
            _ => (String::new(), None),
        };
        match part {
            Some(Part::Variable { name, default: None }) => {
                self.env_file.require(name);
                (name.clone(), prefix)
            }
            Some(Part::Input(id)) => (self.env_file.input(id, &self.surroundings.inputs), prefix),
            _ => {
                let inputs = &self.surroundings.inputs;
                (
                    self.env_file.add(self.name, setting, template, inputs),
                    String::new(),
                )
            }
        }
    }

    /// The text with the present values of the variables, because the configuration cannot name a variable there.
    fn resolved(&mut self, path: &str, text: &str, what: &str) -> Result<String, Problem> {
        let refuse = |message: String| Err(Problem::new(path, message));
        let template = match Template::parse(text, &self.surroundings.folders) {
            Ok(template) => template,
            Err(message) => return refuse(message),
        };
        let mut resolved = String::new();
        let mut replaced = Vec::new();
        for part in &template.0 {
            match part {
                Part::Text(text) => resolved.push_str(text),
                Part::Input(id) => {
                    return refuse(format!(
                        "contains the input `{id}`; replace it by its value, and import again"
                    ));
                }
                Part::Variable { name, .. } if is_secret_name(name) => {
                    return refuse(format!(
                        "contains the variable `{name}`, whose value may be a secret, and a {what} cannot come from the environment; use \
                         a header or another {what}"
                    ));
                }
                Part::Variable { name, default } => {
                    let value = (self.surroundings.environment)(name).filter(|value| !value.is_empty());
                    let Some(value) = value.or_else(|| default.clone()) else {
                        return refuse(format!(
                            "contains the variable `{name}`, which is not set; set it, and import again"
                        ));
                    };
                    resolved.push_str(&value);
                    replaced.push(format!("`{name}`"));
                }
            }
        }
        if !replaced.is_empty() {
            let message = format!(
                "the present value of {} is written, because a {what} cannot come from the environment",
                replaced.join(" and ")
            );
            self.note(path.to_owned(), message);
        }
        Ok(resolved)
    }

    fn note(&mut self, path: String, message: impl Into<String>) {
        self.notes.push(Problem::new(path, message));
    }
}
