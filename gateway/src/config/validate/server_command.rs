//! Converts where a backend is.

use std::path::Path;
use std::sync::Arc;

use vmcp_crds::config::{BackendConfig, VariableSource, rules};

use super::directory;
use crate::config::{BackendEndpoint, ServerCommand, ValueSource};

/// The endpoint of the backend `raw`, which [`BackendConfig::check`] has validated. Relative paths start at the directory of `file`.
pub(super) fn endpoint(raw: &BackendConfig, file: &Path) -> Result<BackendEndpoint, String> {
    let Some((program, arguments)) = raw.command.split_first() else {
        return Ok(BackendEndpoint::Http {
            url: rules::endpoint(&raw.url)?,
            transport: raw.transport,
        });
    };
    let directory = directory(file);
    let variable = |(name, source): (&String, &VariableSource)| {
        let from_env = source.env.clone().map(ValueSource::Env);
        let from_file = || Some(ValueSource::File(directory.join(source.file.as_ref()?)));
        let from_value = || source.value.clone().map(ValueSource::Value);
        Some((name.clone(), from_env.or_else(from_file).or_else(from_value)?))
    };
    Ok(BackendEndpoint::Command(Arc::new(ServerCommand {
        program: program.clone(),
        arguments: arguments.to_vec(),
        variables: raw.env.iter().filter_map(variable).collect(),
        inherits_environment: false,
        directory: raw.working_directory.as_ref().map(|at| directory.join(at)),
        mode: raw.processes,
        max_processes: usize::try_from(raw.max_processes).unwrap_or(usize::MAX),
        idle_timeout: raw.idle_timeout.get(),
    })))
}
