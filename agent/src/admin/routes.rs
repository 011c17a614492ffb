//! From a request to its answer. No I/O; identities are looked at, never asked for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use culvert_spiffe::{SpiffeId, TrustDomain};
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use rustls::pki_types::CertificateDer;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

use super::caller::Caller;
use super::model::{Certificate, Export, Identities, Identity, Refusal, USERS_NAMED};
use crate::identity::{Held, IdentityStatus, IdentityStore};

/// Room for an answer with a key, so that writing it leaves no copy behind.
const EXPORT_BYTES: usize = 64 * 1024;

type Answer = Response<Full<Bytes>>;

/// What the admin server answers from. Cloning shares it.
#[derive(Clone)]
pub struct Routes {
    node: String,
    trust_domain: TrustDomain,
    identities: IdentityStore,
}

/// What was asked; the label of the counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Identities,
    Certificate,
    Roots,
    Export,
    Other,
}

impl What {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Identities => "identities",
            Self::Certificate => "certificate",
            Self::Roots => "roots",
            Self::Export => "export",
            Self::Other => "other",
        }
    }
}

impl Routes {
    /// Answers from the identities of `node`.
    pub fn new(node: &str, trust_domain: TrustDomain, identities: IdentityStore) -> Self {
        Self { node: node.to_owned(), trust_domain, identities }
    }

    /// Answers one request of `caller`.
    pub(super) fn answer<B>(&self, caller: Caller, request: &Request<B>) -> (What, Answer) {
        let path = request.uri().path();
        let (what, wanted) = what(request.method(), path);
        if !caller.may_ask() {
            tracing::warn!(%caller, path, "admin socket: caller is neither root nor this user");
            let text = "only root and the agent's own user may ask; call this as root";
            return (what, refuse(StatusCode::FORBIDDEN, text));
        }
        let get = matches!(*request.method(), Method::GET | Method::HEAD);
        let answer = match what {
            What::Other => refuse(StatusCode::NOT_FOUND, "no such page; there are /certs, /roots"),
            What::Export if *request.method() == Method::POST => self.export(caller, wanted),
            What::Identities if get => self.all(),
            What::Certificate if get => self.certificate(wanted),
            What::Roots if get => pem(self.roots()),
            What::Export => refuse_method("POST"),
            What::Identities | What::Certificate | What::Roots => refuse_method("GET, HEAD"),
        };
        (what, answer)
    }

    fn all(&self) -> Answer {
        json(
            StatusCode::OK,
            &Identities {
                node: self.node.clone(),
                trust_domain: self.trust_domain.to_string(),
                now: rfc3339(OffsetDateTime::now_utc()),
                identities: self.identities.identities().into_iter().map(identity).collect(),
            },
        )
    }

    fn certificate(&self, wanted: &str) -> Answer {
        match self.held(wanted) {
            Ok(held) => pem(pem_of(held.svid.chain())),
            Err(refusal) => *refusal,
        }
    }

    fn export(&self, caller: Caller, wanted: &str) -> Answer {
        let held = match self.held(wanted) {
            Ok(held) => held,
            Err(refusal) => return *refusal,
        };
        let svid = &held.svid;
        tracing::warn!(
            identity = %svid.id(), serial = %held.facts.serial,
            pid = caller.pid, uid = caller.uid, "private key exported"
        );
        let private_key = pem_text("PRIVATE KEY", svid.private_key());
        let export = Export {
            id: svid.id().to_string(),
            not_after: seconds(held.facts.not_after.as_secs()),
            certificate_chain: pem_of(svid.chain()),
            private_key: private_key.to_string(),
            root_certificates: self.roots(),
        };
        let mut body = Zeroizing::new(Vec::with_capacity(EXPORT_BYTES));
        // Strings have no other form than their own, so writing them does not fail.
        let _ = serde_json::to_writer(&mut *body, &export);
        let mut answer = Response::new(Full::new(Bytes::from_owner(body)));
        answer.headers_mut().insert(CONTENT_TYPE, JSON);
        answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        answer
    }

    fn roots(&self) -> String {
        pem_of(self.identities.bundle().borrow().bundle().certificates())
    }

