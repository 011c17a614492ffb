//! [`Authority`]: the one place where anything is signed, and the care of its roots.
//!
//! ```text
//!  calls ──▶ issue ──▶ Live (ArcSwap: keys and chains, checked whole) ◀── keeper ◀──▶ Store
//!                                                                          │
//!  agents ◀── published (watch) ◀──────────────────────────────────────────┘ state, heard
//! ```
//!
//! Issuing takes no lock and touches no disk. All that is slow is done by [`Authority::tend`], once
//! a second: follow the store, take notes of nodes there, look at plugged-in files, replace what is
//! old, make the steps of a rotation that are due.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use culvert_spiffe::{SpiffeId, TrustBundle, TrustDomain};
use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;
use tokio::sync::{Mutex, watch};
use tracing::info;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::directory::Directory;
use crate::heard::Hearing;
use crate::profile::{self, ServerName};
use crate::request::ProvenKey;
use crate::rotation;
use crate::source::Cacerts;
use crate::state::{self, Phase, State};
use crate::store::{DirectoryStore, Store, Swap};

mod error;
mod figures;
mod keeper;
mod live;
mod material;
pub(crate) mod operate;
mod published;
mod settings;
mod stored;

pub use crate::store::ROOT_CERTIFICATES_FILE;
pub use error::AuthorityError;
pub use figures::Figures;
use keeper::Keeper;
pub(crate) use live::{Live, first_end, read_key};
pub use published::{Generation, Heard, PublishedBundle, PublishedRoot, Standing};
pub use settings::{Lifetimes, Settings, Source};

/// How much longer than the largest TTL after the last look at the store a leaf may live: less than
/// a drained root is given, so that a replica cut off from the store breaks no promise.
const UNCONFIRMED_SLACK: Duration = Duration::from_mins(1);

/// The authority of one trust domain. Shared by all calls.
pub struct Authority {
    trust_domain: TrustDomain,
    settings: Settings,
    store: Arc<dyn Store>,
    live: ArcSwap<Live>,
    published: watch::Sender<Arc<PublishedBundle>>,
    hearing: Hearing,
    figures: ArcSwap<Figures>,
    /// When the store was last read, in seconds since 1970.
    confirmed: AtomicI64,
    /// Since when the clock runs evenly, in seconds since 1970.
    steady_since: AtomicI64,
    /// Whether the operator's files were refused the last time.
    source_refused: AtomicBool,
    /// The believed roots, PEM.
    roots: watch::Sender<Arc<str>>,
    /// Whether this replica moves the rotation on and looks at the operator's files.
    leads: AtomicBool,
    /// Guards what is known of the store; held across its operations, by the care of it alone.
    keeper: Mutex<Keeper>,
}

/// A certificate that was issued and verified.
#[derive(Debug)]
pub struct Issued {
    /// Leaf, issuing certificate, and while a root is being replaced its cross certificate: what
    /// TLS presents.
    pub chain: Vec<CertificateDer<'static>>,
    /// The same as PEM, one an element, and last all roots in one: the answer of the API.
    pub cert_chain: Vec<String>,
    /// Its serial number, hexadecimal.
    pub serial: String,
    /// Its last valid second.
    pub not_after: UnixTime,
    /// Which keys stand behind it.
    pub generation: Generation,
}

impl Authority {
    /// Opens the authority in `directory` with the usual settings; see [`Authority::with`].
    pub async fn open(
        directory: Directory,
        trust_domain: TrustDomain,
        now: OffsetDateTime,
    ) -> Result<Self, AuthorityError> {
        let store = Arc::new(DirectoryStore::new(directory));
        Self::with(store, Settings::new(trust_domain), now).await
    }

    /// Opens the authority whose state is in `store`, making its first root when there is no state,
    /// and publishes the root certificates.
    ///
    /// Not cancel safe: dropped halfway, it may have made the state, which the next opening takes.
    pub async fn with(
        store: Arc<dyn Store>,
        settings: Settings,
        now: OffsetDateTime,
    ) -> Result<Self, AuthorityError> {
        let domain = settings.trust_domain.clone();
        let mut source = match &settings.source {
            Source::Made => None,
            Source::Cacerts(directory) => Some(Cacerts::new(directory.clone())),
        };
        let stored = match stored::read(&*store, &domain).await? {
            Some(stored) if stored.live.root_end <= now => {
                succeed(&*store, &settings, stored, source.as_mut(), now).await?
            }
            Some(stored) => stored,
            None => begin(&*store, &settings, source.as_mut(), now).await?,
        };
        let seconds = now.unix_timestamp();
        let authority = Self {
            trust_domain: domain,
            settings,
            store,
            published: watch::Sender::new(stored.live.published.clone()),
            hearing: Hearing::default(),
            figures: ArcSwap::default(),
            confirmed: AtomicI64::new(seconds),
            steady_since: AtomicI64::new(seconds),
            source_refused: AtomicBool::new(false),
            roots: watch::Sender::new(stored.live.roots.as_str().into()),
            leads: AtomicBool::new(true),
            live: ArcSwap::from_pointee(stored.live),
            keeper: Mutex::new(Keeper::new(stored.state, stored.version, source)),
        };
        authority.settle_in(now).await?;
        Ok(authority)
    }

