//! The forms that answers have.

use http::header::{ALLOW, CACHE_CONTROL};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::model::Refusal;
use crate::serve::{Reply, reply};

pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");

pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Reply {
    // Structs of strings and numbers; writing them to memory does not fail.
    let mut text = serde_json::to_vec_pretty(body).unwrap_or_default();
    text.push(b'\n');
    let mut reply = reply(status, JSON, text);
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

pub(super) fn pem(text: String) -> Reply {
    let kind = HeaderValue::from_static("application/pem-certificate-chain");
    reply(StatusCode::OK, kind, text)
}

pub(super) fn refuse(status: StatusCode, error: &str) -> Reply {
    json(status, &Refusal { error: error.to_owned(), known: Vec::new() })
}

pub(super) fn refuse_method(allowed: &'static str) -> Reply {
    let mut answer = refuse(StatusCode::METHOD_NOT_ALLOWED, &format!("only {allowed}"));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

/// A time by the seconds since 1970.
pub(super) fn seconds(unix: u64) -> String {
    i64::try_from(unix)
        .ok()
        .and_then(|unix| OffsetDateTime::from_unix_timestamp(unix).ok())
        .map_or_else(|| format!("{unix} s after 1970"), rfc3339)
}

pub(super) fn rfc3339(at: impl Into<OffsetDateTime>) -> String {
    let at = at.into();
    let second = at.replace_nanosecond(0).unwrap_or(at);
    // Only years outside 0 to 9999 have no such form.
    second.format(&Rfc3339).unwrap_or_else(|_| format!("{} s after 1970", at.unix_timestamp()))
}

pub(super) fn now() -> String {
    rfc3339(OffsetDateTime::now_utc())
}
