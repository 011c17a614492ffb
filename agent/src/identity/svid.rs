//! [`Svid`]: one certificate of a workload with its key, ready for handshakes.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use culvert_spiffe::{CertificateFacts, RootId, SpiffeId};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};
use zeroize::Zeroizing;

use super::tls::{OwnKey, Profile};
use super::verifier::OutboundVerifier;

/// An X509-SVID with its private key, and the TLS configurations made from both, once.
///
/// The key is in memory only, and overwritten when the SVID goes; `Debug` prints neither key nor
/// chain.
pub struct Svid {
    id: SpiffeId,
    private_key: Zeroizing<Vec<u8>>,
    not_after: UnixTime,
    /// When it was made here; of two SVIDs of one identity the later is the newer.
    made: Instant,
    /// The chain, and the key as the TLS library wants it.
    own: Arc<OwnKey>,
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) profile: Arc<Profile>,
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
    pub(crate) fn new(parts: SvidParts, profile: &Arc<Profile>) -> Result<Self, rustls::Error> {
        let SvidParts { id, chain, key: private_key, not_after } = parts;
        // By reference: the provider's own loader wants a copy that nobody would overwrite.
        let der = PrivatePkcs8KeyDer::from(private_key.as_slice()).into();
        let key = CertifiedKey::new(chain, rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der)?);
        key.keys_match()?;
        let own = Arc::new(OwnKey(Arc::new(key)));
        let server = Arc::new(profile.server_with(own.clone()));
        let (made, profile) = (Instant::now(), profile.clone());
        Ok(Self { id, private_key, not_after, made, own, server, profile })
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
        self.profile.roots.revoked(root, self.chain()).await;
    }

    /// The certificates it presents, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.own.0.cert
    }

    /// The private key, PKCS#8 in DER. For the Workload API and an operator's explicit export only:
    /// whoever has it can be this workload until [`Svid::not_after`].
    pub fn private_key(&self) -> &Zeroizing<Vec<u8>> {
        &self.private_key
    }

    /// What its handshakes as a server go by.
    pub(crate) fn server_config(&self) -> &ServerConfig {
        &self.server
    }

    /// Whether its handshakes as a server turn a client without a certificate away.
    pub fn requires_client_certificate(&self) -> bool {
        self.profile.requires_client_certificate()
    }

    /// What a person is shown of its certificate; parsed anew each time.
    ///
    /// None for what cannot be read, which no SVID is that was checked before it was made.
    pub fn facts(&self) -> Option<CertificateFacts> {
        CertificateFacts::of(self.chain().first()?)
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
        let (config, verifier) = self.profile.client_for(expected, self.own.clone());
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