    /// The certificate of an identity, or the refusal that says which there are.
    fn held(&self, wanted: &str) -> Result<Held, Box<Answer>> {
        let id = self.parse(wanted)?;
        let all = self.identities.identities();
        let Some(status) = all.iter().find(|status| status.id == id) else {
            let error = format!("no workload enrolled on node {} has {id}", self.node);
            let known = all.iter().map(|status| status.id.to_string()).collect();
            let refusal = Refusal { error, known };
            return Err(Box::new(json(StatusCode::NOT_FOUND, &refusal)));
        };
        status.held.clone().ok_or_else(|| {
            let why = status.last_error.as_deref().map_or_else(
                || "the authority has not answered yet".to_owned(),
                |error| crate::identity::with_sources(error),
            );
            let text = format!("no certificate is held for {id}: {why}");
            Box::new(refuse(StatusCode::CONFLICT, &text))
        })
    }

    /// A whole SPIFFE ID, or `NAMESPACE/SERVICE-ACCOUNT` of our own trust domain.
    fn parse(&self, wanted: &str) -> Result<SpiffeId, Box<Answer>> {
        let parsed = match wanted.split_once('/') {
            Some((namespace, account)) if !wanted.contains("://") => {
                SpiffeId::new(&self.trust_domain, namespace, account)
            }
            _ => wanted.parse(),
        };
        parsed.map_err(|error| Box::new(refuse(StatusCode::BAD_REQUEST, &error.to_string())))
    }
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What a request asks for, and the identity in its path.
fn what<'a>(method: &Method, path: &'a str) -> (What, &'a str) {
    match path {
        "/certs" => return (What::Identities, ""),
        "/roots" => return (What::Roots, ""),
        _ => {}
    }
    let Some(wanted) = path.strip_prefix("/certs/") else { return (What::Other, "") };
    // A service account may be called `export` too: then a GET asks for its certificate.
    match wanted.strip_suffix("/export") {
        Some(wanted) if *method != Method::GET => (What::Export, wanted),
        _ => (What::Certificate, wanted),
    }
}

fn identity(status: IdentityStatus) -> Identity {
    let certificate = status.held.as_ref().map(|held| Certificate {
        serial: held.facts.serial.to_string(),
        issuer: held.facts.issuer.clone(),
        not_before: seconds(held.facts.not_before.as_secs()),
        not_after: seconds(held.facts.not_after.as_secs()),
    });
    Identity {
        id: status.id.to_string(),
        state: status.phase.to_owned(),
        certificate,
        next_renewal: status.next_request.map(|at| rfc3339(at.into())),
        failures: status.failures,
        last_error: status.last_error.as_deref().map(|error| crate::identity::with_sources(error)),
        user_count: status.users.len(),
        users: status.users.into_iter().take(USERS_NAMED).map(String::from).collect(),
        lingers_until: status.lingers_until.map(|at| rfc3339(at.into())),
    }
}

fn seconds(unix: u64) -> String {
    i64::try_from(unix)
        .ok()
        .and_then(|unix| OffsetDateTime::from_unix_timestamp(unix).ok())
        .map_or_else(|| format!("{unix} s after 1970"), rfc3339)
}

fn rfc3339(at: OffsetDateTime) -> String {
    let second = at.replace_nanosecond(0).unwrap_or(at);
    // Only years outside 0 to 9999 have no such form.
    second.format(&Rfc3339).unwrap_or_else(|_| format!("{} s after 1970", at.unix_timestamp()))
}

fn pem_of(chain: &[CertificateDer<'_>]) -> String {
    chain.iter().map(|certificate| pem_text("CERTIFICATE", certificate).to_string()).collect()
}

/// RFC 7468: lines of 64 characters, which are 48 bytes. Overwritten when dropped, as it may be
/// a key.
fn pem_text(label: &str, der: &[u8]) -> Zeroizing<String> {
    let size = der.len().div_ceil(48) * 65 + 2 * (label.len() + "-----BEGIN -----\n".len());
    let mut text = Zeroizing::new(String::with_capacity(size));
    text.extend(["-----BEGIN ", label, "-----\n"]);
    for line in der.chunks(48) {
        STANDARD.encode_string(line, &mut text);
        text.push('\n');
    }
    text.extend(["-----END ", label, "-----\n"]);
    text
}

fn pem(text: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    let kind = HeaderValue::from_static("application/pem-certificate-chain");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    // Structs of strings and numbers; writing them to memory does not fail.
    let text = serde_json::to_vec(body).unwrap_or_default();
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    answer
}

fn refuse(status: StatusCode, error: &str) -> Answer {
    json(status, &Refusal { error: error.to_owned(), known: Vec::new() })
}

fn refuse_method(allowed: &'static str) -> Answer {
    let mut answer = refuse(StatusCode::METHOD_NOT_ALLOWED, &format!("only {allowed}"));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}
