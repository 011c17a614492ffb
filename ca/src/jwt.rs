//! JWT-SVIDs: [`JwtKeys`] signs them with keys of its own, apart from those of certificates.
//!
//! ES256 only. The keys are one document in the store, shared by all replicas; who turns them over
//! is decided by who replaces the document first. Their public halves are the JWK set that is
//! pushed to agents with the trust bundle. Standard: SPIFFE JWT-SVID.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use culvert_spiffe::SpiffeId;
use jsonwebtoken::jwk::{Jwk, JwkSet, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::KeyPair;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use zeroize::{Zeroize, Zeroizing};

use crate::complaint::Complaint;
use crate::store::{Store, StoreError, Swap, Version};

mod schedule;

pub use schedule::JwtTimes;
use schedule::{KeyTimes, Step, signer};

/// The document of the store.
const DOCUMENT: &str = "jwt-keys";
/// How often the time and other replicas' doings are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often a document is read again because another replica was faster.
const MAX_CONFLICTS: usize = 16;

/// Why JWT-SVIDs cannot be signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JwtError {
    /// The store failed.
    #[error("cannot use the store for keys of JWT-SVIDs")]
    Store(#[from] StoreError),
    /// The document is not what this authority wrote.
    #[error(
        "the document `{DOCUMENT}` of the store is broken ({part}); restore it from a backup, \
             or remove it: tokens signed so far are then refused"
    )]
    Document {
        /// What is wrong.
        part: &'static str,
    },
    /// A key could not be made.
    #[error("cannot make a key for JWT-SVIDs; the machine may lack entropy or memory")]
    Generate(#[from] rcgen::Error),
    /// Other replicas changed the document each time.
    #[error("other replicas keep changing the keys of JWT-SVIDs; trying again")]
    Conflict,
    /// Signing failed.
    #[error("cannot sign a JWT-SVID")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// A token that was signed.
#[derive(Debug)]
pub struct SignedJwt {
    /// JWS compact form.
    pub token: Zeroizing<String>,
    /// Which key signed it.
    pub key: String,
    /// Its end, in seconds since 1970.
    pub expires_at: i64,
}

/// The keys, as this replica knows them.
pub struct JwtKeys {
    store: Arc<dyn Store>,
    times: JwtTimes,
    /// Never without a key.
    current: ArcSwap<Vec<Key>>,
    jwks: watch::Sender<Arc<[u8]>>,
}

struct Key {
    name: String,
    times: KeyTimes,
    signing: EncodingKey,
}

/// The document, oldest key first.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    keys: Vec<KeptKey>,
}

#[derive(Serialize, Deserialize)]
struct KeptKey {
    /// The thumbprint of the public key (RFC 7638): the `kid` of its tokens.
    name: String,
    published: i64,
    signs_from: i64,
    /// PKCS#8.
    pem: String,
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    aud: &'a [String],
    iat: i64,
    exp: i64,
}

impl JwtKeys {
    /// Opens the keys in the store; the first is made when there is none.
    ///
    /// # Errors
    /// The store fails, or its document is broken.
    pub async fn open(
        store: Arc<dyn Store>,
        times: JwtTimes,
        now: OffsetDateTime,
    ) -> Result<Self, JwtError> {
        let jwks = watch::Sender::new(Arc::from([].as_slice()));
        let keys = Self { store, times, current: ArcSwap::default(), jwks };
        keys.tend(now).await?;
        Ok(keys)
    }

    /// Takes up what other replicas did, and does what the time asks for: a new key, an old one
    /// forgotten. To be called about every second; each step is in the store before it counts.
    ///
    /// # Errors
    /// As [`JwtKeys::open`]; keys in use stay in use.
    pub async fn tend(&self, now: OffsetDateTime) -> Result<(), JwtError> {
        let now = now.unix_timestamp();
        for _ in 0..MAX_CONFLICTS {
            let (mut kept, version) = self.read().await?;
            match self.times.step(&kept.times(), now) {
                Step::Keep => return self.take_up(&kept),
                Step::Make(times) => kept.keys.push(KeptKey::generate(times)?),
                Step::DropOldest => drop(kept.keys.remove(0)),
            }
            let text = Zeroizing::new(
                serde_json::to_vec(&kept).map_err(|_| JwtError::Document { part: "its form" })?,
            );
            // Whoever was first, the document is read again and looked at anew.
            if let Swap::Done(_) = self.store.swap(DOCUMENT, version.as_ref(), &text).await? {
                info!(keys = kept.keys.len(), "keys of JWT-SVIDs changed");
            }
        }
        Err(JwtError::Conflict)
    }

