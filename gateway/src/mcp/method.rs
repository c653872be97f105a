//! The protocol methods that clients send.

/// A method that clients send. A name that the gateway does not know is [`Method::Unknown`], so that clients cannot create metric labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Initialize,
    Ping,
    ListTools,
    CallTool,
    ListPrompts,
    GetPrompt,
    ListResources,
    ListResourceTemplates,
    ReadResource,
    Subscribe,
    Unsubscribe,
    Complete,
    SetLogLevel,
    /// `server/discover` of the modern era.
    Discover,
    Initialized,
    Cancelled,
    Progress,
    RootsListChanged,
    Unknown,
}

impl Method {
    pub(crate) fn parse(name: &str) -> Self {
        match name {
            "initialize" => Self::Initialize,
            "ping" => Self::Ping,
            "tools/list" => Self::ListTools,
            "tools/call" => Self::CallTool,
            "prompts/list" => Self::ListPrompts,
            "prompts/get" => Self::GetPrompt,
            "resources/list" => Self::ListResources,
            "resources/templates/list" => Self::ListResourceTemplates,
            "resources/read" => Self::ReadResource,
            "resources/subscribe" => Self::Subscribe,
            "resources/unsubscribe" => Self::Unsubscribe,
            "completion/complete" => Self::Complete,
            "logging/setLevel" => Self::SetLogLevel,
            "server/discover" => Self::Discover,
            "notifications/initialized" => Self::Initialized,
            "notifications/cancelled" => Self::Cancelled,
            "notifications/progress" => Self::Progress,
            "notifications/roots/list_changed" => Self::RootsListChanged,
            _ => Self::Unknown,
        }
    }

    /// Value of the metric label `method`: the method's name, or `other` for methods that the gateway does not
    /// serve.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Initialize => "initialize",
            Self::Ping => "ping",
            Self::ListTools => "tools/list",
            Self::CallTool => "tools/call",
            Self::ListPrompts => "prompts/list",
            Self::GetPrompt => "prompts/get",
            Self::ListResources => "resources/list",
            Self::ListResourceTemplates => "resources/templates/list",
            Self::ReadResource => "resources/read",
            Self::Subscribe => "resources/subscribe",
            Self::Unsubscribe => "resources/unsubscribe",
            Self::Complete => "completion/complete",
            Self::SetLogLevel => "logging/setLevel",
            Self::Initialized => "notifications/initialized",
            Self::Cancelled => "notifications/cancelled",
            Self::Progress => "notifications/progress",
            Self::RootsListChanged => "notifications/roots/list_changed",
            Self::Discover | Self::Unknown => "other",
        }
    }

    /// Whether requests of this method are sent to a backend and may take long.
    pub(crate) fn is_call(self) -> bool {
        matches!(
            self,
            Self::CallTool | Self::GetPrompt | Self::ReadResource | Self::Complete
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The label of a served method is its name; all other names share one label.
    #[test]
    fn method_label_is_its_name_or_other() {
        for name in [
            "initialize",
            "ping",
            "tools/list",
            "tools/call",
            "prompts/list",
            "prompts/get",
            "resources/list",
            "resources/templates/list",
            "resources/read",
            "resources/subscribe",
            "resources/unsubscribe",
            "completion/complete",
            "logging/setLevel",
            "notifications/initialized",
            "notifications/cancelled",
            "notifications/progress",
            "notifications/roots/list_changed",
        ] {
            assert_eq!(Method::parse(name).label(), name);
        }
        for name in ["server/discover", "tools/Call", "", "x"] {
            assert_eq!(Method::parse(name).label(), "other");
        }
    }
}
