//! The program of a server: its image, its command and its arguments.

use vmcp_crds::v1alpha1::{BRIDGE_ADMIN_PORT, MCPServer, ServerTransport};

use super::{BRIDGE_DIR, ServerImages};

/// What the server's container runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    /// The image.
    pub(super) image: String,
    /// The command, instead of the entrypoint of the image.
    pub(super) command: Vec<String>,
    /// The arguments.
    pub(super) args: Vec<String>,
}

/// The path of the bridge in the server's container.
pub(super) fn bridge_path() -> String {
    format!("{BRIDGE_DIR}/vmcp-gateway")
}

/// The program of `server`. One that speaks on standard input and output is started by the bridge.
pub(super) fn program(server: &MCPServer, images: &ServerImages) -> Program {
    let own = own_program(server, images);
    if server.spec.transport() != ServerTransport::Stdio {
        return own;
    }
    let mut args = bridge_options(server);
    args.push("--".to_owned());
    args.extend(own.command);
    args.extend(own.args);
    Program {
        image: own.image,
        command: vec![bridge_path()],
        args,
    }
}

fn own_program(server: &MCPServer, images: &ServerImages) -> Program {
    let spec = &server.spec;
    let words = |words: &[&str], package: String| {
        let words = words.iter().map(|word| (*word).to_owned());
        words.chain([package]).collect()
    };
    let (image, command) = match (&spec.npm, &spec.pypi) {
        // `--yes` installs without a question, for which there is no terminal.
        (Some(package), _) => (&images.npm, words(&["npx", "--yes"], package.specifier())),
        (None, Some(package)) => (&images.pypi, words(&["uvx"], package.specifier())),
        // The reconcile has rejected a spec without an image.
        (None, None) => (
            spec.image.as_ref().unwrap_or(&images.gateway),
            spec.command.clone(),
        ),
    };
    Program {
        image: image.clone(),
        command,
        args: spec.args.clone(),
    }
}

fn bridge_options(server: &MCPServer) -> Vec<String> {
    let spec = &server.spec;
    let mut options = vec![
        "bridge".to_owned(),
        "--listen".to_owned(),
        format!("[::]:{}", spec.port()),
        "--admin".to_owned(),
        format!("[::]:{BRIDGE_ADMIN_PORT}"),
    ];
    let mut add = |option: &str, value: Option<String>| {
        options.extend(value.into_iter().flat_map(|value| [option.to_owned(), value]));
    };
    add(
        "--processes",
        spec.processes.map(|mode| mode.as_option().to_owned()),
    );
    add(
        "--max-processes",
        spec.max_processes.map(|count| count.to_string()),
    );
    add("--idle-timeout", spec.idle_timeout.map(|time| time.to_string()));
    options
}
