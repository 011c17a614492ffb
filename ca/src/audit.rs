//! One line a decision: who asked for what, what was decided, and by which rule.

use std::net::SocketAddr;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::{error, info};

use crate::attest::Caller;

/// The rule by which a request was refused. The caller is told none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// More calls at a time than are served.
    Busy,
    /// No authorization header, and no certificate either.
    NoToken,
    /// More than one authorization header.
    ManyTokens,
    /// The header or the token in it is malformed.
    MalformedToken,
    /// The token was signed by somebody else.
    TokenSignature,
    /// The token is for another audience.
    TokenAudience,
    /// The token's time is over.
    TokenExpired,
    /// The certificate of the connection is not a still valid SVID of this authority.
    CertificateInvalid,
    /// No identity was asked for, and a node has none of its own.
    NoIdentity,
    /// The identity asked for is not one text in the form of a SPIFFE ID.
    MalformedIdentity,
    /// The identity asked for is of another trust domain.
    ForeignTrustDomain,
    /// The identity asked for is the authority's own.
    ReservedIdentity,
    /// No enrolled workload of this identity runs on the caller's node.
    NotOnNode,
    /// The caller may have its own identity only, and asked for another.
    NotOwnIdentity,
    /// No enrolled workload has the identity any more, so its certificate is not renewed.
    NotPlaced,
    /// The signing request is over its bound.
    RequestTooLarge,
    /// The signing request is not one PEM block.
    RequestMalformed,
    /// The signing request is not signed by its key.
    RequestSignature,
    /// The signing request has a key that is not taken.
    RequestKey,
    /// The signing request names somebody else.
    RequestNames,
    /// The signing request asks for a CA.
    RequestCa,
    /// The key is the authority's own.
    OwnKey,
    /// Nothing is wrong with the request; the authority could not sign.
    SigningFailed,
}

impl Rule {
    /// The metric label and the audit's text.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::NoToken => "no_token",
            Self::ManyTokens => "many_tokens",
            Self::MalformedToken => "malformed_token",
            Self::TokenSignature => "token_signature",
            Self::TokenAudience => "token_audience",
            Self::TokenExpired => "token_expired",
            Self::CertificateInvalid => "certificate_invalid",
            Self::NoIdentity => "no_identity",
            Self::MalformedIdentity => "malformed_identity",
            Self::ForeignTrustDomain => "foreign_trust_domain",
            Self::ReservedIdentity => "reserved_identity",
            Self::NotOnNode => "not_on_node",
            Self::NotOwnIdentity => "not_own_identity",
            Self::NotPlaced => "not_placed",
            Self::RequestTooLarge => "request_too_large",
            Self::RequestMalformed => "request_malformed",
            Self::RequestSignature => "request_signature",
            Self::RequestKey => "request_key",
            Self::RequestNames => "request_names",
            Self::RequestCa => "request_ca",
            Self::OwnKey => "own_key",
            Self::SigningFailed => "signing_failed",
        }
    }
}

/// What is kept of one decision. Never a token, a key or a request.
#[derive(Debug, Default, Serialize)]
pub struct Record {
    /// When, RFC 3339, UTC.
    pub time: String,
    /// `issued` or `refused`.
    pub decision: &'static str,
    /// The rule that refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Rule>,
    /// Address of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// By what the caller proved itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<&'static str>,
    /// Node of the caller, once it was proved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The identity asked for, in its strict form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Serial number of the certificate, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// SHA-256 of the public key, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_sha256: Option<String>,
    /// Last valid second of the certificate, since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<u64>,
}

impl Record {
    /// Begins the record of a call from `peer`.
    pub fn begin(peer: Option<SocketAddr>, now: OffsetDateTime) -> Self {
        Self {
            time: now.format(&Rfc3339).unwrap_or_default(),
            peer: peer.map(|peer| peer.to_string()),
            ..Self::default()
        }
    }

    /// Notes who called, once that is proved.
    pub fn called_by(&mut self, caller: &Caller) {
        self.caller = Some(caller.kind());
        self.node = caller.node().map(ToOwned::to_owned);
    }

    /// Ends the record of a call that was granted, and writes it.
    pub fn issued(mut self) {
        self.decision = "issued";
        self.write();
    }

    /// Ends the record of a call that was refused, and writes it.
    pub fn refused(mut self, rule: Rule) {
        self.decision = "refused";
        self.rule = Some(rule);
        self.write();
    }

    /// Writes the line: JSON, to the tracing target `audit`. JSON escapes control characters.
    fn write(&self) {
        match serde_json::to_string(self) {
            Ok(line) => info!(target: "audit", "{line}"),
            // Cannot be: the record holds texts and numbers only. Yet no decision goes unseen.
            Err(error) => error!(target: "audit", %error, record = ?self, "audit line unwritable"),
        }
    }
}
