//! `tools/list`, `prompts/list`, `resources/list` and `resources/templates/list`: answered from the catalog
//! in memory. Only a backend whose list depends on the session is asked.

use http::Response;
use vmcp_crds::config::Capability;

use super::Frontend;
use crate::backend::ListKind;
use crate::catalog::PageError;
use crate::core::ClientView;
use crate::frontend::post::SessionRequest;
use crate::frontend::rejection::Rejection;
use crate::frontend::response;
use crate::frontend::response::ResponseBody;
use crate::mcp::params;

impl Frontend {
    pub(super) async fn list(
        &self,
        kind: ListKind,
        client: &impl ClientView,
        incoming: &SessionRequest<'_>,
    ) -> Response<ResponseBody> {
        let (context, request) = (incoming.context, incoming.request);
        let capability = match kind {
            ListKind::Tools => Capability::Tools,
            ListKind::Prompts => Capability::Prompts,
            ListKind::Resources | ListKind::Templates => Capability::Resources,
        };
        if !context.hot.aggregation.offers(capability) {
            return response::method_not_found(request);
        }
        let cursor = match params::cursor(request.params) {
            Ok(cursor) => cursor,
            Err(fault) => return response::invalid_params(request.id, &fault),
        };
        let goes_on = cursor.as_ref().is_some_and(|cursor| !cursor.is_empty());
        let snapshot = client.catalog_to_list(kind, goes_on, &context.passed).await;
        match snapshot.listing(kind).page(cursor.as_deref()).await {
            Ok(page) => response::list_page(request.id, &page, incoming.delivery),
            Err(PageError::Cursor(bad)) => {
                Rejection::InvalidParams.response(Some(request.id), &format!("{}: {bad}", kind.method()))
            }
            Err(PageError::NoRoom) => response::budget_exhausted_for(request.id),
        }
    }
}
