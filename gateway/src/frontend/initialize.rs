//! `initialize`: creates a session. No backend is contacted.

use http::{HeaderValue, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use vmcp_crds::config::Capability;

use super::Frontend;
use crate::backend::ServerCapabilities;
use crate::config::Aggregation;
use crate::frontend::rejection::Rejection;
use crate::frontend::request_context::RequestContext;
use crate::frontend::response;
use crate::frontend::response::ResponseBody;
use crate::mcp::header_names;
use crate::mcp::jsonrpc::Request;
use crate::mcp::params;
use crate::mcp::revision::Revision;
use crate::session::ClientHandshake;

/// Whether clients with an open stream are notified when a list changes.
const LIST_CHANGED: bool = true;
/// Whether clients with an open stream are notified when a subscribed resource changes.
const SUBSCRIBE: bool = true;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OwnInitializeResult<'a> {
    protocol_version: &'static str,
    capabilities: OwnCapabilities,
    server_info: ServerInfo<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instructions: Option<&'a str>,
}

/// The capabilities that the gateway declares. They follow the configuration, not the backends' current
/// state: a session outlives the absence of a backend, and new backends appear during a session.
#[derive(Serialize)]
struct OwnCapabilities {
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<Changing>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompts: Option<Changing>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resources: Option<Resources>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completions: Option<Empty>,
    /// Log messages of all backends that send them reach the client, and its log level is sent to all of
    /// them.
    #[serde(skip_serializing_if = "Option::is_none")]
    logging: Option<Empty>,
}

/// Capability of a list that may change.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Changing {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    list_changed: bool,
}

/// Capability of the resources, some of which can be subscribed to.
#[derive(Serialize)]
struct Resources {
    #[serde(flatten)]
    list: Changing,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    subscribe: bool,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
#[serde(untagged)]
enum ServerInfo<'a> {
    /// The identity of the gateway.
    Own {
        name: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<&'a str>,
        version: &'a str,
    },
    /// The identity of the backend, as JSON.
    Backend(&'a RawValue),
}

impl OwnCapabilities {
    fn of(aggregation: &Aggregation) -> Self {
        let offers = |capability| aggregation.offers(capability);
        let changing = |capability| {
            offers(capability).then_some(Changing {
                list_changed: LIST_CHANGED,
            })
        };
        Self {
            tools: changing(Capability::Tools),
            prompts: changing(Capability::Prompts),
            resources: changing(Capability::Resources).map(|list| Resources {
                list,
                subscribe: SUBSCRIBE,
            }),
            completions: offers(Capability::Completions).then_some(Empty {}),
            logging: Some(Empty {}),
        }
    }

    /// The capabilities that the backend declares.
    fn of_backend(declared: ServerCapabilities) -> Self {
        let changing = |is_declared: bool| {
            is_declared.then_some(Changing {
                list_changed: LIST_CHANGED,
            })
        };
        Self {
            tools: changing(declared.tools),
            prompts: changing(declared.prompts),
            resources: changing(declared.resources).map(|list| Resources {
                list,
                subscribe: declared.subscribe,
            }),
            completions: declared.completions.then_some(Empty {}),
            logging: declared.logging.then_some(Empty {}),
        }
    }
}

impl Frontend {
    pub(super) async fn initialize(
        &self,
        context: &RequestContext,
        request: &Request<'_>,
    ) -> Response<ResponseBody> {
        let params = match params::initialize(request.params) {
            Ok(params) => params,
            Err(fault) => return response::invalid_params(request.id, &fault),
        };
        let RequestContext { hot, principal, .. } = context;
        let own_rate = hot
            .limits
            .initializes_per_second_per_principal(principal.is_anonymous());
        let rate = hot.limits.initializes_per_second;
        // The principal's own rate first: requests beyond it must not use up the rate that all clients share.
        let own_allows = own_rate.is_none_or(|rate| self.principal_session_rate.allows(principal, rate));
        if !own_allows || !self.session_rate.allows(rate) {
            let message = if own_allows {
                "Too many sessions are being opened; try again"
            } else {
                "You open too many sessions in a second; try again"
            };
            return Rejection::LimitReached.response(Some(request.id), message);
        }
        let revision = Revision::negotiate(&params.protocol_version);
        let client = ClientHandshake {
            revision,
            capabilities: &params.capabilities,
            info: &params.client_info,
        };
        let limits = hot.limits.sessions(principal.is_anonymous());
        let session_id = match self.sessions.create(principal, &client, limits).await {
            Ok(session_id) => session_id,
            Err(reason) => return response::session_not_created(request.id, &reason),
        };
        let snapshot = self.core.catalog().snapshot();
        let identity = &hot.identity;
        let instructions = identity.instructions.as_ref().or(snapshot.instructions.as_ref());
        let presented = hot
            .presents_backend
            .then(|| self.core.catalog().first_offer())
            .flatten();
        let server_info = presented.as_ref().and_then(|offer| offer.server_info.as_deref());
        let server_info = server_info.and_then(|info| serde_json::from_str::<&RawValue>(info).ok());
        let result = OwnInitializeResult {
            protocol_version: revision.as_str(),
            capabilities: match &presented {
                Some(offer) => OwnCapabilities::of_backend(offer.capabilities),
                None => OwnCapabilities::of(&hot.aggregation),
            },
            server_info: match server_info {
                Some(info) => ServerInfo::Backend(info),
                None => ServerInfo::Own {
                    name: identity.name.as_deref().unwrap_or(&self.server.name),
                    title: identity.title.as_deref(),
                    version: identity.version.as_deref().unwrap_or(env!("CARGO_PKG_VERSION")),
                },
            },
            instructions: instructions.map(String::as_str).filter(|text| !text.is_empty()),
        };
        match (serde_json::to_vec(&result), HeaderValue::try_from(session_id)) {
            (Ok(result), Ok(session_id)) => {
                let mut response = response::result(request.id, &result);
                response
                    .headers_mut()
                    .insert(header_names::SESSION_ID, session_id);
                response
            }
            _ => {
                let message = "The answer cannot be written";
                Rejection::Internal.response(Some(request.id), message)
            }
        }
    }
}
