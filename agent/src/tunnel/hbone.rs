//! What an HBONE request says, and how it is answered: plain CONNECT of HTTP/2 (RFC 9113 section
//! 8.5), as Istio ambient speaks it. Pure.

use std::net::SocketAddr;

use http::{HeaderValue, Method, Request, StatusCode, Uri, Version, header::FORWARDED};

use crate::observe::TraceParent;

/// Why a request is not one that we serve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadRequest {
    /// Another method than CONNECT.
    #[error("method is {0}; HBONE takes CONNECT only")]
    Method(Method),
    /// No authority, or one that is not `address:port`.
    #[error("authority is {0:?}; expected address:port of the workload, IPv6 in brackets")]
    Authority(String),
}

/// Where a request wants to go.
///
/// # Errors
/// [`BadRequest`]: everything but CONNECT to a literal address and a port other than 0. Host
/// names, zones and user information are refused: the authority must be an address of the
/// workload that the connection reached, and only an address can be compared with that.
pub fn target<B>(request: &Request<B>) -> Result<SocketAddr, BadRequest> {
    if request.method() != Method::CONNECT {
        return Err(BadRequest::Method(request.method().clone()));
    }
    let authority = request.uri().authority().map_or("", |authority| authority.as_str());
    let bad = || BadRequest::Authority(shorten(authority));
    let address: SocketAddr = authority.parse().map_err(|_| bad())?;
    let zoned = matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0);
    if zoned || address.port() == 0 {
        return Err(bad());
    }
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// A peer's text, fit for a log line.
fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

/// The request that asks the other end to connect to `target` on behalf of `source`.
///
/// # Panics
/// Never: an address and port make a valid authority and header value.
pub fn request(source: SocketAddr, target: SocketAddr, trace: TraceParent) -> Request<()> {
    let value = |text: String| HeaderValue::try_from(text).expect("printable ASCII");
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = Uri::builder()
        .authority(target.to_string())
        .build()
        .expect("address and port are an authority");
    request.headers_mut().insert(FORWARDED, value(format!("for=\"{source}\"")));
    request.headers_mut().insert("traceparent", value(trace.to_string()));
    request
}

/// The trace that a request belongs to, if its `traceparent` says one.
pub fn trace<B>(request: &Request<B>) -> Option<TraceParent> {
    TraceParent::parse(request.headers().get("traceparent")?.to_str().ok()?)
}

/// What a refusing answer means, as Istio's proxies give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// 400: the other end does not see itself in our request.
    BadRequest,
    /// 401: its policy forbids the flow.
    Denied,
    /// 503 and all else: it could not connect to the application.
    Unavailable,
}

impl From<StatusCode> for Refused {
    fn from(status: StatusCode) -> Self {
        match status {
            StatusCode::BAD_REQUEST => Self::BadRequest,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Self::Denied,
            _ => Self::Unavailable,
        }
    }
}

impl Refused {
    /// The status by which our end says it.
    pub fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Denied => StatusCode::UNAUTHORIZED,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(authority: &str) -> Result<SocketAddr, BadRequest> {
        let uri = Uri::builder().authority(authority).build().unwrap();
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = uri;
        target(&request)
    }

    #[test]
    fn our_own_requests_are_understood() {
        for text in ["10.1.2.3:80", "[fd00::1]:8080"] {
            let to: SocketAddr = text.parse().unwrap();
            let trace = TraceParent { trace_id: 1, parent_id: 2, sampled: false };
            let request = request("10.0.0.9:4000".parse().unwrap(), to, trace);
            assert_eq!(target(&request), Ok(to));
            assert_eq!(request.headers()["forwarded"], "for=\"10.0.0.9:4000\"");
            assert_eq!(
                request.headers()["traceparent"],
                "00-00000000000000000000000000000001-0000000000000002-00"
            );
            assert_eq!(super::trace(&request), Some(trace));
        }
    }

    #[test]
    fn mapped_addresses_are_the_ipv4_addresses_that_they_mean() {
        assert_eq!(connect("[::ffff:10.1.2.3]:80"), Ok("10.1.2.3:80".parse().unwrap()));
    }

    #[test]
    fn what_is_not_address_and_port_is_refused() {
        for authority in [
            "example.com:80",
            "10.1.2.3",
            "10.1.2.3:0",
            "user@10.1.2.3:80",
            "10.1.2.3:65536",
            "[fd00::1]",
            "0x0a.1.2.3:80",
            "10.1.2:80",
        ] {
            assert!(matches!(connect(authority), Err(BadRequest::Authority(_))), "{authority}");
        }
    }

    #[test]
    fn other_methods_are_refused() {
        let request = Request::get("http://10.1.2.3:80/").body(()).unwrap();
        assert_eq!(target(&request), Err(BadRequest::Method(Method::GET)));
    }

    #[test]
    fn statuses_mean_the_same_at_both_ends() {
        for refused in [Refused::BadRequest, Refused::Denied, Refused::Unavailable] {
            assert_eq!(Refused::from(refused.status()), refused);
        }
    }
}