    /// Tends the keys until `cancel`.
    pub(crate) async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let mut complaint = Complaint::default();
        while cancel.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            match self.tend(OffsetDateTime::now_utc()).await {
                Ok(()) => {
                    complaint.over();
                }
                Err(error) => {
                    if let Some(error) = complaint.say(&error) {
                        error!(error, "keys of JWT-SVIDs not tended; trying again");
                    }
                }
            }
        }
    }

    /// Signs a token that its bearer is `id`, for `audience`, and for the wished life within bounds
    /// (0 or less is no wish).
    ///
    /// # Errors
    /// The library fails.
    pub fn sign(
        &self,
        id: &SpiffeId,
        audience: &[String],
        wish_seconds: i64,
        now: OffsetDateTime,
    ) -> Result<SignedJwt, JwtError> {
        let keys = self.current.load();
        let times: Vec<_> = keys.iter().map(|key| key.times).collect();
        let key = signer(&times, now.unix_timestamp())
            .and_then(|signer| keys.get(signer))
            .ok_or(JwtError::Document { part: "no key" })?;
        let expires_at = (now + self.times.grant(wish_seconds)).unix_timestamp();
        let claims =
            Claims { sub: id.as_str(), aud: audience, iat: now.unix_timestamp(), exp: expires_at };
        let header = Header { kid: Some(key.name.clone()), ..Header::new(Algorithm::ES256) };
        let token = jsonwebtoken::encode(&header, &claims, &key.signing).map_err(JwtError::Sign)?;
        Ok(SignedJwt { token: Zeroizing::new(token), key: key.name.clone(), expires_at })
    }

    /// The public keys, a JWK set (RFC 7517), and each set that replaces it.
    pub fn jwks(&self) -> watch::Receiver<Arc<[u8]>> {
        self.jwks.subscribe()
    }

    async fn read(&self) -> Result<(Kept, Option<Version>), JwtError> {
        let Some(document) = self.store.read(DOCUMENT).await? else {
            return Ok((Kept::default(), None));
        };
        let kept: Kept = serde_json::from_slice(&document.bytes)
            .map_err(|_| JwtError::Document { part: "no JSON of this form" })?;
        if kept.keys.is_empty() {
            return Err(JwtError::Document { part: "no key" });
        }
        Ok((kept, Some(document.version)))
    }

    /// Puts keys in use, and publishes them, when they are others than before.
    fn take_up(&self, kept: &Kept) -> Result<(), JwtError> {
        let in_use = self.current.load();
        let same = in_use.len() == kept.keys.len()
            && in_use.iter().zip(&kept.keys).all(|(a, b)| a.name == b.name);
        if same {
            return Ok(());
        }
        let mut keys = Vec::with_capacity(kept.keys.len());
        let mut set = JwkSet { keys: Vec::with_capacity(kept.keys.len()) };
        for key in &kept.keys {
            let (signing, jwk) = read_key(&key.pem)?;
            if jwk.common.key_id.as_deref() != Some(&key.name) {
                return Err(JwtError::Document { part: "a key does not have its name" });
            }
            set.keys.push(jwk);
            keys.push(Key { name: key.name.clone(), times: key.times(), signing });
        }
        let jwks = serde_json::to_vec(&set).map_err(|_| JwtError::Document { part: "a key" })?;
        self.current.store(Arc::new(keys));
        self.jwks.send_replace(jwks.into());
        Ok(())
    }
}

impl Kept {
    fn times(&self) -> Vec<KeyTimes> {
        self.keys.iter().map(KeptKey::times).collect()
    }
}

impl KeptKey {
    fn generate(times: KeyTimes) -> Result<Self, JwtError> {
        let pem = KeyPair::generate()?.serialize_pem();
        let (_, jwk) = read_key(&pem)?;
        let name = jwk.common.key_id.ok_or(JwtError::Document { part: "a key without name" })?;
        let KeyTimes { published, signs_from } = times;
        Ok(Self { name, published, signs_from, pem })
    }

    fn times(&self) -> KeyTimes {
        KeyTimes { published: self.published, signs_from: self.signs_from }
    }
}

impl Drop for KeptKey {
    fn drop(&mut self) {
        self.pem.zeroize();
    }
}

/// A key from its PEM, with its public half under its name.
fn read_key(pem: &str) -> Result<(EncodingKey, Jwk), JwtError> {
    let broken = |_| JwtError::Document { part: "a key is no P-256 key" };
    let signing = EncodingKey::from_ec_pem(pem.as_bytes()).map_err(broken)?;
    let mut jwk = Jwk::from_encoding_key(&signing, Algorithm::ES256).map_err(broken)?;
    jwk.common.key_id = Some(jwk.thumbprint(ThumbprintHash::SHA256).map_err(broken)?);
    Ok((signing, jwk))
}

#[cfg(test)]
mod tests;
