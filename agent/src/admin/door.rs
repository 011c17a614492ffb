//! [`Door`]: the way by which a request came, and what may come by it.

use http::header::{HOST, ORIGIN};
use http::{Request, StatusCode, Uri};

use super::answer::refuse;
use super::caller::Caller;
use crate::serve::Reply;

/// The way by which a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// The unix socket; who asks is known.
    Socket(Caller),
    /// TCP, from the loopback; who asks is not known.
    Tcp,
}

impl Door {
    /// Refuses whoever may ask nothing.
    ///
    /// Over TCP a request must name the loopback as its host: a page of another site that has its
    /// name lead to 127.0.0.1 (DNS rebinding) names itself. What changes something must besides
    /// not have been sent by a page of another site.
    pub(super) fn check(self, request: &Request<()>) -> Result<(), Box<Reply>> {
        let path = request.uri().path();
        match self {
            Self::Socket(caller) if caller.may_ask() => Ok(()),
            Self::Socket(caller) => {
                tracing::warn!(%caller, path, "admin socket: caller is neither root nor this user");
                let text = "only root and the agent's own user may ask; call this as root";
                Err(Box::new(refuse(StatusCode::FORBIDDEN, text)))
            }
            Self::Tcp => {
                if !of_another_site(request) {
                    return Ok(());
                }
                tracing::warn!(path, "admin server: asked on behalf of another site");
                let text = "ask for localhost, 127.0.0.1 or [::1]; other names are refused, as \
                            pages of other sites would have them";
                Err(Box::new(refuse(StatusCode::FORBIDDEN, text)))
            }
        }
    }
}

/// Whether a page of another site sends this to the loopback, or a name that it made lead there.
pub fn of_another_site(request: &Request<()>) -> bool {
    let header = |name| request.headers().get(name).map(|value| value.to_str());
    let own = header(HOST).is_none_or(|host| host.is_ok_and(is_loopback));
    let foreign = header(ORIGIN).is_some_and(|origin| {
        !origin.ok().and_then(authority).is_some_and(|host| is_loopback(&host))
    });
    !own || foreign
}

/// Host and port of an origin.
fn authority(origin: &str) -> Option<String> {
    origin.parse::<Uri>().ok()?.authority().map(ToString::to_string)
}

/// Whether a host, with or without a port, is a name of the loopback.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(host: Option<&str>, origin: Option<&str>) -> bool {
        let headers = [(HOST, host), (ORIGIN, origin)];
        let mut request = Request::builder().uri("/certs");
        for (name, value) in headers {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        Door::Tcp.check(&request.body(()).unwrap()).is_ok()
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        for host in ["localhost", "localhost:15000", "127.0.0.1:15000", "[::1]", "[::1]:8080"] {
            assert!(may(Some(host), None), "{host}");
            assert!(may(Some(host), Some(&format!("http://{host}"))), "{host}");
        }
        // HTTP/1.0 has none, and no browser speaks that.
        assert!(may(None, None));
        for host in ["evil.example:15000", "127.0.0.1.evil.example", "10.0.0.1:15000", "", "::1"] {
            assert!(!may(Some(host), None), "{host}");
        }
        assert!(!may(Some("localhost:15000"), Some("http://evil.example")));
        assert!(!may(Some("localhost:15000"), Some("null")));
    }
}
