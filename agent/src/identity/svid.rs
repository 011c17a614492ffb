//! [`Svid`]: one certificate of a workload with its key, ready for handshakes.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use culvert_spiffe::{CertificateFacts, RootId, SpiffeId};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};
use zeroize::Zeroizing;

use super::metrics::IdentityMetrics;
use super::roots::TrustRoots;
use super::tls::{self, InboundVerifier, OutboundVerifier};

/// An X509-SVID with its private key, and the TLS configurations made from both, once.
///
/// The key is in memory only, and overwritten when the SVID goes; `Debug` prints neither key nor
/// chain.
pub struct Svid {
    id: SpiffeId,
    chain: Vec<CertificateDer<'static>>,
    private_key: Zeroizing<Vec<u8>>,
    not_after: UnixTime,
    /// When it was made here; of two SVIDs of one identity the later is the newer.
    made: Instant,
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) inbound: Arc<InboundVerifier>,
    /// Cloned for each connection, which then gets a verifier for the identity it expects.
    client: Arc<ClientConfig>,
    roots: TrustRoots,
    provider: Arc<CryptoProvider>,
    pub(crate) metrics: IdentityMetrics,
}

/// What an SVID is made of; all of it was checked before.
pub(crate) struct SvidParts {
    pub(crate) id: SpiffeId,
    /// Leaf first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// PKCS#8, DER.
    pub(crate) key: Zeroizing<Vec<u8>>,
    pub(crate) not_after: UnixTime,
}

impl Svid {
    pub(crate) fn new(
        parts: SvidParts,
        roots: TrustRoots,
        provider: Arc<CryptoProvider>,
        metrics: IdentityMetrics,
    ) -> Result<Self, rustls::Error> {
        let SvidParts { id, chain, key: private_key, not_after } = parts;
        // By reference: the provider's own loader wants a copy that nobody would overwrite.
        let der = PrivatePkcs8KeyDer::from(private_key.as_slice()).into();
        let key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der)?;
        let certified = CertifiedKey::new(chain.clone(), key);
        certified.keys_match()?;
        let inbound = Arc::new(InboundVerifier::new(roots.clone(), provider.clone()));
        let server = tls::server_config(&provider, certified.clone(), inbound.clone())?;
        let unused = OutboundVerifier::new(roots.clone(), provider.clone(), id.clone());
        let client = tls::client_config(&provider, Some(certified), Arc::new(unused))?;
        Ok(Self {
            id,
            chain,
            private_key,
            not_after,
            made: Instant::now(),
            server: Arc::new(server),
            inbound,
            client: Arc::new(client),
            roots,
            provider,
            metrics,
        })
    }

    /// Whose SVID this is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The last second at which it may be used.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// When it was made on this node: the later of two is the newer one.
    pub fn made(&self) -> Instant {
        self.made
    }

    /// Waits until a connection as this SVID to a peer under `root` may not go on: until that
    /// root, or the one that this SVID rests on, is revoked.
    ///
    /// Cancel safe; works on any runtime.
    pub async fn revoked(&self, root: RootId) {
        self.roots.revoked(root, &self.chain).await;
    }

    /// The certificates it presents, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The private key, PKCS#8 in DER. For the Workload API and an operator's explicit export only:
    /// whoever has it can be this workload until [`Svid::not_after`].
    pub fn private_key(&self) -> &Zeroizing<Vec<u8>> {
        &self.private_key
    }

    /// What a person is shown of its certificate; parsed anew each time.
    ///
    /// None for what cannot be read, which no SVID is that was checked before it was made.
    pub fn facts(&self) -> Option<CertificateFacts> {
        CertificateFacts::of(self.chain.first()?)
    }

    /// Whether its time is over.
    pub fn is_expired(&self, now: UnixTime) -> bool {
        now.as_secs() > self.not_after.as_secs()
    }

    /// The configuration of one connection to `expected`, and the verifier that will hold the
    /// proof. Costs a few reference counts; key and suites are shared.
    pub(crate) fn client_for(
        &self,
        expected: &SpiffeId,
    ) -> (Arc<ClientConfig>, Arc<OutboundVerifier>) {
        let verifier = Arc::new(OutboundVerifier::new(
            self.roots.clone(),
            self.provider.clone(),
            expected.clone(),
        ));
        let mut config = ClientConfig::clone(&self.client);
        config.dangerous().set_certificate_verifier(verifier.clone());
        (Arc::new(config), verifier)
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.id)
            .field("not_after", &self.not_after.as_secs())
            .field("key", &"[redacted]")
            .finish_non_exhaustive()
    }
}
