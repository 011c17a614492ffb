//! The TLS profile of the mesh: what every handshake of a node has in common.
//!
//! TLS 1.3 only, ALPN exactly `h2`, no SNI. There are no tickets and no session cache: a resumed
//! session skips verification, so it would outlive expiry, a removed root and a changed policy;
//! and the client's cache is keyed by server name, which is the same dummy for every destination.

use std::fmt;
use std::sync::Arc;

use culvert_spiffe::SpiffeId;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::server::danger::ClientCertVerifier as _;
use rustls::server::{ClientHello, ResolvesServerCert, ResolvesServerCertUsingSni};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SignatureScheme, SupportedCipherSuite, version::TLS13};

use super::metrics::IdentityMetrics;
use super::roots::TrustRoots;
use super::verifier::{InboundVerifier, OutboundVerifier};

/// The one protocol spoken inside: HTTP/2.
pub(crate) const ALPN: &[u8] = b"h2";

/// The suites and groups of the mesh, in the order they are preferred.
pub(crate) fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: suites(has_fast_aes()).to_vec(),
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
        ..default_provider()
    }
}

/// The suites in the order of what this machine does best: AES-GCM where there are instructions
/// for it, else `ChaCha20`, which is several times as fast there and leaks nothing by its timing.
///
/// The client's order decides: a server here takes the first suite that is offered.
fn suites(fast_aes: bool) -> [SupportedCipherSuite; 3] {
    let aes = [cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS13_AES_256_GCM_SHA384];
    let chacha = cipher_suite::TLS13_CHACHA20_POLY1305_SHA256;
    if fast_aes { [aes[0], aes[1], chacha] } else { [chacha, aes[0], aes[1]] }
}

/// Whether the processor has instructions both for AES and for the multiplication of GCM.
fn has_fast_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    let fast = std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    // On ARM, `aes` stands for AES and PMULL both.
    #[cfg(target_arch = "aarch64")]
    let fast = std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let fast = false;
    fast
}

/// What the SVIDs of a node share: suites, roots, and configurations that lack only a key.
pub(crate) struct Profile {
    pub(crate) roots: TrustRoots,
    provider: Arc<CryptoProvider>,
    /// Without a key: refuses every handshake.
    server: ServerConfig,
    /// What the verifier in `server` says.
    requires_client_certificate: bool,
    /// Without a key, and with a verifier that is replaced for each connection.
    client: ClientConfig,
    pub(crate) metrics: IdentityMetrics,
}

impl Profile {
    pub(crate) fn new(
        roots: TrustRoots,
        provider: Arc<CryptoProvider>,
        metrics: IdentityMetrics,
    ) -> Result<Self, rustls::Error> {
        let inbound = InboundVerifier::new(roots.clone(), provider.clone());
        let requires_client_certificate = inbound.client_auth_mandatory();
        let server = server_config(&provider, inbound)?;
        let somebody = SpiffeId::of_authority(roots.load().bundle().trust_domain());
        let somebody = OutboundVerifier::new(roots.clone(), provider.clone(), somebody);
        let client = client_config(&provider, None, Arc::new(somebody))?;
        Ok(Self { roots, provider, server, requires_client_certificate, client, metrics })
    }

    /// Whether a client without a certificate is turned away, as the verifier of
    /// [`Self::server_with`] has it.
    pub(crate) fn requires_client_certificate(&self) -> bool {
        self.requires_client_certificate
    }

    /// The server's configuration with a key.
    pub(crate) fn server_with(&self, key: Arc<OwnKey>) -> ServerConfig {
        let mut config = self.server.clone();
        config.cert_resolver = key;
        config
    }

    /// The configuration of one connection to `expected`, and the verifier that will hold the
    /// verdict. Costs some reference counts.
    pub(crate) fn client_for(
        &self,
        expected: &SpiffeId,
        key: Arc<OwnKey>,
    ) -> (ClientConfig, Arc<OutboundVerifier>) {
        let verifier = Arc::new(OutboundVerifier::new(
            self.roots.clone(),
            self.provider.clone(),
            expected.clone(),
        ));
        let mut config = self.client.clone();
        config.dangerous().set_certificate_verifier(verifier.clone());
        config.client_auth_cert_resolver = key;
        (config, verifier)
    }
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    verifier: InboundVerifier,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(config)
}

/// A client's configuration, with a key unless the server asks for none.
pub(crate) fn client_config(
    provider: &Arc<CryptoProvider>,
    key: Option<Arc<OwnKey>>,
    verifier: Arc<OutboundVerifier>,
) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match key {
        Some(key) => builder.with_client_cert_resolver(key),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

/// The one key and chain of an SVID, as server and as client.
pub(crate) struct OwnKey(pub(crate) Arc<CertifiedKey>);

impl ResolvesServerCert for OwnKey {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

impl ResolvesClientCert for OwnKey {
    fn resolve(
        &self,
        _root_hints: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

// Written by hand: rustls demands `Debug`, and a derived one would print whole certificates.
impl fmt::Debug for OwnKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnKey").field("key", &"[redacted]").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rustls::CipherSuite::{
        TLS13_AES_128_GCM_SHA256 as AES_128, TLS13_AES_256_GCM_SHA384 as AES_256,
        TLS13_CHACHA20_POLY1305_SHA256 as CHACHA,
    };
    use rustls::NamedGroup;

    use super::*;

    #[test]
    fn suites_are_in_the_order_of_what_the_processor_does_best() {
        let names = |fast| suites(fast).map(|suite| suite.suite());
        assert_eq!(names(true), [AES_128, AES_256, CHACHA]);
        assert_eq!(names(false), [CHACHA, AES_128, AES_256]);
    }

    #[test]
    fn hybrid_key_exchange_is_preferred() {
        let groups: Vec<_> = provider().kx_groups.iter().map(|group| group.name()).collect();
        let expected = [NamedGroup::X25519MLKEM768, NamedGroup::X25519, NamedGroup::secp256r1];
        assert_eq!(groups, expected);
    }
}
