//! Elicitation ids of backends, as clients see them.
//!
//! A client that asked its user to open a URL learns by the elicitation's id that the user is done. Two backends may
//! use the same id, and one backend could report another's elicitation as complete. So the client sees a digest of
//! backend and id instead. It is never sent back, so it need not be reversible. Every replica computes the same one.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::value::RawValue;

use crate::mcp::jsonrpc::{RESERVED_ID_PREFIX, string};
use crate::session::id::session_bound_token::{TokenSigner, put};

const PURPOSE: &str = "vmcp elicitation id";
const LETTER: char = 'e';
const BYTES: usize = 16;

/// The client's JSON id for `original`, an elicitation id of `backend`. Returns `None` if `original` is not an id.
pub(in crate::session) fn of(signer: &TokenSigner<'_>, backend: &str, original: &RawValue) -> Option<String> {
    digest(signer, backend, &string(original)?)
}

fn digest(signer: &TokenSigner<'_>, backend: &str, original: &str) -> Option<String> {
    let mut content = Vec::new();
    put(&mut content, backend.as_bytes())?;
    content.extend_from_slice(original.as_bytes());
    let mac = signer.mac(PURPOSE, &content);
    let id = BASE64_URL_SAFE_NO_PAD.encode(mac.get(..BYTES)?);
    Some(format!("\"{RESERVED_ID_PREFIX}{LETTER}{id}\""))
}

#[cfg(test)]
mod tests {
    use vmcp_crds::session_key::SessionKey;

    use super::*;
    use crate::session::id::session_bound_token::tests::sealed;

    #[test]
    fn elicitation_id_is_unique_per_backend_and_session() {
        let key = SessionKey::generate().unwrap();
        let make =
            |session, backend, id| sealed(&key, "a", session, |signer| digest(signer, backend, id).unwrap());
        assert_eq!(make(1, "left", "e1"), make(1, "left", "e1"));
        for other in [
            make(2, "left", "e1"),
            make(1, "right", "e1"),
            make(1, "left", "e2"),
        ] {
            assert_ne!(make(1, "left", "e1"), other);
        }
        assert_ne!(
            make(1, "left", "e1"),
            make(1, "lef", "te1"),
            "what it is made of has an end"
        );
    }
}
