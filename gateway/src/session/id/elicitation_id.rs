//! Ids of backends' elicitations, as clients see them.
//!
//! A client asks its user to open a URL, and hears later, by the elicitation's id, that this is done. Two backends may use one id, and one could
//! say that another's elicitation is complete. So the client gets an id that stands for the backend and its own id, wherever one stands
//! in what a backend says. It is never sent back, so that nothing has to be read out of it; every process makes the same one.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::value::RawValue;

use crate::backend::Backend;
use crate::mcp::jsonrpc::{RESERVED_ID_PREFIX, string};
use crate::session::Session;
use crate::session::id::signed_token::{TokenSigner, put};

const PURPOSE: &str = "vmcp elicitation id";
const LETTER: char = 'e';
const BYTES: usize = 16;

impl Session {
    /// The JSON that stands for `original`, the id of an elicitation of `backend`, in what this session's client gets. `None` where that is
    /// no id.
    #[must_use]
    pub fn elicitation_id(&self, backend: &Backend, original: &RawValue) -> Option<String> {
        of(&self.seal(), backend.name().as_str(), &string(original)?)
    }
}

fn of(seal: &TokenSigner<'_>, backend: &str, original: &str) -> Option<String> {
    let mut content = Vec::new();
    put(&mut content, backend.as_bytes())?;
    content.extend_from_slice(original.as_bytes());
    let mac = seal.mac(PURPOSE, &content);
    let id = BASE64_URL_SAFE_NO_PAD.encode(mac.get(..BYTES)?);
    Some(format!("\"{RESERVED_ID_PREFIX}{LETTER}{id}\""))
}

#[cfg(test)]
mod tests {
    use vmcp_crds::session_key::SessionKey;

    use super::*;
    use crate::session::id::signed_token::tests::sealed;

    #[test]
    fn elicitation_id_is_of_one_backend_in_one_session() {
        let key = SessionKey::generate().unwrap();
        let make = |session, backend, id| sealed(&key, "a", session, |seal| of(seal, backend, id).unwrap());
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
