use std::time::Duration;

use jsonwebtoken::{DecodingKey, Validation};
use serde_json::Value;
use time::macros::datetime;

use super::*;
use crate::directory::Directory;
use crate::store::DirectoryStore;

const NOW: OffsetDateTime = datetime!(2026-06-01 12:00 UTC);
const TIMES: JwtTimes = JwtTimes {
    turnover: Duration::from_hours(24),
    lead: Duration::from_mins(15),
    default_ttl: Duration::from_mins(5),
    max_ttl: Duration::from_hours(1),
};

fn store(temp: &tempfile::TempDir) -> Arc<dyn Store> {
    Arc::new(DirectoryStore::new(Directory::open(temp.path()).unwrap()))
}

fn id() -> SpiffeId {
    "spiffe://cluster.local/ns/default/sa/a".parse().unwrap()
}

/// Verifies as any JWT library does that knows nothing but the published keys.
fn claims(token: &str, jwks: &[u8]) -> Option<Value> {
    let keys: JwkSet = serde_json::from_slice(jwks).unwrap();
    let header = jsonwebtoken::decode_header(token).unwrap();
    assert_eq!((header.alg, header.typ.as_deref()), (Algorithm::ES256, Some("JWT")));
    let key = DecodingKey::from_jwk(keys.find(&header.kid?)?).unwrap();
    let mut validation = Validation::new(Algorithm::ES256);
    validation.validate_exp = false;
    validation.set_audience(&["reports"]);
    jsonwebtoken::decode::<Value>(token, &key, &validation).ok().map(|data| data.claims)
}

#[tokio::test]
async fn token_says_who_for_whom_and_until_when() {
    let temp = tempfile::tempdir().unwrap();
    let keys = JwtKeys::open(store(&temp), TIMES, NOW).await.unwrap();
    let audience = ["reports".to_owned(), "other".to_owned()];
    let signed = keys.sign(&id(), &audience, 0, NOW).unwrap();
    assert_eq!(signed.expires_at, NOW.unix_timestamp() + 300);
    let claims = claims(&signed.token, &keys.jwks().borrow()).unwrap();
    assert_eq!(claims["sub"], id().as_str());
    assert_eq!(claims["aud"], serde_json::json!(["reports", "other"]));
    assert_eq!(claims["exp"], signed.expires_at);
    assert_eq!(claims["iat"], NOW.unix_timestamp());
    let long = keys.sign(&id(), &audience, i64::MAX, NOW).unwrap();
    assert_eq!(long.expires_at, NOW.unix_timestamp() + 3600);
    // Nothing of the private key is published.
    let jwks: Value = serde_json::from_slice(&keys.jwks().borrow()).unwrap();
    assert!(jwks["keys"][0]["d"].is_null() && jwks["keys"][0]["x"].is_string(), "{jwks}");
}

#[tokio::test]
async fn keys_turn_over_before_the_eyes_of_two_replicas() {
    let temp = tempfile::tempdir().unwrap();
    let first = JwtKeys::open(store(&temp), TIMES, NOW).await.unwrap();
    let second = JwtKeys::open(store(&temp), TIMES, NOW).await.unwrap();
    let audience = ["reports".to_owned()];
    let old = first.sign(&id(), &audience, 3600, NOW).unwrap();
    let mut published = second.jwks();
    published.mark_unchanged();

    // Published by one, seen by the other, and not used before its lead is over.
    let turn = NOW + TIMES.turnover - TIMES.lead;
    first.tend(turn).await.unwrap();
    second.tend(turn).await.unwrap();
    assert!(published.has_changed().unwrap());
    assert_eq!(second.sign(&id(), &audience, 0, turn).unwrap().key, old.key);
    let later = turn + TIMES.lead;
    let new = second.sign(&id(), &audience, 0, later).unwrap();
    assert_ne!(new.key, old.key);
    assert_eq!(first.sign(&id(), &audience, 0, later).unwrap().key, new.key);
    for token in [&old.token, &new.token] {
        assert!(claims(token, &first.jwks().borrow()).is_some());
    }

    // Forgotten once no token of it can be alive.
    let over = later + TIMES.max_ttl + Duration::from_mins(5);
    second.tend(over).await.unwrap();
    first.tend(over).await.unwrap();
    for keys in [&first, &second] {
        assert!(claims(&old.token, &keys.jwks().borrow()).is_none());
        assert!(claims(&new.token, &keys.jwks().borrow()).is_some());
    }
    let text = std::fs::read_to_string(temp.path().join("jwt-keys.json")).unwrap();
    assert_eq!(text.matches("PRIVATE KEY-----").count(), 2, "one key is left: begin and end");
}

#[tokio::test]
async fn replicas_that_start_at_once_agree_on_one_key() {
    let temp = tempfile::tempdir().unwrap();
    let open = || JwtKeys::open(store(&temp), TIMES, NOW);
    let (a, b, c) = tokio::join!(open(), open(), open());
    let sets = [a, b, c].map(|keys| keys.unwrap().jwks().borrow().clone());
    assert!(sets.iter().all(|set| *set == sets[0]));
}

#[tokio::test]
async fn broken_document_is_refused_and_keys_in_use_stay() {
    let temp = tempfile::tempdir().unwrap();
    let keys = JwtKeys::open(store(&temp), TIMES, NOW).await.unwrap();
    let path = temp.path().join("jwt-keys.json");
    let good = std::fs::read_to_string(&path).unwrap();
    let swapped = good.replacen("\"name\":\"", "\"name\":\"x", 1);
    for broken in ["", "{}", "{\"keys\":[]}", &swapped] {
        std::fs::write(&path, broken).unwrap();
        assert!(JwtKeys::open(store(&temp), TIMES, NOW).await.is_err(), "{broken}");
        let signed = keys.sign(&id(), &["reports".to_owned()], 0, NOW).unwrap();
        assert!(claims(&signed.token, &keys.jwks().borrow()).is_some());
    }
}
