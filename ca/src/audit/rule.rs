//! [`Rule`]: every reason for which something is refused.

use serde::Serialize;

/// The rule by which a request was refused. The caller is told none of them.
///
/// At once the audit's word and the label of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// More calls at a time than are served.
    Busy,
    /// More calls at a time than one address or one caller may make.
    BusyCaller,
    /// The call did not come whole: too long, too slow, or no message of this interface.
    Unread,
    /// Nobody waits for the answer: the caller left, or the call took too long.
    Abandoned,
    /// No authorization header, and no certificate either.
    NoToken,
    /// More than one authorization header.
    ManyTokens,
    /// The header or the token in it is malformed.
    MalformedToken,
    /// The token was signed by somebody else.
    TokenSignature,
    /// The token is for another audience, or the API server did not say for which.
    TokenAudience,
    /// The token's time is over.
    TokenExpired,
    /// The API server does not know the token.
    TokenUnknown,
    /// The token is a user's or a node's.
    NotServiceAccount,
    /// The token is bound to no pod.
    NotBoundToPod,
    /// The API server did not answer, so nobody knows.
    ApiServer,
    /// The certificate of the connection is no SVID of this authority.
    CertificateInvalid,
    /// The certificate of the connection is over.
    CertificateExpired,
    /// No identity was asked for, and a node has none of its own.
    NoIdentity,
    /// The identity asked for is not one text in the form of a SPIFFE ID.
    MalformedIdentity,
    /// The identity asked for is of another trust domain.
    ForeignTrustDomain,
    /// The identity asked for is the authority's own.
    ReservedIdentity,
    /// The identity asked for is on the list of those that no agent gets.
    NeverIssued,
    /// No enrolled workload of this identity runs on the caller's node.
    NotOnNode,
    /// A workload of this identity runs there, but is not enrolled.
    NotEnrolled,
    /// The caller may have its own identity only, and asked for another.
    NotOwnIdentity,
    /// No enrolled workload has the identity any more, so its certificate is not renewed.
    NotPlaced,
    /// The pod that the token is bound to is not there any more, or was made again.
    CallerPodGone,
    /// The pod that the token is bound to has ended.
    CallerPodFinished,
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
    /// The token asked for is for nobody, or for more than its bounds.
    RequestAudience,
    /// Nothing is wrong with the request; the authority could not sign.
    SigningFailed,
}

impl Rule {
    /// The metric label and the audit's text.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::BusyCaller => "busy_caller",
            Self::Unread => "unread",
            Self::Abandoned => "abandoned",
            Self::NoToken => "no_token",
            Self::ManyTokens => "many_tokens",
            Self::MalformedToken => "malformed_token",
            Self::TokenSignature => "token_signature",
            Self::TokenAudience => "token_audience",
            Self::TokenExpired => "token_expired",
            Self::TokenUnknown => "token_unknown",
            Self::NotServiceAccount => "not_service_account",
            Self::NotBoundToPod => "not_bound_to_pod",
            Self::ApiServer => "api_server",
            Self::CertificateInvalid => "certificate_invalid",
            Self::CertificateExpired => "certificate_expired",
            Self::NoIdentity => "no_identity",
            Self::MalformedIdentity => "malformed_identity",
            Self::ForeignTrustDomain => "foreign_trust_domain",
            Self::ReservedIdentity => "reserved_identity",
            Self::NeverIssued => "never_issued",
            Self::NotOnNode => "not_on_node",
            Self::NotEnrolled => "not_enrolled",
            Self::NotOwnIdentity => "not_own_identity",
            Self::NotPlaced => "not_placed",
            Self::CallerPodGone => "caller_pod_gone",
            Self::CallerPodFinished => "caller_pod_finished",
            Self::RequestTooLarge => "request_too_large",
            Self::RequestMalformed => "request_malformed",
            Self::RequestSignature => "request_signature",
            Self::RequestKey => "request_key",
            Self::RequestNames => "request_names",
            Self::RequestCa => "request_ca",
            Self::OwnKey => "own_key",
            Self::RequestAudience => "request_audience",
            Self::SigningFailed => "signing_failed",
        }
    }
}
