//! The issuer's public keys (RFC 7517).

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::value::RawValue;

/// How many keys are kept; issuers have a handful.
const MAX_KEYS: usize = 64;

/// What an issuer published at one time.
#[derive(Debug, Default)]
pub(super) struct KeySet {
    keys: Vec<VerificationKey>,
    /// Another number when the keys are others: what was judged with the old ones is judged again.
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
    /// The keys in `json` that can be used to check signatures, as the successor of `before`. Keys of other kinds are passed over. There
    /// may be none: then the issuer has withdrawn all that it had.
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

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The keys that a signature with `algorithm` may be checked with: those named `id`, those without a name where none has that name, or
    /// all when the token names none.
    pub(super) fn fitting(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &DecodingKey> {
        let named = self.named(id);
        let fitting = named.filter(move |key| key.fits(algorithm));
        fitting.map(|key| &key.decoding)
    }

    /// Whether there is a key that a token which names the key `id` may be checked with.
    pub(super) fn has(&self, id: Option<&str>) -> bool {
        self.named(id).next().is_some()
    }

    /// Whether one of them has the name `id`, so that it is known which one is meant.
    pub(super) fn knows(&self, id: Option<&str>) -> bool {
        id.is_some() && self.keys.iter().any(|key| key.id() == id)
    }

    fn named(&self, id: Option<&str>) -> impl Iterator<Item = &VerificationKey> {
        // Some issuers put a name into tokens and none into their only key.
        let wanted = if self.knows(id) { id } else { None };
        let is_meant = move |key: &&VerificationKey| id.is_none() || key.id() == wanted;
        self.keys.iter().filter(is_meant)
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

    /// A key is used with the algorithms of its kind only, and with one alone when it says so.
    fn fits(&self, algorithm: Algorithm) -> bool {
        let declared = self.published.common.key_algorithm;
        algorithms(&self.published).contains(&algorithm)
            && declared.is_none_or(|declared| declared == KeyAlgorithm::from(algorithm))
    }
}

/// What a key of this kind can do. Secrets that issuer and gateway would share (`oct`) are no public keys, and can do nothing.
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

    fn fits(key: &str, algorithm: Algorithm) -> bool {
        read(&[format!("{{{key}}}")]).is_ok_and(|keys| keys.fitting(None, algorithm).next().is_some())
    }

    #[test]
    fn a_key_serves_the_algorithms_of_its_kind_and_only_the_one_that_it_names() {
        assert!(fits(RSA, Algorithm::RS256) && fits(RSA, Algorithm::PS512));
        assert!(!fits(RSA, Algorithm::ES256) && !fits(RSA, Algorithm::HS256));
        assert!(fits(P256, Algorithm::ES256) && !fits(P256, Algorithm::ES384));
        let ps256 = format!(r#"{RSA},"alg":"PS256""#);
        assert!(fits(&ps256, Algorithm::PS256) && !fits(&ps256, Algorithm::RS256));
    }

    #[test]
    fn a_key_that_is_not_for_checking_signatures_is_passed_over() {
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
        assert!(fits(
            &format!(r#"{RSA},"use":"sig","key_ops":["verify"]"#),
            Algorithm::RS256
        ));
    }

    #[test]
    fn a_named_key_is_found_by_its_name_and_any_when_none_is_named() {
        let keys = read(&[format!(r#"{{{RSA},"kid":"a"}}"#), format!("{{{P256}}}")]).unwrap();
        assert!(keys.has(Some("a")) && keys.has(None));
        assert!(keys.knows(Some("a")) && !keys.knows(Some("b")) && !keys.knows(None));
        assert_eq!(keys.fitting(Some("a"), Algorithm::RS256).count(), 1);
        assert_eq!(keys.fitting(Some("a"), Algorithm::ES256).count(), 0);
        assert_eq!(keys.fitting(Some("b"), Algorithm::RS256).count(), 0);
        assert_eq!(keys.fitting(None, Algorithm::ES256).count(), 1);
        let named = read(&[format!(r#"{{{RSA},"kid":"a"}}"#)]).unwrap();
        assert!(!named.has(Some("b")));
    }

    /// A token may name a key that the issuer published without a name.
    #[test]
    fn unnamed_key_is_tried_for_a_token_that_names_one() {
        let keys = read(&[format!(r#"{{{RSA},"kid":"a"}}"#), format!("{{{P256}}}")]).unwrap();
        assert!(keys.has(Some("b")));
        assert_eq!(keys.fitting(Some("b"), Algorithm::ES256).count(), 1);
    }

    #[test]
    fn the_serial_changes_with_the_keys_and_not_without() {
        let json = |keys: &str| format!(r#"{{"keys":[{keys}]}}"#);
        let (a, both) = (format!("{{{RSA}}}"), format!("{{{RSA}}},{{{P256}}}"));
        let first = KeySet::read(json(&a).as_bytes(), &KeySet::default()).unwrap();
        let again = KeySet::read(json(&a).as_bytes(), &first).unwrap();
        let more = KeySet::read(json(&both).as_bytes(), &again).unwrap();
        assert_eq!((first.serial, again.serial, more.serial), (1, 1, 2));
        let none = KeySet::read(json("").as_bytes(), &more).unwrap();
        assert_eq!((none.len(), none.serial), (0, 3), "all are withdrawn");
    }

    #[test]
    fn what_is_no_set_of_keys_is_refused() {
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
