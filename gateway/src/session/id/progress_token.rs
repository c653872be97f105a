//! Progress tokens of a client's calls, as backends see them.
//!
//! A backend reports progress under the token that came with the call. Clients count their tokens, so that a backend which saw them could
//! report progress of calls that run at other backends. Each call therefore carries a token that names its backend and holds the
//! client's, signed for the session: any process turns it back, and progress under any other token is dropped.

use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem;
use serde_json::value::RawValue;

use crate::backend::Backend;
use crate::mcp::correlation;
use crate::mcp::jsonrpc::{Message, RESERVED_ID_PREFIX, string};
use crate::mcp::splice::splice;
use crate::session::Session;
use crate::session::id::signed_token::{TokenSigner, put, take};

const PURPOSE: &str = "vmcp progress token of a call";
const LETTER: char = 't';

/// The longest token that is passed on. Clients use small integers or UUIDs; a gateway that is a client sends its own tokens.
const MAX_TOKEN_BYTES: usize = 1024;

/// Finds the token's key. One that is written with escapes is not found: its call gets no progress.
static KEY: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(b"\"progressToken\""));

impl Session {
    /// The request `message` with the token that `backend` is to report progress under, if the client wants to hear of any.
    pub(in crate::session) fn with_progress_token(&self, backend: &Backend, message: Bytes) -> Bytes {
        if KEY.find(&message).is_none() {
            return message;
        }
        let marked = || {
            let Ok(Message::Request(request)) = Message::parse(&message) else {
                return None;
            };
            let token = correlation::progress_token(request.params).ok()??;
            let signed = sign(&self.seal(), backend.name().as_str(), token)?;
            splice(&message, token.get(), signed.as_bytes())
        };
        marked().unwrap_or(message)
    }

    /// The client's own token, if `token` is the one that a call of this session to `backend` carries.
    #[must_use]
    pub fn progress_token(&self, backend: &Backend, token: &RawValue) -> Option<Box<RawValue>> {
        read(&self.seal(), backend.name().as_str(), &string(token)?)
    }
}

/// The text that stands for `token`, with its quotes.
fn sign(seal: &TokenSigner<'_>, backend: &str, token: &RawValue) -> Option<String> {
    let text = token.get();
    let is_token = text.starts_with(['"', '-']) || text.starts_with(|first: char| first.is_ascii_digit());
    if !is_token || text.len() > MAX_TOKEN_BYTES {
        return None;
    }
    let mut content = Vec::new();
    put(&mut content, backend.as_bytes())?;
    put(&mut content, text.as_bytes())?;
    let sealed = seal.seal(PURPOSE, &content);
    Some(format!("\"{RESERVED_ID_PREFIX}{LETTER}{sealed}\""))
}

/// What [`sign`] was given to make `text` for `backend`.
fn read(seal: &TokenSigner<'_>, backend: &str, text: &str) -> Option<Box<RawValue>> {
    let sealed = text.strip_prefix(RESERVED_ID_PREFIX)?.strip_prefix(LETTER)?;
    let content = seal.open(PURPOSE, sealed.as_bytes())?;
    let rest = &mut &content[..];
    if take(rest)? != backend.as_bytes() {
        return None;
    }
    let token = std::str::from_utf8(take(rest)?).ok()?.to_owned();
    RawValue::from_string(token).ok()
}

#[cfg(test)]
mod tests {
    use vmcp_crds::session_key::SessionKey;

    use super::*;
    use crate::session::id::signed_token::tests::sealed;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn token_comes_back_as_the_client_wrote_it() {
        let key = SessionKey::generate().unwrap();
        for token in ["7", "-1", "1.5", r#""a\/b""#, r#""vmcp:tAAAA""#] {
            sealed(&key, "a", 1, |seal| {
                let text = sign(seal, "left", &raw(token)).unwrap();
                let back = read(seal, "left", text.trim_matches('"')).unwrap();
                assert_eq!(back.get(), token);
            });
        }
        sealed(&key, "a", 1, |seal| {
            for none in ["{}", "[1]", "true", &format!("\"{}\"", "x".repeat(2000))] {
                assert!(sign(seal, "left", &raw(none)).is_none(), "{none}");
            }
        });
    }

    #[test]
    fn token_of_another_backend_or_session_is_none() {
        let key = SessionKey::generate().unwrap();
        let text = sealed(&key, "a", 1, |seal| sign(seal, "left", &raw("7")).unwrap());
        let text = text.trim_matches('"');
        sealed(&key, "a", 1, |seal| {
            assert!(read(seal, "left", text).is_some());
            assert!(read(seal, "right", text).is_none());
            for made_up in ["", "7", "vmcp:t", "vmcp:tAAAA", &text.replacen('t', "p", 1)] {
                assert!(read(seal, "left", made_up).is_none(), "{made_up}");
            }
        });
        sealed(&key, "a", 2, |seal| assert!(read(seal, "left", text).is_none()));
    }
}