    /// What must hold before the first certificate is issued.
    async fn settle_in(&self, now: OffsetDateTime) -> Result<(), AuthorityError> {
        let mut keeper = self.keeper.lock().await;
        self.settle(&mut keeper).await?;
        // What signed may have ended while nothing ran.
        self.look_at_source(&mut keeper, now).await?;
        self.turn_over(&mut keeper, now).await?;
        let seconds = now.unix_timestamp();
        let plan = rotation::plan(&keeper.state, &keeper.facts(self), seconds);
        let figures = Figures::of(&keeper.state, &plan, &self.live.load(), seconds);
        self.figures.store(Arc::new(figures));
        self.publish().await
    }

    /// The trust domain it serves.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots that verify what it issues.
    pub fn bundle(&self) -> Arc<TrustBundle> {
        self.live.load().bundle.clone()
    }

    /// The bundle to push to agents: the one in force, then each that replaces it.
    pub fn published(&self) -> watch::Receiver<Arc<PublishedBundle>> {
        self.published.subscribe()
    }

    /// The believed roots as they are published, PEM; then each that replaces them.
    pub fn roots(&self) -> watch::Receiver<Arc<str>> {
        self.roots.subscribe()
    }

    /// Says whether this replica leads: one that does not follows what others do, and signs all the
    /// same. Until told otherwise each one leads, which costs double work and nothing else.
    pub fn lead(&self, leads: bool) {
        self.leads.store(leads, Ordering::Relaxed);
    }

    /// Whether this replica leads.
    pub fn leads(&self) -> bool {
        self.leads.load(Ordering::Relaxed)
    }

    /// Which keys sign now.
    pub fn generation(&self) -> Generation {
        self.live.load().generation
    }

    /// Takes note of what `node` did. Cheap, and in memory; kept in the store by
    /// [`Authority::tend`].
    pub fn heard(&self, node: &str, heard: Heard, now: OffsetDateTime) {
        self.hearing.note(node, heard, now, self.live.load().largest_ttl);
    }

    /// Says that the clock jumped: steps of a rotation wait until it has run evenly for a while.
    pub fn distrust_clock(&self, now: OffsetDateTime) {
        self.steady_since.store(now.unix_timestamp(), Ordering::Relaxed);
    }

    /// End of the root and of the issuing certificate, in seconds since 1970.
    pub fn ends(&self) -> (i64, i64) {
        let live = self.live.load();
        (live.root_end.unix_timestamp(), live.signer.not_after.unix_timestamp())
    }

    /// What can be watched of its roots, as of the last [`Authority::tend`].
    pub fn figures(&self) -> Arc<Figures> {
        self.figures.load_full()
    }

    /// Does what is due: to be called every second. Says whether another issuing certificate is in
    /// use than before. After an error all stays in use as it was, and the next call tries again.
    ///
    /// Not cancel safe: a change of plugged-in files that was seen may be passed over.
    pub async fn tend(&self, now: OffsetDateTime) -> Result<bool, AuthorityError> {
        self.keep(now).await
    }

    /// Issues an SVID of `id` for a key whose holder proved it.
    pub fn issue(
        &self,
        id: &SpiffeId,
        key: &ProvenKey,
        life: Duration,
        now: OffsetDateTime,
    ) -> Result<Issued, AuthorityError> {
        let keys = self.live.load();
        if keys.own_keys.contains(&key.der) {
            return Err(AuthorityError::OwnKey);
        }
        let params = profile::leaf(id, key.kind, now, self.end_of_leaf(&keys, life, now)?)?;
        sign(&keys, &params, &key.key, id, now)
    }

    /// Says why nothing can be signed now, if so.
    pub fn can_sign(&self, now: OffsetDateTime) -> Result<(), AuthorityError> {
        self.end_of_leaf(&self.live.load(), Duration::from_mins(1), now).map(|_| ())
    }

    /// Issues the certificate that the authority's own server presents, and its key (PKCS#8).
    pub fn issue_server(
        &self,
        names: &[ServerName],
        life: Duration,
        now: OffsetDateTime,
    ) -> Result<(Issued, Zeroizing<Vec<u8>>), AuthorityError> {
        let id = SpiffeId::of_authority(&self.trust_domain);
        let keys = self.live.load();
        let key = KeyPair::generate()?;
        let params = profile::server(&id, names, now, self.end_of_leaf(&keys, life, now)?)?;
        let issued = sign(&keys, &params, &key, &id, now)?;
        Ok((issued, Zeroizing::new(key.serialize_der())))
    }

