//! How the gateway reaches an imported server.

use std::path::Path;

use vmcp_crds::config::BackendTransport;

/// How the gateway reaches a server.
pub(super) enum ServerKind {
    /// It runs the program in `command`.
    Command,
    /// It sends requests to `url`.
    Url(BackendTransport),
}

impl ServerKind {
    /// The kind of a server that declares this type, or none.
    ///
    /// # Errors
    /// When the gateway does not support the type, or its field is missing.
    pub(super) fn of(declared: Option<&str>, has_command: bool, url: Option<&str>) -> Result<Self, String> {
        let is_word = |character: &char| character.is_ascii_alphanumeric();
        let normalized: Option<String> = declared.map(|declared| {
            declared
                .chars()
                .filter(is_word)
                .map(|character| character.to_ascii_lowercase())
                .collect()
        });
        let kind = match (normalized.as_deref(), has_command, url) {
            (Some("stdio"), ..) | (None, true, None) => Self::Command,
            (Some("http" | "streamablehttp"), ..) => Self::Url(BackendTransport::StreamableHttp),
            (Some("sse"), ..) => Self::Url(BackendTransport::Sse),
            (Some(_), ..) => {
                let declared = declared.unwrap_or_default();
                return Err(format!(
                    "found the type {declared:?}; the gateway supports stdio, http and sse"
                ));
            }
            (None, false, Some(url)) if is_stream(url) => Self::Url(BackendTransport::Sse),
            (None, false, Some(_)) => Self::Url(BackendTransport::StreamableHttp),
            (None, true, Some(_)) => {
                return Err("has `command` and `url`; keep one of them, or set `type`".to_owned());
            }
            (None, false, None) => return Err("has neither `command` nor `url`; add one of them".to_owned()),
        };
        match kind {
            Self::Command if !has_command => Err("has the type stdio, and no `command`; add it".to_owned()),
            Self::Url(_) if url.is_none() => {
                Err("has the type of a remote server, and no `url`; add it".to_owned())
            }
            kind => Ok(kind),
        }
    }
}

/// Whether the URL is, by convention, that of an HTTP+SSE stream.
fn is_stream(url: &str) -> bool {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    Path::new(path.trim_end_matches('/')).ends_with("sse")
}
