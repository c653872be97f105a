//! Progress tokens of client calls, as backends see them.
//!
//! A backend reports progress under the call's token. Clients number their tokens, so a backend that saw them could
//! report progress of calls at other backends. So each call carries a token that is signed for the session, names its
//! backend, and holds the client's token. Any replica can read it; progress under other tokens is dropped.

use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem;
use serde_json::value::RawValue;

use crate::mcp::correlation;
use crate::mcp::jsonrpc::{Message, RESERVED_ID_PREFIX, string};
use crate::mcp::splice::splice;
use crate::session::id::session_bound_token::{TokenSigner, put, take};

const PURPOSE: &str = "vmcp progress token of a call";
const LETTER: char = 't';

/// Maximum length of a client's token. Clients use small integers or UUIDs; a client that is itself a gateway sends
/// longer ones.
const MAX_TOKEN_BYTES: usize = 1024;

/// Finds the token's key. A key written with escapes is not found, so that call gets no progress.
static KEY: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(b"\"progressToken\""));

/// Replaces the client's progress token in `message` by the signed one for `backend`.
pub(in crate::session) fn sign_in(signer: &TokenSigner<'_>, backend: &str, message: Bytes) -> Bytes {
    if KEY.find(&message).is_none() {
        return message;
    }
    let marked = || {
        let Ok(Message::Request(request)) = Message::parse(&message) else {
            return None;
        };
        let token = correlation::progress_token(request.params).ok()??;
        let signed = sign(signer, backend, token)?;
        splice(&message, token.get(), signed.as_bytes())
    };
    marked().unwrap_or(message)
}

/// Returns the client's token if `token` is the signed one of a call of this session to `backend`.
pub(in crate::session) fn of_client(
    signer: &TokenSigner<'_>,
    backend: &str,
    token: &RawValue,
) -> Option<Box<RawValue>> {
    read(signer, backend, &string(token)?)
}

/// Signs `token` for `backend`, as a quoted JSON string.
fn sign(signer: &TokenSigner<'_>, backend: &str, token: &RawValue) -> Option<String> {
    let text = token.get();
    let is_token = text.starts_with(['"', '-']) || text.starts_with(|first: char| first.is_ascii_digit());
    if !is_token || text.len() > MAX_TOKEN_BYTES {
        return None;
    }
    let mut content = Vec::new();
    put(&mut content, backend.as_bytes())?;
    put(&mut content, text.as_bytes())?;
    let sealed = signer.sign(PURPOSE, &content);
    Some(format!("\"{RESERVED_ID_PREFIX}{LETTER}{sealed}\""))
}

/// Verifies and reads the result of [`sign`] for `backend`.
fn read(signer: &TokenSigner<'_>, backend: &str, text: &str) -> Option<Box<RawValue>> {
    let sealed = text.strip_prefix(RESERVED_ID_PREFIX)?.strip_prefix(LETTER)?;
    let content = signer.verify(PURPOSE, sealed.as_bytes())?;
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
    use crate::session::id::session_bound_token::tests::sealed;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn token_comes_back_as_the_client_wrote_it() {
        let key = SessionKey::generate().unwrap();
        for token in ["7", "-1", "1.5", r#""a\/b""#, r#""vmcp:tAAAA""#] {
            sealed(&key, "a", 1, |signer| {
                let text = sign(signer, "left", &raw(token)).unwrap();
                let back = read(signer, "left", text.trim_matches('"')).unwrap();
                assert_eq!(back.get(), token);
            });
        }
        sealed(&key, "a", 1, |signer| {
            for none in ["{}", "[1]", "true", &format!("\"{}\"", "x".repeat(2000))] {
                assert!(sign(signer, "left", &raw(none)).is_none(), "{none}");
            }
        });
    }

    #[test]
    fn token_of_another_backend_or_session_is_none() {
        let key = SessionKey::generate().unwrap();
        let text = sealed(&key, "a", 1, |signer| sign(signer, "left", &raw("7")).unwrap());
        let text = text.trim_matches('"');
        sealed(&key, "a", 1, |signer| {
            assert!(read(signer, "left", text).is_some());
            assert!(read(signer, "right", text).is_none());
            for made_up in ["", "7", "vmcp:t", "vmcp:tAAAA", &text.replacen('t', "p", 1)] {
                assert!(read(signer, "left", made_up).is_none(), "{made_up}");
            }
        });
        sealed(&key, "a", 2, |signer| {
            assert!(read(signer, "left", text).is_none());
        });
    }
}
