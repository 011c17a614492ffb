//! The TLS profile of the mesh, and the verifiers that turn a chain into a proof.
//!
//! TLS 1.3 only, ALPN exactly `h2`, no SNI. There are no tickets and no session cache: a resumed
//! session skips verification, so it would outlive expiry, a removed root and a changed policy;
//! and the client's cache is keyed by server name, which is the same dummy for every destination.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use culvert_spiffe::{PeerRole, SpiffeId, VerifiedPeer, VerifyError};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError,
    PeerIncompatible, ServerConfig, SignatureScheme, version::TLS13,
};

use super::roots::TrustRoots;

/// The one protocol spoken inside: HTTP/2.
pub(crate) const ALPN: &[u8] = b"h2";

/// How many verdicts a server verifier remembers between the certificate message and the end of
/// its handshake. A forgotten one costs a second verification, nothing else.
const REMEMBERED_PEERS: usize = 32;

/// The suites and groups of the mesh, in the order they are preferred.
pub(crate) fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
        ..default_provider()
    }
}

/// The server's configuration for one SVID.
pub(crate) fn server_config(
    provider: &Arc<CryptoProvider>,
    key: CertifiedKey,
    verifier: Arc<InboundVerifier>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(config)
}

/// The client's configuration for one SVID, or with no key for a server that asks for none.
pub(crate) fn client_config(
    provider: &Arc<CryptoProvider>,
    key: Option<CertifiedKey>,
    verifier: Arc<OutboundVerifier>,
) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match key {
        Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

/// Verifies who connects: any workload of our trust domain. Policy comes later.
///
/// One stands in the configuration of each SVID. rustls gives a verifier no place to leave its
/// verdict with the connection, so verdicts wait here, by leaf, until the handshake is over.
pub(crate) struct InboundVerifier {
    roots: TrustRoots,
    provider: Arc<CryptoProvider>,
    /// Guards the last verdicts; held for a push or a search of at most [`REMEMBERED_PEERS`].
    verdicts: Mutex<VecDeque<(CertificateDer<'static>, VerifiedPeer)>>,
}

impl InboundVerifier {
    pub(crate) fn new(roots: TrustRoots, provider: Arc<CryptoProvider>) -> Self {
        Self { roots, provider, verdicts: Mutex::default() }
    }

    /// The proof for a peer whose handshake has just ended with this chain.
    pub(crate) fn proof(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<VerifiedPeer, VerifyError> {
        if let Some(leaf) = chain.first() {
            let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(at) = verdicts.iter().position(|(der, _)| der == leaf)
                && let Some((_, peer)) = verdicts.remove(at)
            {
                return Ok(peer);
            }
        }
        self.roots.load().bundle().verify(chain, PeerRole::Client, now)
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
        let peer =
            self.roots.load().bundle().verify(&chain, PeerRole::Client, now).map_err(refusal)?;
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        if verdicts.len() == REMEMBERED_PEERS {
            verdicts.pop_front();
        }
        verdicts.push_back((end_entity.clone().into_owned(), peer));
        Ok(ClientCertVerified::assertion())
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
    proof: OnceLock<VerifiedPeer>,
}

impl OutboundVerifier {
    pub(crate) fn new(
        roots: TrustRoots,
        provider: Arc<CryptoProvider>,
        expected: SpiffeId,
    ) -> Self {
        Self { roots, provider, expected, proof: OnceLock::new() }
    }

    /// The proof, once the handshake is over.
    pub(crate) fn proof(&self) -> Option<VerifiedPeer> {
        self.proof.get().cloned()
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
        let peer = self
            .roots
            .load()
            .bundle()
            .verify(&chain, PeerRole::Server, now)
            .and_then(|peer| peer.expect(&self.expected))
            .map_err(refusal)?;
        self.proof.get_or_init(|| peer);
        Ok(ServerCertVerified::assertion())
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

/// Carries our own error through rustls; [`verdict`] takes it out again.
fn refusal(error: VerifyError) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

/// Our verifier's error, if that is what ended the handshake.
pub(crate) fn verdict(error: &rustls::Error) -> Option<VerifyError> {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
            inner.downcast_ref().cloned()
        }
        _ => None,
    }
}
