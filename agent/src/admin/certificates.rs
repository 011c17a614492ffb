//! `/certs`, `/roots` and the export of private keys.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use culvert_spiffe::SpiffeId;
use http::HeaderValue;
use http::StatusCode;
use http::header::CACHE_CONTROL;
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::answer::{JSON, json, now, pem, refuse, rfc3339, seconds};
use super::caller::Caller;
use super::model::{Certificate, Export, Identities, Identity, Refusal, USERS_NAMED};
use super::state::State;
use crate::identity::{Held, IdentityStatus};
use crate::serve::{Reply, reply};

/// Room for an answer with a key, so that writing it leaves no copy behind.
const EXPORT_BYTES: usize = 64 * 1024;

impl State {
    pub(super) fn identities(&self) -> Identities {
        let identities = self.parts.identities.identities();
        Identities {
            node: self.node().to_owned(),
            trust_domain: self.parts.config.trust_domain.to_string(),
            now: now(),
            identities: identities.into_iter().map(identity).collect(),
        }
    }

    pub(super) fn certificate(&self, wanted: &str) -> Reply {
        match self.held(wanted) {
            Ok(held) => pem(pem_of(held.svid.chain())),
            Err(refusal) => *refusal,
        }
    }

    pub(super) fn export(&self, caller: Caller, wanted: &str) -> Reply {
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
        let mut answer = reply(StatusCode::OK, JSON, Bytes::from_owner(body));
        answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        answer
    }

    pub(super) fn roots(&self) -> String {
        pem_of(self.parts.identities.bundle().borrow().bundle().certificates())
    }

    /// The certificate of an identity, or the refusal that says which there are.
    fn held(&self, wanted: &str) -> Result<Held, Box<Reply>> {
        let id = self.parse(wanted)?;
        let all = self.parts.identities.identities();
        let Some(status) = all.iter().find(|status| status.id == id) else {
            let error = format!("no workload enrolled on node {} has {id}", self.node());
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
    fn parse(&self, wanted: &str) -> Result<SpiffeId, Box<Reply>> {
        let parsed = match wanted.split_once('/') {
            Some((namespace, account)) if !wanted.contains("://") => {
                SpiffeId::new(&self.parts.config.trust_domain, namespace, account)
            }
            _ => wanted.parse(),
        };
        parsed.map_err(|error| Box::new(refuse(StatusCode::BAD_REQUEST, &error.to_string())))
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
        next_renewal: status.next_request.map(|at| rfc3339(at)),
        failures: status.failures,
        last_error: status.last_error.as_deref().map(|error| crate::identity::with_sources(error)),
        user_count: status.users.len(),
        users: status.users.into_iter().take(USERS_NAMED).map(String::from).collect(),
        lingers_until: status.lingers_until.map(|at| rfc3339(at)),
    }
}

pub(super) fn pem_of(chain: &[CertificateDer<'_>]) -> String {
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

/// Serial number of a certificate, and its last second.
pub(super) fn serial_and_end(held: &Held) -> (String, String) {
    (held.facts.serial.to_string(), seconds(held.facts.not_after.as_secs()))
}
