//! What a message of the modern era says of itself, in `params._meta` (specification 2026-07-28, basic).

use std::sync::LazyLock;

use memchr::memmem;
use serde_json::value::RawValue;

use super::jsonrpc::InvalidMessage;
use super::params;

/// Which revision the message speaks.
pub const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// What the client can do.
pub const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

/// The keys of `_meta` that the specification defines, of either era.
pub(super) const KEYS: [&str; 4] = [
    "progressToken",
    PROTOCOL_VERSION,
    CLIENT_CAPABILITIES,
    "io.modelcontextprotocol/clientInfo",
];

/// Finds the name of the revision's key. To prepare the search costs more than to search the parameters of a usual request.
static KEY: LazyLock<memmem::Finder<'static>> =
    LazyLock::new(|| memmem::Finder::new(PROTOCOL_VERSION.as_bytes()));

/// How a text begins that may hide the key: letters and strokes can be written with escapes, and some libraries write every stroke so.
static ESCAPES: [LazyLock<memmem::Finder<'static>>; 2] = [
    LazyLock::new(|| memmem::Finder::new(br"\/")),
    LazyLock::new(|| memmem::Finder::new(br"\u")),
];

/// What a message says of itself.
#[derive(Debug, Default)]
pub struct RequestMeta<'a> {
    /// [`PROTOCOL_VERSION`]; only the modern era has it.
    pub protocol_version: Option<&'a RawValue>,
    /// [`CLIENT_CAPABILITIES`].
    pub client_capabilities: Option<&'a RawValue>,
}

/// Reads the `_meta` of `params`. Parameters that cannot hold the name of the revision's key, which are nearly all of the legacy era, are
/// not parsed for it.
///
/// # Errors
/// When a key on the way to it can be read in two ways, so that two readers could find two eras.
pub fn read(params: Option<&RawValue>) -> Result<RequestMeta<'_>, InvalidMessage> {
    let text = params.map_or(&b""[..], |params| params.get().as_bytes());
    if KEY.find(text).is_none() && ESCAPES.iter().all(|escape| escape.find(text).is_none()) {
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
    fn the_revision_is_found_in_meta_and_nowhere_else() {
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
    fn two_of_them_are_refused() {
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
