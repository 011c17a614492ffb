//! The verifiers that turn a chain into a proof, and keep their verdict for those who called.
//!
//! rustls asks a verifier in the middle of a handshake and gives its answer nothing of ours to
//! carry: a proof would be lost, and so would the reason of a refusal, as the error also chooses
//! the TLS alert that the peer reads. So each verdict is left beside the handshake: outbound in the
//! verifier, which is made for one connection; inbound in the task that runs the handshake.

use std::cell::Cell;
use std::fmt;
use std::sync::{Arc, OnceLock};

use culvert_spiffe::{PeerRole, SpiffeId, VerifiedPeer, VerifyError};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, PeerIncompatible, SignatureScheme,
};

use super::roots::TrustRoots;

/// What was found of a peer.
pub(crate) type Verdict = Result<VerifiedPeer, VerifyError>;

tokio::task_local! {
    /// The verdict of the one handshake that runs inside [`with_verdict`].
    static VERDICT: Cell<Option<Verdict>>;
}

/// Runs the handshake of a server, and says what its verifier found, if it came to that.
///
/// Cancel safe where the handshake is.
pub(crate) async fn with_verdict<F: Future>(handshake: F) -> (F::Output, Option<Verdict>) {
    let watched = async {
        let ended = handshake.await;
        (ended, VERDICT.with(Cell::take))
    };
    VERDICT.scope(Cell::new(None), watched).await
}

/// Verifies who connects: any workload of our trust domain. Policy comes later.
///
/// One serves all SVIDs of the node; it can be asked only inside [`with_verdict`].
pub(crate) struct InboundVerifier {
    roots: TrustRoots,
    provider: Arc<CryptoProvider>,
}

impl InboundVerifier {
    pub(crate) fn new(roots: TrustRoots, provider: Arc<CryptoProvider>) -> Self {
        Self { roots, provider }
    }
}

impl ClientCertVerifier for InboundVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // None: peers have one certificate to offer, and the names would only cost bytes.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let chain = chain_of(end_entity, intermediates);
        let verdict = self.roots.load().bundle().verify(&chain, PeerRole::Client, now);
        let answer = verdict.as_ref().map(|_| ClientCertVerified::assertion()).map_err(refusal);
        VERDICT
            .try_with(|slot| slot.set(Some(verdict)))
            .map_err(|_| rustls::Error::General("asked outside of `with_verdict`".to_owned()))?;
        answer
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Verifies whom we reached: exactly one identity. Made for one connection, keeps its proof.
pub(crate) struct OutboundVerifier {
    roots: TrustRoots,
    provider: Arc<CryptoProvider>,
    expected: SpiffeId,
    verdict: OnceLock<Verdict>,
}

impl OutboundVerifier {
    pub(crate) fn new(
        roots: TrustRoots,
        provider: Arc<CryptoProvider>,
        expected: SpiffeId,
    ) -> Self {
        Self { roots, provider, expected, verdict: OnceLock::new() }
    }

    /// What it found, once it was asked.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        self.verdict.get().cloned()
    }
}

impl ServerCertVerifier for OutboundVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = chain_of(end_entity, intermediates);
        let verdict = self
            .roots
            .load()
            .bundle()
            .verify(&chain, PeerRole::Server, now)
            .and_then(|peer| peer.expect(&self.expected));
        // A handshake asks once; were there a second time, its answer would be the first one's.
        let verdict = self.verdict.get_or_init(|| verdict);
        verdict.as_ref().map(|_| ServerCertVerified::assertion()).map_err(refusal)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

// Written by hand: rustls demands `Debug`, and a derived one would print whole certificates.
impl fmt::Debug for InboundVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InboundVerifier").finish_non_exhaustive()
    }
}

impl fmt::Debug for OutboundVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboundVerifier").field("expected", &self.expected).finish_non_exhaustive()
    }
}

fn chain_of<'a>(
    end_entity: &'a CertificateDer<'_>,
    intermediates: &'a [CertificateDer<'_>],
) -> Vec<CertificateDer<'a>> {
    std::iter::once(end_entity)
        .chain(intermediates)
        .map(|certificate| CertificateDer::from(certificate.as_ref()))
        .collect()
}

/// The error of rustls whose TLS alert fits ours best: the peer's log shows that alert.
///
/// Source: RFC 8446 section 6.2.
fn refusal(error: &VerifyError) -> rustls::Error {
    let fitting = match error {
        // certificate_required
        VerifyError::NoCertificate => return rustls::Error::NoCertificatesPresented,
        // certificate_expired, "or is not currently valid"
        VerifyError::Expired { .. } | VerifyError::IssuerOutsideDates { .. } => {
            CertificateError::Expired
        }
        VerifyError::NotYetValid { .. } => CertificateError::NotValidYet,
        // unknown_ca
        VerifyError::UnknownIssuer { .. } | VerifyError::ForeignTrustDomain { .. } => {
            CertificateError::UnknownIssuer
        }
        // access_denied: a good certificate, of somebody else
        VerifyError::UnexpectedIdentity { .. } => CertificateError::ApplicationVerificationFailure,
        // unsupported_certificate: a good certificate, for something else
        VerifyError::ExtendedKeyUsage { .. }
        | VerifyError::KeyUsage { .. }
        | VerifyError::LeafIsCa { .. } => CertificateError::InvalidPurpose,
        // bad_certificate
        VerifyError::ChainTooLarge { .. }
        | VerifyError::Malformed { .. }
        | VerifyError::NoSpiffeId { .. }
        | VerifyError::ManySpiffeIds { .. }
        | VerifyError::InvalidSpiffeId { .. }
        | VerifyError::Path { .. } => CertificateError::BadEncoding,
    };
    fitting.into()
}
