//! The certificate that the authority's own server presents, and its renewal.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use time::OffsetDateTime;
use tracing::info;

use super::ServeError;
use super::client_certificate::OptionalCertificate;
use crate::authority::{Authority, AuthorityError, Lifetimes};
use crate::profile::{BACKDATE, ServerName};

/// The server's certificate of the moment.
#[derive(Debug)]
pub(super) struct ServerCertificate {
    current: ArcSwap<CertifiedKey>,
    /// Guards for how long the current one does; held while the next is made.
    good: Mutex<Good>,
    names: Vec<ServerName>,
    lifetimes: Lifetimes,
}

/// When a certificate need not be replaced.
#[derive(Debug)]
struct Good {
    /// Its beginning: before it, the clock was set back, and no peer would believe it.
    from: OffsetDateTime,
    /// Half of its life.
    until: OffsetDateTime,
    /// Generation of the root behind it.
    root: u64,
}

impl ServerCertificate {
    pub(super) fn new(
        authority: &Authority,
        names: Vec<ServerName>,
        lifetimes: Lifetimes,
    ) -> Result<Self, ServeError> {
        let now = OffsetDateTime::now_utc();
        let root = authority.generation().root;
        let (key, until) = make(authority, &names, lifetimes, now)?;
        let good = Mutex::new(Good { from: now - BACKDATE, until, root });
        Ok(Self { current: ArcSwap::from_pointee(key), good, names, lifetimes })
    }

    /// Replaces the certificate after half of its life, when another root signs, and when it begins
    /// in the future because the clock was set back.
    pub(super) fn renew(
        &self,
        authority: &Authority,
        now: OffsetDateTime,
    ) -> Result<(), AuthorityError> {
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        let root = authority.generation().root;
        if (good.from..good.until).contains(&now) && root == good.root {
            return Ok(());
        }
        let (key, until) = make(authority, &self.names, self.lifetimes, now)?;
        self.current.store(Arc::new(key));
        *good = Good { from: now - BACKDATE, until, root };
        info!(next = until.unix_timestamp(), "server certificate replaced");
        Ok(())
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn make(
    authority: &Authority,
    names: &[ServerName],
    lifetimes: Lifetimes,
    now: OffsetDateTime,
) -> Result<(CertifiedKey, OffsetDateTime), AuthorityError> {
    let (issued, der) = authority.issue_server(names, lifetimes.most, now)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.as_slice()));
    let key = default_provider()
        .key_provider
        .load_private_key(key.clone_key())
        .map_err(|_| AuthorityError::Unreadable)?;
    let end = i64::try_from(issued.not_after.as_secs()).unwrap_or(i64::MAX);
    let half = (end - now.unix_timestamp()) / 2;
    Ok((CertifiedKey::new(issued.chain, key), now + time::Duration::seconds(half)))
}

/// TLS 1.3, HTTP/2, no tickets. Callers are asked for a certificate, and may have a token instead.
pub(super) fn config(
    certificate: Arc<ServerCertificate>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
        ..default_provider()
    };
    let asking = Arc::new(OptionalCertificate::new(&provider));
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(asking)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::directory::Directory;

    const HOUR: Duration = Duration::from_hours(1);

    #[tokio::test]
    async fn certificate_is_replaced_at_half_its_life_and_when_the_clock_was_set_back() {
        let temp = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        let directory = Directory::open(temp.path()).unwrap();
        let authority = Authority::open(directory, "td".parse().unwrap(), now).await.unwrap();
        let lifetimes = Lifetimes { default: HOUR, least: HOUR, most: HOUR };
        let held = ServerCertificate::new(&authority, Vec::new(), lifetimes).unwrap();
        let replaced = |at| {
            let before = held.current.load_full();
            held.renew(&authority, at).unwrap();
            !Arc::ptr_eq(&before, &held.current.load_full())
        };
        let minute = Duration::from_mins(1);
        assert!(!replaced(now) && !replaced(now + 29 * minute) && !replaced(now - 4 * minute));
        assert!(replaced(now + 31 * minute), "half of its life is over");
        assert!(replaced(now), "the clock was set back, and it begins in the future");
        assert!(!replaced(now + minute), "once is enough");
    }
}
