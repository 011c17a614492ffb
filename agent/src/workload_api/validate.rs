//! Whether a JWT-SVID holds: SPIFFE JWT-SVID sections 2 to 4, and nothing more lenient.
//!
//! Pure: the keys, the audience and the time are given.

use culvert_spiffe::{SpiffeId, TrustDomain};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde_json::Value as Json;

/// Longest token looked at; ours have some 500 bytes.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// How far this node's clock may be ahead of the authority's before a token that is good is
/// refused. The standard allows a small leeway.
const LEEWAY_SECONDS: i64 = 10;
/// Fields that a header may have; the standard forbids all others (section 2).
const HEADER_FIELDS: [&str; 3] = ["alg", "kid", "typ"];

/// Why a JWT-SVID does not hold. Told to the caller as it is: it holds the token itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Invalid {
    /// No JWS in compact form, or larger than any token of ours.
    #[error("token is malformed")]
    Malformed,
    /// Signed with an algorithm that this trust domain does not use.
    #[error("token's algorithm is not ES256")]
    Algorithm,
    /// The header says more than a JWT-SVID's may.
    #[error("token's header has fields or a type that a JWT-SVID may not have")]
    Header,
    /// No key of that name in the bundle.
    #[error("token is signed by a key that is not in the trust domain's bundle")]
    Key,
    /// The signature is not that key's.
    #[error("token's signature does not hold")]
    Signature,
    /// A claim that must be there is missing or of another kind.
    #[error("token lacks `sub`, `aud` or `exp`")]
    Claims,
    /// Made for somebody else.
    #[error("token is for another audience")]
    Audience,
    /// Its time is over.
    #[error("token has expired")]
    Expired,
    /// The subject is no identity of this trust domain.
    #[error("token's subject is no SPIFFE ID of this trust domain")]
    Subject,
}

/// A JWT-SVID that holds.
#[derive(Debug)]
pub(super) struct Valid {
    /// Whose it is.
    pub(super) id: SpiffeId,
    /// All its claims.
    pub(super) claims: Struct,
}

/// Checks `token` for `audience` with the keys of `trust_domain`, at `now` in seconds since 1970.
pub(super) fn validate(
    token: &str,
    audience: &str,
    trust_domain: &TrustDomain,
    jwks: &[u8],
    now: i64,
) -> Result<Valid, Invalid> {
    let kid = key_name(token)?;
    let keys: JwkSet = serde_json::from_slice(jwks).map_err(|_| Invalid::Key)?;
    let key = keys.find(&kid).ok_or(Invalid::Key)?;
    let key = DecodingKey::from_jwk(key).map_err(|_| Invalid::Key)?;
    let mut signature_only = Validation::new(Algorithm::ES256);
    // The claims are checked below, each with an answer of its own and against the given time.
    signature_only.required_spec_claims.clear();
    signature_only.validate_exp = false;
    signature_only.validate_aud = false;
    let claims =
        jsonwebtoken::decode::<serde_json::Map<String, Json>>(token, &key, &signature_only)
            .map_err(|error| match error.kind() {
                jsonwebtoken::errors::ErrorKind::InvalidSignature => Invalid::Signature,
                // The signature was looked at first, so it is what was signed that is amiss.
                _ => Invalid::Claims,
            })?
            .claims;
    let expires = claims.get("exp").and_then(seconds).ok_or(Invalid::Claims)?;
    let audiences = match claims.get("aud") {
        Some(Json::String(one)) => vec![one.as_str()],
        Some(Json::Array(some)) if some.iter().all(Json::is_string) => {
            some.iter().filter_map(Json::as_str).collect()
        }
        _ => return Err(Invalid::Claims),
    };
    let subject = claims.get("sub").and_then(Json::as_str).ok_or(Invalid::Claims)?;
    if !audiences.contains(&audience) {
        return Err(Invalid::Audience);
    }
    if expires.saturating_add(LEEWAY_SECONDS) <= now {
        return Err(Invalid::Expired);
    }
    let id: SpiffeId = subject.parse().map_err(|_| Invalid::Subject)?;
    if id.trust_domain() != trust_domain {
        return Err(Invalid::Subject);
    }
    let fields = claims.into_iter().map(|(name, value)| (name, protobuf(value))).collect();
    Ok(Valid { id, claims: Struct { fields } })
}

/// The name of the key that a token says it is signed by, once its header is one that may be.
fn key_name(token: &str) -> Result<String, Invalid> {
    if token.len() > MAX_TOKEN_BYTES || token.split('.').count() != 3 {
        return Err(Invalid::Malformed);
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| Invalid::Malformed)?;
    if header.alg != Algorithm::ES256 {
        return Err(Invalid::Algorithm);
    }
    if !has_only_known_fields(&header)
        || !matches!(header.typ.as_deref(), None | Some("JWT" | "JOSE"))
    {
        return Err(Invalid::Header);
    }
    // The standard lets a token go without; ours never do, and no other issuer has our keys.
    header.kid.ok_or(Invalid::Key)
}

fn has_only_known_fields(header: &Header) -> bool {
    match serde_json::to_value(header) {
        Ok(Json::Object(fields)) => {
            fields.keys().all(|field| HEADER_FIELDS.contains(&field.as_str()))
        }
        _ => false,
    }
}

/// A `NumericDate` (RFC 7519 section 2), which may have a fraction; cut to the second.
fn seconds(value: &Json) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked; a fraction is cut")]
    let whole = |date: f64| (0.0..1e15).contains(&date).then_some(date as i64);
    value.as_i64().or_else(|| value.as_f64().and_then(whole))
}

fn protobuf(value: Json) -> Value {
    let kind = match value {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(value),
        // Numbers of a Struct are doubles; dates and counts are exact in them.
        Json::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or(f64::NAN)),
        Json::String(value) => Kind::StringValue(value),
        Json::Array(values) => {
            Kind::ListValue(ListValue { values: values.into_iter().map(protobuf).collect() })
        }
        Json::Object(fields) => Kind::StructValue(Struct {
            fields: fields.into_iter().map(|(name, value)| (name, protobuf(value))).collect(),
        }),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests;
