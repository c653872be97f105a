//! Converts the text of a client's file, without reading or writing files.

use std::path::Path;

use vmcp_crds::config::{BackendConfig, GatewayConfig, HotConfig};

use super::backend_name::BackendNames;
use super::client_file::ClientFile;
use super::env_file::EnvFile;
use super::field_path::{Fields, Problem};
use super::ordered_json::OrderedJson;
use super::server_entry::{ServerEntry, Surroundings};
use super::template::Folders;

/// What became of a client's file.
pub(super) struct Conversion {
    /// The backends, in the order of the file.
    pub(super) backends: Vec<BackendConfig>,
    /// The secrets of the backends.
    pub(super) env_file: EnvFile,
    /// Servers that the gateway cannot use.
    pub(super) rejected: Vec<Problem>,
    /// What else the user should know: fields without effect, disabled servers, new names.
    notes: Vec<Problem>,
}

impl Conversion {
    /// Converts `text`, the content of `file`.
    ///
    /// # Errors
    /// Why the file has no servers. A server that cannot be converted is in [`Self::rejected`], and the others are converted.
    pub(super) fn of(
        text: &str,
        file: &Path,
        folders: Folders,
        is_project: bool,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let json = OrderedJson::parse(text, file)?;
        let env_file = EnvFile::new(&json);
        let client = ClientFile::find(json).map_err(|problem| located(file, &problem))?;
        let surroundings = Surroundings {
            folders,
            inputs: client.inputs,
            is_project,
            environment,
        };
        let mut conversion = Self {
            backends: Vec::new(),
            env_file,
            rejected: Vec::new(),
            notes: Vec::new(),
        };
        let mut names = BackendNames::new(client.servers.iter().map(|(_, name, _)| &**name));
        for (path, name, fields) in client.servers {
            // Variables and the name of a server that is left out are free for the next one.
            let (mut free_names, mut env_file) = (names.clone(), conversion.env_file.clone());
            let backend_name = free_names.unique(&name);
            let mut entry = ServerEntry {
                name: &backend_name,
                env_file: &mut env_file,
                surroundings: &surroundings,
                notes: Vec::new(),
            };
            let converted = Fields::new(&path, fields).and_then(|fields| entry.convert(&path, fields));
            match converted {
                Ok(Some(backend)) => {
                    conversion.notes.append(&mut entry.notes);
                    if backend_name != name {
                        let message =
                            format!("is named `{backend_name}`, because a name is a unique DNS label");
                        conversion.notes.push(Problem::new(path, message));
                    }
                    conversion.backends.push(backend);
                    (names, conversion.env_file) = (free_names, env_file);
                }
                Ok(None) => conversion
                    .notes
                    .push(Problem::new(path, "is not imported, because it is disabled")),
                Err(problem) => conversion.rejected.push(problem),
            }
        }
        if !client.ignored.is_empty() {
            let message = format!("ignored fields beside the servers: {}", client.ignored.join(", "));
            conversion.notes.push(Problem::new(".", message));
        }
        Ok(conversion)
    }

    /// The configuration with these backends.
    ///
    /// # Errors
    /// When the backends cannot stand in one configuration.
    pub(super) fn config(&self) -> Result<GatewayConfig, String> {
        let hot = HotConfig {
            backends: self.backends.clone(),
            ..HotConfig::default()
        };
        hot.check().map_err(|(field, message)| {
            format!("the gateway cannot use these servers: `{field}`: {message}")
        })?;
        let mut config =
            GatewayConfig::parse("version: v1", Path::new("")).map_err(|error| error.to_string())?;
        config.hot = Some(hot);
        Ok(config)
    }

    /// The lines about everything that is not in the configuration as it was in `file`.
    pub(super) fn messages<'a>(&'a self, file: &'a Path) -> impl Iterator<Item = String> {
        let rejected = self.rejected.iter().map(|problem| {
            let message = format!("not imported: {}", problem.message);
            located(file, &Problem::new(&*problem.path, message))
        });
        rejected.chain(self.notes.iter().map(|problem| located(file, problem)))
    }
}

fn located(file: &Path, problem: &Problem) -> String {
    let file = file.display();
    match &*problem.path {
        "." => format!("{file}: {}", problem.message),
        path => format!("{file}: at `{path}`: {}", problem.message),
    }
}
