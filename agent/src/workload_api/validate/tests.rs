use jsonwebtoken::EncodingKey;
use jsonwebtoken::jwk::Jwk;
use serde_json::json;

use super::*;

const NOW: i64 = 1_800_000_000;
const SUBJECT: &str = "spiffe://cluster.local/ns/default/sa/a";

struct Signer {
    key: EncodingKey,
    jwks: Vec<u8>,
}

impl Signer {
    fn new() -> Self {
        let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let key = EncodingKey::from_ec_pem(pem.as_bytes()).unwrap();
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
        jwk.common.key_id = Some("k1".into());
        let jwks = serde_json::to_vec(&JwkSet { keys: vec![jwk] }).unwrap();
        Self { key, jwks }
    }

    fn sign(&self, header: &Header, claims: &Json) -> String {
        jsonwebtoken::encode(header, claims, &self.key).unwrap()
    }

    fn check(&self, token: &str) -> Result<Valid, Invalid> {
        let domain = "cluster.local".parse().unwrap();
        validate(token, "reports", &domain, &self.jwks, NOW)
    }
}

fn header() -> Header {
    Header { kid: Some("k1".into()), ..Header::new(Algorithm::ES256) }
}

fn claims() -> Json {
    json!({"sub": SUBJECT, "aud": ["reports", "other"], "exp": NOW + 60, "iat": NOW, "x": {"y": [1]}})
}

#[test]
fn good_token_gives_its_subject_and_all_claims() {
    let signer = Signer::new();
    let valid = signer.check(&signer.sign(&header(), &claims())).unwrap();
    assert_eq!(valid.id.as_str(), SUBJECT);
    assert_eq!(valid.claims.fields.len(), 5);
    #[expect(clippy::cast_precision_loss, reason = "the date is exact in a double")]
    let expires = Kind::NumberValue((NOW + 60) as f64);
    assert_eq!(valid.claims.fields["exp"].kind, Some(expires));
    // One audience may stand alone, and the type be absent.
    let mut one = claims();
    one["aud"] = json!("reports");
    let untyped = Header { typ: None, ..header() };
    assert!(signer.check(&signer.sign(&untyped, &one)).is_ok());
}

#[test]
fn claims_that_are_missing_wrong_or_over_are_refused() {
    let signer = Signer::new();
    let with = |name: &str, value: Json| {
        let mut claims = claims();
        claims[name] = value;
        signer.check(&signer.sign(&header(), &claims)).unwrap_err()
    };
    let without = |name: &str| {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(name);
        signer.check(&signer.sign(&header(), &claims)).unwrap_err()
    };
    for name in ["sub", "aud", "exp"] {
        assert_eq!(without(name), Invalid::Claims, "{name}");
        assert_eq!(with(name, json!({})), Invalid::Claims, "{name}");
    }
    assert_eq!(with("aud", json!([1, "reports"])), Invalid::Claims);
    assert_eq!(with("aud", json!([])), Invalid::Audience);
    assert_eq!(with("aud", json!(["report"])), Invalid::Audience);
    assert_eq!(with("exp", json!(NOW - LEEWAY_SECONDS)), Invalid::Expired);
    assert_eq!(with("exp", json!(-1)), Invalid::Expired);
    assert_eq!(with("exp", json!("tomorrow")), Invalid::Claims);
    for subject in ["spiffe://other.example/ns/default/sa/a", "spiffe://cluster.local/a", "a"] {
        assert_eq!(with("sub", json!(subject)), Invalid::Subject, "{subject}");
    }
}

#[test]
fn headers_that_no_jwt_svid_has_are_refused() {
    let signer = Signer::new();
    let check = |header: Header| signer.check(&signer.sign(&header, &claims())).unwrap_err();
    assert_eq!(check(Header { typ: Some("JWT+x".into()), ..header() }), Invalid::Header);
    assert_eq!(
        check(Header { jku: Some("https://e.example/k".into()), ..header() }),
        Invalid::Header
    );
    assert_eq!(check(Header { crit: Some(vec!["exp".into()]), ..header() }), Invalid::Header);
    assert_eq!(check(Header { kid: Some("k2".into()), ..header() }), Invalid::Key);
    assert_eq!(check(Header { kid: None, ..header() }), Invalid::Key);
}

#[test]
fn other_algorithms_and_signatures_are_refused() {
    let (signer, other) = (Signer::new(), Signer::new());
    assert_eq!(signer.check(&other.sign(&header(), &claims())).unwrap_err(), Invalid::Signature);
    // The public key taken for a shared secret, and no signature at all.
    let secret = EncodingKey::from_secret(&signer.jwks);
    let symmetric = Header { kid: Some("k1".into()), ..Header::new(Algorithm::HS256) };
    let symmetric = jsonwebtoken::encode(&symmetric, &claims(), &secret).unwrap();
    assert_eq!(signer.check(&symmetric).unwrap_err(), Invalid::Algorithm);
    let token = signer.sign(&header(), &claims());
    let (head_and_claims, _) = token.rsplit_once('.').unwrap();
    assert!(signer.check(&format!("{head_and_claims}.")).is_err());
    let none = "eyJhbGciOiJub25lIiwia2lkIjoiazEifQ";
    let (_, payload) = head_and_claims.split_once('.').unwrap();
    assert_eq!(signer.check(&format!("{none}.{payload}.")).unwrap_err(), Invalid::Malformed);
}

#[test]
fn broken_tokens_and_bundles_are_refused() {
    let signer = Signer::new();
    for token in ["", "a", "a.b", "a.b.c", "..", "a.b.c.d"] {
        assert_eq!(signer.check(token).unwrap_err(), Invalid::Malformed, "{token}");
    }
    let long = "a".repeat(MAX_TOKEN_BYTES + 1);
    assert_eq!(signer.check(&long).unwrap_err(), Invalid::Malformed);
    let token = signer.sign(&header(), &claims());
    let domain = "cluster.local".parse().unwrap();
    for jwks in [&b""[..], b"{}", b"{\"keys\":[]}"] {
        let refused = validate(&token, "reports", &domain, jwks, NOW).unwrap_err();
        assert_eq!(refused, Invalid::Key);
    }
}
