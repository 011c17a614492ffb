//! SVIDs for tests, from an authority that lives in the test: real certificates, real TLS.

use std::sync::Arc;

use culvert_spiffe::{SpiffeId, TrustBundle, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::UnixTime;
use time::OffsetDateTime;

use super::Svid;
use super::metrics::IdentityMetrics;
use super::roots::{BundleInForce, TrustRoots};
use super::svid::SvidParts;
use super::tls::{self, Profile};

/// A root, and the trust bundle of those who believe in it.
pub(crate) struct TestAuthority {
    root: CertifiedIssuer<'static, KeyPair>,
    trust_domain: TrustDomain,
    pub(crate) roots: TrustRoots,
    profile: Arc<Profile>,
}

impl TestAuthority {
    pub(crate) fn new(trust_domain: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(2));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let trust_domain: TrustDomain = trust_domain.parse().unwrap();
        let bundle =
            TrustBundle::from_certificates(trust_domain.clone(), vec![root.der().clone()]).unwrap();
        let metrics = IdentityMetrics::register(&prometheus::Registry::new()).unwrap();
        let roots = TrustRoots::new(BundleInForce::of_file(bundle));
        let profile = Profile::new(roots.clone(), Arc::new(tls::provider()), metrics).unwrap();
        Self { root, trust_domain, roots, profile: Arc::new(profile) }
    }

    /// What this authority's SVIDs believe.
    pub(crate) fn believed(&self) -> TrustBundle {
        self.roots.load().bundle().clone()
    }

    /// Has this authority's SVIDs believe in `bundle` from now on.
    pub(crate) fn believe(&self, bundle: TrustBundle) {
        self.roots.replace(|_| Some(BundleInForce::of_file(bundle)));
    }

    /// The root itself.
    pub(crate) fn root_certificate(&self) -> rustls::pki_types::CertificateDer<'static> {
        self.root.der().clone()
    }

    /// The same as a root file has it.
    pub(crate) fn root_pem(&self) -> String {
        self.root.pem()
    }

    /// An identity in this authority's trust domain, namespace `default`.
    pub(crate) fn id(&self, service_account: &str) -> SpiffeId {
        SpiffeId::new(&self.trust_domain, "default", service_account).unwrap()
    }

    /// A good SVID of `service_account`, valid for an hour.
    pub(crate) fn svid(&self, service_account: &str) -> Svid {
        self.svid_but(service_account, |_| {})
    }

    /// An SVID that differs from a good one by `change`; its holder does not notice.
    pub(crate) fn svid_but(
        &self,
        service_account: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Svid {
        let id = self.id(service_account);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = OffsetDateTime::now_utc() - time::Duration::minutes(5);
        params.not_after = OffsetDateTime::now_utc() + time::Duration::hours(1);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.root).unwrap();
        let parts = SvidParts {
            id,
            chain: vec![leaf.der().clone()],
            key: key.serialize_der().into(),
            not_after: UnixTime::since_unix_epoch(std::time::Duration::from_secs(
                UnixTime::now().as_secs() + 3600,
            )),
        };
        Svid::new(parts, &self.profile).unwrap()
    }
}
