//! `vmcp-gateway import`: converts the list of MCP servers of a desktop client into a configuration and a file with its secrets.

mod argument_list;
mod backend_name;
mod client_file;
mod conversion;
mod env_file;
mod field_path;
mod inputs;
mod ordered_json;
mod private_file;
mod secret_text;
mod server_entry;
mod server_kind;
mod shell_quote;
mod template;
mod unread_field;

use std::path::{Path, PathBuf, absolute};
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use vmcp_crds::config::{GatewayConfig, Listeners};

use conversion::Conversion;
use template::Folders;

/// Exit code for an invalid file (`EX_USAGE` in sysexits.h).
const EX_USAGE: u8 = 64;

/// The name of the file with the secrets, beside the configuration.
const ENV_FILE: &str = "vmcp.env";

/// The files of `vmcp-gateway import`.
#[derive(Debug, clap::Args)]
pub struct ImportOptions {
    /// The file of a client, for example `~/.cursor/mcp.json` or `.mcp.json`.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The configuration to write.
    #[arg(long, value_name = "FILE", default_value = "gateway.yaml")]
    pub output: PathBuf,
    /// The file to write for the secrets. Default: `vmcp.env` beside the configuration.
    #[arg(long, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// Replace files that exist.
    #[arg(long)]
    pub force: bool,
}

/// Imports the file, writes the configuration and the secrets, and prints what was done and what could not be done.
///
/// # Errors
/// When a file cannot be read or written. An invalid file, and a server that is left out, are in the exit code.
pub fn run(options: &ImportOptions) -> anyhow::Result<ExitCode> {
    let env_file = options
        .env_file
        .clone()
        .unwrap_or_else(|| options.output.with_file_name(ENV_FILE));
    check_paths(options, &env_file)?;
    let text = std::fs::read_to_string(&options.file)
        .with_context(|| format!("cannot read {}", options.file.display()))?;
    let (folders, is_project) = folders(&options.file)?;
    let environment = |name: &str| std::env::var(name).ok();
    let converted = Conversion::of(&text, &options.file, folders, is_project, &environment);
    let (conversion, config) = match converted.and_then(|converted| Ok((converted.config()?, converted))) {
        Ok((config, conversion)) => (conversion, config),
        Err(message) => {
            eprintln!("vmcp-gateway: {message}");
            return Ok(ExitCode::from(EX_USAGE));
        }
    };
    for line in conversion.messages(&options.file) {
        eprintln!("vmcp-gateway: {line}");
    }
    if conversion.backends.is_empty() {
        eprintln!(
            "vmcp-gateway: {}: no server is imported, and nothing is written",
            options.file.display()
        );
        return Ok(ExitCode::from(EX_USAGE));
    }
    let has_secrets = conversion.env_file.len() > 0;
    if has_secrets {
        private_file::create(&env_file, &conversion.env_file.text(), options.force)?;
    }
    let start = start_commands(&options.output, has_secrets.then_some(&*env_file));
    let yaml = configuration(&options.file, &start, &config)?;
    private_file::create(&options.output, &yaml, options.force)?;
    print_summary(options, &conversion, &env_file, &start);
    Ok(if conversion.rejected.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Checks that no file is overwritten unless the user says so, and the imported file never.
fn check_paths(options: &ImportOptions, env_file: &Path) -> anyhow::Result<()> {
    let is_same =
        |one: &Path, other: &Path| -> anyhow::Result<bool> { Ok(absolute(one)? == absolute(other)?) };
    for path in [&*options.output, env_file] {
        let name = path.display();
        ensure!(
            !is_same(path, &options.file)?,
            "{name} is the imported file; choose another name with --output"
        );
        ensure!(
            options.force || path.symlink_metadata().is_err(),
            "{name} exists; use --force to replace it, or choose another name with --output and --env-file"
        );
    }
    ensure!(
        !is_same(&options.output, env_file)?,
        "--output and --env-file name the same file; use two names"
    );
    Ok(())
}

/// The folders that the file can refer to, and whether the file belongs to a project.
fn folders(file: &Path) -> anyhow::Result<(Folders, bool)> {
    let file = absolute(file).with_context(|| format!("cannot find the folder of {}", file.display()))?;
    let folder = file.parent().unwrap_or(Path::new("/"));
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let is_editor_folder = folder
        .file_name()
        .is_some_and(|name| name == ".vscode" || name == ".cursor");
    let project = if is_editor_folder {
        folder.parent().unwrap_or(folder)
    } else {
        folder
    };
    let is_project = (is_editor_folder && home.as_deref() != Some(project))
        || file.file_name().is_some_and(|name| name == ".mcp.json");
    let project = project.to_owned();
    Ok((Folders { project, home }, is_project))
}

/// The commands of a shell that start the gateway.
fn start_commands(output: &Path, env_file: Option<&Path>) -> Vec<String> {
    let load = env_file.map(|env_file| format!("set -a; . {}; set +a", shell_quote::path(env_file)));
    let output = shell_quote::quoted(&output.display().to_string());
    load.into_iter()
        .chain([format!("vmcp-gateway serve --config {output}")])
        .collect()
}

/// The text of the configuration, with a comment that says how to use it.
fn configuration(file: &Path, start: &[String], config: &GatewayConfig) -> anyhow::Result<String> {
    let file = file.file_name().unwrap_or_default().to_string_lossy();
    let comment = format!("Imported from {file}. Start: {}", start.join("; "));
    let comment: String = comment
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    Ok(format!("# {comment}\n{}", serde_yaml::to_string(config)?))
}

fn print_summary(options: &ImportOptions, conversion: &Conversion, env_file: &Path, start: &[String]) {
    let names: Vec<_> = conversion
        .backends
        .iter()
        .map(|backend| backend.name.as_str())
        .collect();
    println!(
        "wrote {}: {} ({})",
        options.output.display(),
        count(names.len(), "server"),
        names.join(", ")
    );
    let secrets = &conversion.env_file;
    if secrets.len() > 0 {
        println!(
            "wrote {}, which only you can read: {}",
            env_file.display(),
            count(secrets.len(), "variable")
        );
    }
    let to_enter: Vec<_> = secrets.to_enter().collect();
    if !to_enter.is_empty() {
        println!(
            "enter the values in {}: {}",
            env_file.display(),
            to_enter.join(", ")
        );
    }
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let required = secrets.required().map(|name| {
        let state = if is_set(name) { "" } else { " (not set now)" };
        format!("{name}{state}")
    });
    let required: Vec<_> = required.collect();
    if !required.is_empty() {
        println!("set in the environment of the gateway: {}", required.join(", "));
    }
    println!("start the gateway:\n  {}", start.join("\n  "));
    let listeners = Listeners::default();
    println!("then connect clients to http://{}/mcp", listeners.mcp);
}

fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}
