//! The issuer's key set (JWKS, RFC 7517).

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Most keys in a set; issuers have a handful.
const MAX_KEYS: usize = 64;

/// The usable keys of one published key set.
#[derive(Debug, Default)]
pub(super) struct KeySet {
    keys: Vec<VerificationKey>,
    /// Changes when the keys change, which invalidates the token cache.
    pub(super) serial: u64,
}

#[derive(Debug)]
struct VerificationKey {
    published: Jwk,
    decoding: DecodingKey,
}

#[derive(Deserialize)]
struct Published<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

impl KeySet {
    /// Parses the keys in `json` that can verify signatures, as the successor of `before`. Other keys are
    /// skipped. The result may be empty: then the issuer has withdrawn its keys.
    pub(super) fn read(json: &[u8], before: &Self) -> Result<Self, String> {
        let published: Published<'_> =
            serde_json::from_slice(json).map_err(|error| format!("not a set of keys: {error}"))?;
        if published.keys.len() > MAX_KEYS {
            return Err(format!("{} keys; the most is {MAX_KEYS}", published.keys.len()));
        }
        let keys: Vec<VerificationKey> = published
            .keys
            .into_iter()
            .filter_map(VerificationKey::read)
            .collect();
        let same = keys.iter().map(|key| &key.published);
        let same = same.eq(before.keys.iter().map(|key| &key.published));
        let serial = before.serial.saturating_add(u64::from(!same));
        Ok(Self { keys, serial })
    }

    /// Number of keys.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The keys to try for a signature with `algorithm`: those with the key id `id`; those without a key id
    /// if none has it; all keys if the token names none.
    pub(super) fn candidates(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &DecodingKey> {
        let named = self.named(id);
        let candidates = named.filter(move |key| key.can_verify(algorithm));
        candidates.map(|key| &key.decoding)
    }

    /// Whether there is a key to try for a token with the key id `id`.
    pub(super) fn has_candidate(&self, id: Option<&str>) -> bool {
        self.named(id).next().is_some()
    }

    /// Whether a key has the key id `id`, so that no other key needs to be tried.
    pub(super) fn has_key_id(&self, id: Option<&str>) -> bool {
        id.is_some() && self.keys.iter().any(|key| key.id() == id)
    }

    fn named(&self, id: Option<&str>) -> impl Iterator<Item = &VerificationKey> {
        // Some issuers put a key id into tokens but not into their only key.
        let wanted = if self.has_key_id(id) { id } else { None };
        let is_candidate = move |key: &&VerificationKey| id.is_none() || key.id() == wanted;
        self.keys.iter().filter(is_candidate)
    }
}

impl VerificationKey {
    fn id(&self) -> Option<&str> {
        self.published.common.key_id.as_deref()
    }

    fn read(json: &RawValue) -> Option<Self> {
        let published: Jwk = serde_json::from_str(json.get()).ok()?;
        if algorithms(&published).is_empty() {
            return None;
        }
        let common = &published.common;
        let for_signatures = common
            .public_key_use
            .as_ref()
            .is_none_or(|purpose| *purpose == PublicKeyUse::Signature);
        let for_checking = common
            .key_operations
            .as_ref()
            .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        if !for_signatures || !for_checking {
            return None;
        }
        let decoding = DecodingKey::from_jwk(&published).ok()?;
        Some(Self { published, decoding })
    }

    /// Whether the key may be used with `algorithm`: one of its key type, and the only one if the key names
    /// one.
    fn can_verify(&self, algorithm: Algorithm) -> bool {
        let declared = self.published.common.key_algorithm;
        algorithms(&self.published).contains(&algorithm)
            && declared.is_none_or(|declared| declared == KeyAlgorithm::from(algorithm))
    }
}

/// The algorithms of a key type. Symmetric keys (`oct`) are shared secrets and not accepted.
fn algorithms(key: &Jwk) -> &'static [Algorithm] {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    match &key.algorithm {
        AlgorithmParameters::RSA(_) => &[RS256, RS384, RS512, PS256, PS384, PS512],
        AlgorithmParameters::EllipticCurve(parameters) => match parameters.curve {
            EllipticCurve::P256 => &[ES256],
            EllipticCurve::P384 => &[ES384],
            _ => &[],
        },
        AlgorithmParameters::OctetKeyPair(parameters) if parameters.curve == EllipticCurve::Ed25519 => {
            &[EdDSA]
        }
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RSA: &str = r#""kty":"RSA","n":"sXch","e":"AQAB""#;
    const P256: &str = r#""kty":"EC","crv":"P-256","x":"AA","y":"AA""#;

