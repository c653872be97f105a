//! The fields of `params._meta` with which messages of the modern era describe themselves (specification 2026-07-28, basic).

use std::sync::LazyLock;

use memchr::memmem;
use serde_json::value::RawValue;

use super::jsonrpc::InvalidMessage;
use super::params;

/// Key of the protocol revision of the message.
pub const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// Key of the client's capabilities.
pub const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

/// The keys of `_meta` that the specification defines, in both eras.
pub(super) const KEYS: [&str; 4] = [
    "progressToken",
    PROTOCOL_VERSION,
    CLIENT_CAPABILITIES,
    "io.modelcontextprotocol/clientInfo",
];

/// Prepared search for the revision's key. Preparing costs more than searching the params of a usual request.
static VERSION_FINDER: LazyLock<memmem::Finder<'static>> =
    LazyLock::new(|| memmem::Finder::new(PROTOCOL_VERSION.as_bytes()));

/// Escapes that can hide the key: letters and slashes may be escaped, and some libraries escape every slash.
static ESCAPE_FINDERS: [LazyLock<memmem::Finder<'static>>; 2] = [
    LazyLock::new(|| memmem::Finder::new(br"\/")),
    LazyLock::new(|| memmem::Finder::new(br"\u")),
];

/// The `_meta` fields of a request of the modern era.
///
/// ```
/// use serde_json::value::RawValue;
/// use vmcp_gateway::mcp::meta;
///
/// let params = r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}"#;
/// let params: &RawValue = serde_json::from_str(params).unwrap();
/// let meta = meta::read(Some(params)).unwrap();
/// assert_eq!(meta.protocol_version.unwrap().get(), r#""2026-07-28""#);
/// ```
#[derive(Debug, Default)]
pub struct RequestMeta<'a> {
    /// The value of [`PROTOCOL_VERSION`]; only the modern era sends it.
    pub protocol_version: Option<&'a RawValue>,
    /// The value of [`CLIENT_CAPABILITIES`], an object.
    pub client_capabilities: Option<&'a RawValue>,
}

/// Reads `params._meta`. Fast path: params whose text cannot contain the revision's key, as nearly all of the legacy era, are not parsed.
///
/// # Errors
/// If a key on the path is ambiguous, so that two parsers could find two eras.
pub fn read(params: Option<&RawValue>) -> Result<RequestMeta<'_>, InvalidMessage> {
    let text = params.map_or(&b""[..], |params| params.get().as_bytes());
    if VERSION_FINDER.find(text).is_none() && ESCAPE_FINDERS.iter().all(|escape| escape.find(text).is_none())
    {
        return Ok(RequestMeta::default());
    }
    let [meta] = params::read(params, &["_meta"])?;
    let Some(meta) = meta.filter(|meta| meta.get().starts_with('{')) else {
        return Ok(RequestMeta::default());
    };
    let [_, protocol_version, client_capabilities, _] = params::read(Some(meta), &KEYS)?;
    Ok(RequestMeta {
        protocol_version,
        client_capabilities,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::error_code;

    fn revision(params: &str) -> Result<Option<String>, i32> {
        let params = RawValue::from_string(params.to_owned()).unwrap();
        let meta = read(Some(&params)).map_err(|fault| fault.code)?;
        Ok(meta.protocol_version.map(|version| version.get().to_owned()))
    }

    #[test]
    fn revision_is_read_from_meta_only() {
        let key = PROTOCOL_VERSION;
        let found = revision(&format!(r#"{{"x":1,"_meta":{{"y":2,"{key}":"2026-07-28"}}}}"#));
        assert_eq!(found, Ok(Some(r#""2026-07-28""#.to_owned())));
        for written in [key.replace('/', r"\/"), key.replace('l', r"\u006c")] {
            let found = revision(&format!(r#"{{"_meta":{{"{written}":"2026-07-28"}}}}"#));
            assert_eq!(found, Ok(Some(r#""2026-07-28""#.to_owned())), "{written}");
        }
        assert_eq!(
            revision(&format!(r#"{{"arguments":{{"_meta":{{"{key}":"x"}}}}}}"#)),
            Ok(None)
        );
        assert_eq!(revision(&format!(r#"{{"_meta":["{key}"]}}"#)), Ok(None));
        assert_eq!(revision("{}"), Ok(None));
        assert!(read(None).unwrap().protocol_version.is_none());
    }

    #[test]
    fn duplicate_revision_is_refused() {
        let key = PROTOCOL_VERSION;
        let escaped = key.replace('/', r"\/");
        for params in [
            format!(r#"{{"_meta":{{"{key}":"a","{key}":"b"}}}}"#),
            format!(r#"{{"_meta":{{}},"_m\u0065ta":{{"{key}":"b"}}}}"#),
            format!(r#"{{"_meta":{{"{escaped}":"a","{escaped}":"b"}}}}"#),
        ] {
            assert_eq!(revision(&params), Err(error_code::INVALID_REQUEST), "{params}");
        }
    }
}
