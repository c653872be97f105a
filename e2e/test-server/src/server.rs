//! The protocol side: which method leads where.

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CancelTaskParams, CompleteRequestParams, CompleteResult,
    GetPromptRequestParams, GetPromptResponse, GetTaskParams, GetTaskResult, Implementation,
    ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult, ListToolsResult,
    PaginatedRequestParams, ReadResourceRequestParams, ReadResourceResponse, ServerCapabilities,
    ServerConfig, SetLevelRequestParams, SubscribeRequestParams, SubscriptionFilter, Tool,
    UnsubscribeRequestParams, UpdateTaskParams,
};
use rmcp::service::{NotificationContext, RequestContext, SubscriptionContext};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::list_edits::page;
use crate::session::Session;
use crate::test_server::Shared;
use crate::{prompts, resources, tools};

/// One session, or one request of a client without a session.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) shared: Arc<Shared>,
    pub(crate) session: Arc<Session>,
}

impl Server {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            session: Arc::default(),
        }
    }
}

/// Tells the gate that a session is ready. A request extension.
///
/// rmcp accepts `notifications/initialized` before it acts on it. A test that has seen it accepted may at once
/// make the test server notify all sessions, and this session has to be among them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ready(CancellationToken);

impl Ready {
    /// Waits for the session, but not for one that is ready already, and is not told again.
    pub(crate) async fn wait(&self) {
        let ready = tokio::time::timeout(Duration::from_secs(1), self.0.cancelled()).await;
        if ready.is_err() {
            tracing::debug!("a session that was initialized did not become ready");
        }
    }
}

type Context = RequestContext<RoleServer>;
type Page = Option<PaginatedRequestParams>;

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_logging()
            .enable_completions()
            .enable_prompts()
            .enable_prompts_list_changed()
            .enable_resources()
            .enable_resources_list_changed()
            .enable_resources_subscribe()
            .enable_tools()
            .enable_tool_list_changed()
            .enable_tasks()
            .build();
        ServerConfig::new(capabilities)
            .with_server_info(Implementation::new(
                self.shared.args.name.clone(),
                env!("CARGO_PKG_VERSION"),
            ))
            .with_instructions("A server for tests. Nothing here does anything.")
    }

    async fn on_initialized(&self, context: NotificationContext<RoleServer>) {
        let parts = context.extensions.get::<Parts>();
        let id = parts.and_then(|parts| parts.headers.get("mcp-session-id")?.to_str().ok());
        self.shared
            .audience
            .join(&self.session, id.map(str::to_owned), context.peer.clone());
        if let Some(ready) = parts.and_then(|parts| parts.extensions.get::<Ready>()) {
            ready.0.cancel();
        }
    }

    async fn list_tools(&self, request: Page, _context: Context) -> Result<ListToolsResult, ErrorData> {
        let (tools, next) = self.page(tools::list(self), request)?;
        let mut result = ListToolsResult::with_all_items(tools);
        result.next_cursor = next;
        Ok(result)
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: Context,
    ) -> Result<CallToolResponse, ErrorData> {
        tools::call(self, request, context).await
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        tools::list(self).into_iter().find(|tool| tool.name == name)
    }

    async fn list_prompts(&self, request: Page, _context: Context) -> Result<ListPromptsResult, ErrorData> {
        let (prompts, next) = self.page(prompts::list(&self.shared), request)?;
        let mut result = ListPromptsResult::with_all_items(prompts);
        result.next_cursor = next;
        Ok(result)
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        context: Context,
    ) -> Result<GetPromptResponse, ErrorData> {
        prompts::get(&self.shared, &request, &context)
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        _context: Context,
    ) -> Result<CompleteResult, ErrorData> {
        prompts::complete(&request)
    }

    async fn list_resources(
        &self,
        request: Page,
        _context: Context,
    ) -> Result<ListResourcesResult, ErrorData> {
        let (resources, next) = self.page(resources::list(&self.shared), request)?;
        let mut result = ListResourcesResult::with_all_items(resources);
        result.next_cursor = next;
        Ok(result)
    }

    async fn list_resource_templates(
        &self,
        _request: Page,
        _context: Context,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Ok(ListResourceTemplatesResult::with_all_items(resources::templates()))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _context: Context,
    ) -> Result<ReadResourceResponse, ErrorData> {
        resources::read(&self.shared, &request.uri)
    }

    async fn subscribe(&self, request: SubscribeRequestParams, _context: Context) -> Result<(), ErrorData> {
        self.session.subscribe(request.uri);
        Ok(())
    }

    async fn unsubscribe(
        &self,
        request: UnsubscribeRequestParams,
        _context: Context,
    ) -> Result<(), ErrorData> {
        self.session.unsubscribe(&request.uri);
        Ok(())
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let mut changes = self.shared.audience.listen();
        loop {
            let change = tokio::select! {
                change = changes.recv() => change,
                () = context.cancelled() => return Ok(()),
            };
            match change {
                Ok(change) => change.send_listener(context.sink()).await,
                Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "a listener is too slow"),
                Err(RecvError::Closed) => return Ok(()),
            }
        }
    }

    async fn get_task(&self, request: GetTaskParams, _context: Context) -> Result<GetTaskResult, ErrorData> {
        self.shared
            .tasks
            .0
            .get_task(&request.task_id)
            .map(GetTaskResult::new)
    }

    async fn update_task(&self, request: UpdateTaskParams, _context: Context) -> Result<(), ErrorData> {
        self.shared
            .tasks
            .0
            .update_task(&request.task_id, request.input_responses)
    }

    async fn cancel_task(&self, request: CancelTaskParams, _context: Context) -> Result<(), ErrorData> {
        self.shared.tasks.0.cancel_task(&request.task_id)
    }

    async fn set_level(&self, request: SetLevelRequestParams, _context: Context) -> Result<(), ErrorData> {
        self.session.set_level(request.level);
        Ok(())
    }
}

impl Server {
    fn page<T>(&self, items: Vec<T>, request: Page) -> Result<(Vec<T>, Option<String>), ErrorData> {
        let cursor = request.and_then(|request| request.cursor);
        page(items, self.shared.args.page_size, cursor.as_deref())
    }
}