    /// Never longer than the state says that certificates live, counted from when it was last read:
    /// a replica that cannot read it may sign under a root that others drain already.
    fn end_of_leaf(
        &self,
        keys: &Live,
        life: Duration,
        now: OffsetDateTime,
    ) -> Result<OffsetDateTime, AuthorityError> {
        let confirmed = self.confirmed.load(Ordering::Relaxed);
        let since = OffsetDateTime::from_unix_timestamp(confirmed).unwrap_or(now);
        let largest = time::Duration::seconds(keys.largest_ttl);
        let most = since + largest + UNCONFIRMED_SLACK;
        if most <= now {
            return Err(AuthorityError::Unconfirmed { since });
        }
        let wished = keys.signer.end_of_leaf(life, now)?;
        Ok(wished.min(now + largest).min(most))
    }
}

/// Makes the first state, unless another replica does; reads back what is there then.
async fn begin(
    store: &dyn Store,
    settings: &Settings,
    source: Option<&mut Cacerts>,
    now: OffsetDateTime,
) -> Result<stored::Stored, AuthorityError> {
    if store.published().await?.is_some() {
        return Err(AuthorityError::Lost);
    }
    let domain = &settings.trust_domain;
    let (seconds, largest) = (now.unix_timestamp(), settings.largest_ttl_seconds());
    let made = match source {
        Some(source) => source
            .look(domain, largest, now)
            .await?
            .map_or_else(|| material::root(domain, 1, now), |files| Ok(files.into_first()))?,
        None => material::root(domain, 1, now)?,
    };
    let state = State::empty(domain.as_str(), largest, settings.timing, seconds);
    let mut state = rotation::apply(state, rotation::Change::Prepared(made), seconds);
    if let Some(active) = state.active().filter(|active| active.issuing.is_none()) {
        let issuing = material::issuing(domain, active, 1, now)?;
        state = rotation::apply(state, rotation::Change::Reissued(issuing), seconds);
    }
    if let Swap::Done(_) = store.swap(state::DOCUMENT, None, &state.to_bytes()).await? {
        info!(trust_domain = %domain, "first root certificate in use");
    }
    stored::read(store, domain).await?.ok_or(AuthorityError::Lost)
}

/// Puts the operator's files at once in the place of a root that is over: nobody believes anything
/// under it any more, so that there is nothing to wait for.
async fn succeed(
    store: &dyn Store,
    settings: &Settings,
    stored: stored::Stored,
    source: Option<&mut Cacerts>,
    now: OffsetDateTime,
) -> Result<stored::Stored, AuthorityError> {
    let domain = &settings.trust_domain;
    let not_after = stored.live.root_end;
    let expired = AuthorityError::RootExpired { not_after };
    let Some(source) = source else { return Err(expired) };
    let files = source.look(domain, settings.largest_ttl_seconds(), now).await?;
    let Some(files) = files else { return Err(expired) };
    let seconds = now.unix_timestamp();
    let replaced = stored::replace(store, domain, (stored.state, stored.version), |state| {
        let state = files.adopt(state.clone(), seconds).unwrap_or(state);
        let Some(next) = state.in_phase(Phase::Prepared) else { return Ok(None) };
        let generation = next.number;
        let change = rotation::Change::Activated { generation, cross: None, issuing: None };
        Ok(Some(rotation::apply(state, change, seconds)))
    })
    .await?;
    let stored = match replaced {
        Some(stored) => {
            info!(ended = %not_after, "root is over; the plugged-in CA signs in its place");
            stored
        }
        // Another replica did it.
        None => stored::read(store, domain).await?.ok_or(AuthorityError::Lost)?,
    };
    if stored.live.root_end <= now { Err(expired) } else { Ok(stored) }
}

/// Signs, then verifies as a peer would; nothing leaves that does not hold.
fn sign(
    live: &Live,
    params: &rcgen::CertificateParams,
    key: &impl rcgen::PublicKeyData,
    id: &SpiffeId,
    now: OffsetDateTime,
) -> Result<Issued, AuthorityError> {
    let signer = &live.signer;
    let leaf = params.signed_by(key, &signer.issuer)?;
    let mut chain = Vec::with_capacity(signer.chain.len() + 1);
    chain.push(leaf.der().clone());
    chain.extend(signer.chain.iter().cloned());
    let peer = signer.verify(&chain, &live.bundle, now)?.expect(id)?;
    let parsed = parse(leaf.der()).ok_or(AuthorityError::Unreadable)?;
    let mut cert_chain = Vec::with_capacity(signer.chain_pem.len() + 2);
    cert_chain.push(leaf.pem());
    cert_chain.extend(signer.chain_pem.iter().cloned());
    cert_chain.push(live.roots.clone());
    Ok(Issued {
        cert_chain,
        serial: format!("{:x}", parsed.tbs_certificate.serial),
        not_after: peer.not_after(),
        generation: live.generation,
        chain,
    })
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(der).ok().map(|(_, parsed)| parsed)
}

pub(crate) fn unix(at: OffsetDateTime) -> UnixTime {
    // A clock before 1970 verifies nothing, and 0 says just that.
    let seconds = u64::try_from(at.unix_timestamp()).unwrap_or(0);
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests;
