//! What a backend offers, page by page to the end.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Backend, BackendError, UpstreamSession};
use crate::wire::jsonrpc;

/// The most pages that are followed: a backend whose pages never end would otherwise own our memory.
const MAX_PAGES: usize = 1000;

/// One thing that a backend offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name at the backend.
    pub name: String,
    /// The whole object, as the backend wrote it.
    pub json: Bytes,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToolsPage<'a> {
    #[serde(borrow)]
    tools: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    next_cursor: Option<&'a RawValue>,
}

impl Backend {
    /// Every tool of the backend.
    ///
    /// # Errors
    /// When a page cannot be had or read.
    pub async fn list_tools(&self, session: &UpstreamSession) -> Result<Vec<Listed>, BackendError> {
        let mut tools = Vec::new();
        let mut params = "{}".to_owned();
        for _ in 0..MAX_PAGES {
            let result = self.ask(session, "tools/list", params.as_bytes()).await?;
            let page: ToolsPage<'_> = serde_json::from_str(result.get())
                .map_err(|error| BackendError::Invalid(format!("tools/list: {error}")))?;
            for tool in page.tools {
                tools.push(listed(tool)?);
            }
            match page.next_cursor {
                None => return Ok(tools),
                Some(cursor) => params = format!(r#"{{"cursor":{}}}"#, cursor.get()),
            }
        }
        Err(BackendError::Invalid(format!(
            "tools/list has more than {MAX_PAGES} pages"
        )))
    }
}

fn listed(item: &RawValue) -> Result<Listed, BackendError> {
    let (_, name) = jsonrpc::Named::parse(Some(item)).map_err(|fault| {
        BackendError::Invalid(format!("tools/list: a tool without a usable name: {fault}"))
    })?;
    Ok(Listed {
        name: name.into_owned(),
        json: Bytes::copy_from_slice(item.get().as_bytes()),
    })
}