    fn read(keys: &[String]) -> Result<KeySet, String> {
        let json = format!(r#"{{"keys":[{}]}}"#, keys.join(","));
        KeySet::read(json.as_bytes(), &KeySet::default())
    }

    fn can_verify(key: &str, algorithm: Algorithm) -> bool {
        read(&[format!("{{{key}}}")]).is_ok_and(|keys| keys.candidates(None, algorithm).next().is_some())
    }

    /// A key verifies the algorithms of its type, and only the one that it names.
    #[test]
    fn key_verifies_its_own_algorithms_only() {
        assert!(can_verify(RSA, Algorithm::RS256) && can_verify(RSA, Algorithm::PS512));
        assert!(!can_verify(RSA, Algorithm::ES256) && !can_verify(RSA, Algorithm::HS256));
        assert!(can_verify(P256, Algorithm::ES256) && !can_verify(P256, Algorithm::ES384));
        let ps256 = format!(r#"{RSA},"alg":"PS256""#);
        assert!(can_verify(&ps256, Algorithm::PS256) && !can_verify(&ps256, Algorithm::RS256));
    }

    /// A key that is not meant for verifying signatures is skipped.
    #[test]
    fn key_not_for_signatures_is_skipped() {
        for key in [
            format!(r#"{RSA},"use":"enc""#),
            format!(r#"{RSA},"key_ops":["encrypt"]"#),
            r#""kty":"oct","k":"c2VjcmV0""#.to_owned(),
            r#""kty":"EC","crv":"secp256k1","x":"AA","y":"AA""#.to_owned(),
            r#""kty":"AKP","pub":"AA""#.to_owned(),
            r#""kty":7"#.to_owned(),
        ] {
            assert_eq!(read(&[format!("{{{key}}}")]).unwrap().len(), 0, "{key}");
            let beside = read(&[format!("{{{key}}}"), format!("{{{RSA}}}")]);
            assert_eq!(beside.unwrap().len(), 1, "{key}");
        }
        assert!(can_verify(
            &format!(r#"{RSA},"use":"sig","key_ops":["verify"]"#),
            Algorithm::RS256
        ));
    }

    /// A key id selects its key; without a key id all keys are candidates.
    #[test]
    fn key_id_selects_the_key() {
        let keys = read(&[format!(r#"{{{RSA},"kid":"a"}}"#), format!("{{{P256}}}")]).unwrap();
        assert!(keys.has_candidate(Some("a")) && keys.has_candidate(None));
        assert!(keys.has_key_id(Some("a")) && !keys.has_key_id(Some("b")) && !keys.has_key_id(None));
        assert_eq!(keys.candidates(Some("a"), Algorithm::RS256).count(), 1);
        assert_eq!(keys.candidates(Some("a"), Algorithm::ES256).count(), 0);
        assert_eq!(keys.candidates(Some("b"), Algorithm::RS256).count(), 0);
        assert_eq!(keys.candidates(None, Algorithm::ES256).count(), 1);
        let named = read(&[format!(r#"{{{RSA},"kid":"a"}}"#)]).unwrap();
        assert!(!named.has_candidate(Some("b")));
    }

    /// A token may name a key that the issuer published without a key id.
    #[test]
    fn unnamed_key_is_tried_for_a_token_that_names_one() {
        let keys = read(&[format!(r#"{{{RSA},"kid":"a"}}"#), format!("{{{P256}}}")]).unwrap();
        assert!(keys.has_candidate(Some("b")));
        assert_eq!(keys.candidates(Some("b"), Algorithm::ES256).count(), 1);
    }

    /// The serial changes when the keys change, and only then.
    #[test]
    fn serial_changes_only_with_the_keys() {
        let json = |keys: &str| format!(r#"{{"keys":[{keys}]}}"#);
        let (a, both) = (format!("{{{RSA}}}"), format!("{{{RSA}}},{{{P256}}}"));
        let first = KeySet::read(json(&a).as_bytes(), &KeySet::default()).unwrap();
        let again = KeySet::read(json(&a).as_bytes(), &first).unwrap();
        let more = KeySet::read(json(&both).as_bytes(), &again).unwrap();
        assert_eq!((first.serial, again.serial, more.serial), (1, 1, 2));
        let none = KeySet::read(json("").as_bytes(), &more).unwrap();
        assert_eq!((none.len(), none.serial), (0, 3), "all are withdrawn");
    }

    /// A document that is not a key set is rejected.
    #[test]
    fn invalid_key_set_is_rejected() {
        for json in ["", "[]", r#"{"keys":{}}"#, "<html>"] {
            assert!(
                KeySet::read(json.as_bytes(), &KeySet::default()).is_err(),
                "{json}"
            );
        }
        let many = vec![format!("{{{RSA}}}"); MAX_KEYS + 1];
        assert!(read(&many).unwrap_err().contains("64"));
    }
}
