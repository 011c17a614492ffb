use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use culvert_spiffe::{PeerRole, SpiffeId};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::macros::datetime;

use super::*;
use crate::authority::{Authority, Heard, Issued, Settings, Source};
use crate::directory::Directory;
use crate::state::Timing;
use crate::store::DirectoryStore;

const NOW: OffsetDateTime = datetime!(2026-06-01 12:00 UTC);
const HOUR: time::Duration = time::Duration::HOUR;

fn domain() -> TrustDomain {
    "td".parse().unwrap()
}

/// A CA of somebody else's making.
struct Ca {
    params: CertificateParams,
    pem: String,
    key: String,
}

impl Ca {
    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = NOW - HOUR;
        params.not_after = NOW + HOUR * 24 * 365;
        params
    }

    fn root(name: &str) -> Self {
        Self::altered(name, None, |_| {})
    }

    fn under(&self, name: &str) -> Self {
        Self::altered(name, Some(self), |_| {})
    }

    fn altered(
        name: &str,
        signer: Option<&Self>,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let key = KeyPair::generate().unwrap();
        Self::with_key(name, signer, &key, key.serialize_pem(), change)
    }

    fn with_key(
        name: &str,
        signer: Option<&Self>,
        key: &KeyPair,
        key_pem: String,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let mut params = Self::params(name);
        change(&mut params);
        let certificate = match signer {
            Some(signer) => {
                let issuer = KeyPair::from_pem(&signer.key).unwrap();
                let issuer = Issuer::from_params(&signer.params, issuer);
                params.use_authority_key_identifier_extension = true;
                params.signed_by(key, &issuer).unwrap()
            }
            None => params.self_signed(key).unwrap(),
        };
        Self { pem: certificate.pem(), params, key: key_pem }
    }
}

/// Files as Istio has them.
fn plug(path: &Path, signer: &Ca, chain: &str, roots: &str) {
    fs::write(path.join("ca-cert.pem"), &signer.pem).unwrap();
    fs::write(path.join("ca-key.pem"), &signer.key).unwrap();
    fs::write(path.join("cert-chain.pem"), chain).unwrap();
    fs::write(path.join("root-cert.pem"), roots).unwrap();
}

async fn look(path: &Path) -> Result<Option<Plugged>, SourceError> {
    Cacerts::new(path.to_owned()).look(&domain(), 3600, NOW).await
}

struct Lab {
    temp: tempfile::TempDir,
    authority: Authority,
}

impl Lab {
    /// An authority on these files, whose certificates live a minute.
    async fn open(plug: impl FnOnce(&Path)) -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("cacerts")).unwrap();
        plug(&temp.path().join("cacerts"));
        let authority = Self::again(&temp, NOW).await;
        Self { temp, authority }
    }

    async fn again(temp: &tempfile::TempDir, now: OffsetDateTime) -> Authority {
        Self::try_again(temp, now).await.unwrap()
    }

    async fn try_again(
        temp: &tempfile::TempDir,
        now: OffsetDateTime,
    ) -> Result<Authority, crate::authority::AuthorityError> {
        let store = DirectoryStore::new(Directory::open(&temp.path().join("ca")).unwrap());
        let settings = Settings {
            largest_ttl: Duration::from_mins(1),
            timing: Timing { wait: 10, drain_margin: 5, rollback: 20, ..Timing::default() },
            source: Source::Cacerts(temp.path().join("cacerts")),
            ..Settings::new(domain())
        };
        Authority::with(Arc::new(store), settings, now).await
    }

    fn files(&self) -> PathBuf {
        self.temp.path().join("cacerts")
    }

    fn issue(&self, now: OffsetDateTime) -> Issued {
        let id = SpiffeId::new(&domain(), "default", "web").unwrap();
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        let key = crate::request::read(&csr, &id).unwrap();
        self.authority.issue(&id, &key, Duration::from_hours(1), now).unwrap()
    }

    /// Looks each second, as the one node that follows and acknowledges.
    async fn run(&self, from: OffsetDateTime, seconds: i64) -> OffsetDateTime {
        let mut now = from;
        for _ in 0..seconds {
            let in_force = self.authority.published().borrow().sequence;
            self.authority.heard("node1", Heard::Following { in_force }, now);
            self.authority.tend(now).await.unwrap();
            now += time::Duration::SECOND;
        }
        now
    }

    fn roots(&self) -> usize {
        self.authority.bundle().certificates().len()
    }
}

#[tokio::test]
async fn istio_layout_signs_with_its_chain() {
    let root = Ca::root("root");
    let upper = root.under("upper");
    let lower = upper.under("lower");
    let chain = format!("{}{}{}", lower.pem, upper.pem, root.pem);
    let lab = Lab::open(|path| plug(path, &lower, &chain, &root.pem)).await;
    let issued = lab.issue(NOW);
    assert_eq!(issued.chain.len(), 3, "leaf, lower, upper; the root is known");
    assert_eq!(issued.cert_chain.len(), 4);
    assert_eq!(issued.cert_chain[3].trim(), root.pem.replace('\r', "").trim());
    lab.run(NOW, 2).await;
    assert_eq!(lab.authority.published().borrow().sequence, 1, "nothing changed");
}

#[tokio::test]
async fn root_that_is_over_beside_the_one_in_use_harms_nothing() {
    let old = Ca::altered("old", None, |params| params.not_after = NOW - HOUR / 2);
    let root = Ca::root("root");
    let lab = Lab::open(|path| plug(path, &root, "", &format!("{}{}", old.pem, root.pem))).await;
    assert_eq!((lab.roots(), lab.issue(NOW).chain.len()), (2, 1));
    assert_eq!(lab.authority.ends().0, root.params.not_after.unix_timestamp());
    Lab::again(&lab.temp, NOW).await;
}

#[tokio::test]
async fn single_tier_signs_with_the_root_itself() {
    let root = Ca::root("root");
    let lab = Lab::open(|path| {
        fs::write(path.join("tls.crt"), &root.pem).unwrap();
        fs::write(path.join("tls.key"), &root.key).unwrap();
        fs::write(path.join("ca.crt"), &root.pem).unwrap();
    })
    .await;
    let issued = lab.issue(NOW);
    assert_eq!((issued.chain.len(), issued.cert_chain.len()), (1, 2));
    lab.authority
        .bundle()
        .verify(&issued.chain, PeerRole::Both, crate::authority::unix(NOW))
        .unwrap();
}

#[tokio::test]
async fn keys_of_every_usual_kind_and_form_are_taken() {
    let kinds = [
        (&rcgen::PKCS_ECDSA_P256_SHA256, "P-256"),
        (&rcgen::PKCS_ECDSA_P384_SHA384, "P-384"),
        (&rcgen::PKCS_RSA_SHA256, "RSA"),
    ];
    for (algorithm, name) in kinds {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let root = Ca::with_key("root", None, &key, key.serialize_pem(), |_| {});
        let temp = tempfile::tempdir().unwrap();
        plug(temp.path(), &root, "", &root.pem);
        assert!(look(temp.path()).await.unwrap().is_some(), "{name}");
    }
    for refused in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P521_SHA512] {
        let key = KeyPair::generate_for(refused).unwrap();
        let root = Ca::with_key("root", None, &key, key.serialize_pem(), |_| {});
        let temp = tempfile::tempdir().unwrap();
        plug(temp.path(), &root, "", &root.pem);
        let error = look(temp.path()).await.unwrap_err();
        assert!(matches!(error, SourceError::Key { .. }), "{error}");
    }
}

/// SEC1 and PKCS#1, as openssl writes them; skipped where there is no openssl.
#[tokio::test]
async fn keys_as_openssl_writes_them_are_taken() {
    let temp = tempfile::tempdir().unwrap();
    let openssl = |arguments: &str| {
        std::process::Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(temp.path())
            .output()
            .ok()
            .map(|output| assert!(output.status.success(), "{output:?}"))
    };
    let made = [
        "ecparam -name prime256v1 -genkey -out sec1.pem",
        "ecparam -name secp384r1 -genkey -noout -out sec1-384.pem",
        "genrsa -traditional -out pkcs1.pem 2048",
        "genrsa -out small.pem 1024",
    ];
    for arguments in made {
        if openssl(arguments).is_none() {
            eprintln!("SKIP: no openssl here");
            return;
        }
    }
    for name in ["sec1.pem", "sec1-384.pem", "pkcs1.pem"] {
        let text = fs::read_to_string(temp.path().join(name)).unwrap();
        let key = crate::authority::read_key(&text).unwrap();
        let root = Ca::with_key("root", None, &key, text, |_| {});
        plug(temp.path(), &root, "", &root.pem);
        assert!(look(temp.path()).await.unwrap().is_some(), "{name}");
    }
    let small = fs::read_to_string(temp.path().join("small.pem")).unwrap();
    let root = Ca::root("root");
    plug(temp.path(), &Ca { key: small, ..Ca::root("root") }, "", &root.pem);
    assert!(look(temp.path()).await.is_err());
}

#[tokio::test]
async fn bad_sets_are_refused_whole_with_what_is_wrong() {
    let root = Ca::root("root");
    let other = Ca::root("other");
    let lower = root.under("lower");
    let usage = Ca::altered("weak", Some(&root), |p| p.key_usages = vec![KeyUsagePurpose::CrlSign]);
    let leaf = Ca::altered("leaf", Some(&root), |p| p.is_ca = IsCa::ExplicitNoCa);
    let early = Ca::altered("early", Some(&root), |p| p.not_before = NOW + HOUR);
    let late = Ca::altered("late", Some(&root), |p| p.not_after = NOW + HOUR / 120);
    let foreign = Ca::altered("foreign", Some(&root), |p| {
        p.subject_alt_names = vec![SanType::URI("spiffe://other".try_into().unwrap())];
    });
    let narrow =
        Ca::altered("narrow", None, |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let below = narrow.under("below");
    let key_of_other = Ca { key: other.key.clone(), ..root.under("lower") };
    let no_key = Ca { key: "nothing".to_owned(), ..root.under("lower") };
    let with_leaf = format!("{}{}", root.pem, leaf.pem);
    let cases: [(&Ca, &str, &str); 10] = [
        (&lower, &other.pem, "leads from"),
        (&usage, &root.pem, "keyCertSign"),
        (&leaf, &root.pem, "is no CA"),
        (&early, &root.pem, "valid only from"),
        (&late, &root.pem, "renew it"),
        (&foreign, &root.pem, "names trust domain spiffe://other"),
        (&below, &narrow.pem, "pathLen"),
        (&key_of_other, &root.pem, "is not the key of"),
        (&no_key, &root.pem, "holds no key"),
        (&lower, &with_leaf, "is no CA"),
    ];
    let lab = Lab::open(|path| plug(path, &lower, "", &root.pem)).await;
    for (signer, roots, told) in cases {
        let temp = tempfile::tempdir().unwrap();
        plug(temp.path(), signer, "", roots);
        let error = look(temp.path()).await.unwrap_err();
        assert!(error.to_string().contains(told), "{told}: {error}");
        // The server goes on with what it had.
        plug(&lab.files(), signer, "", roots);
        lab.run(NOW, 1).await;
        assert_eq!(lab.issue(NOW).generation, lab.authority.generation());
        assert!(lab.authority.figures().source_refused, "{told}");
        assert_eq!((lab.authority.generation().issuing, lab.roots()), (1, 1), "{told}");
    }
    fs::remove_file(lab.files().join("ca-key.pem")).unwrap();
    lab.run(NOW, 1).await;
    fs::write(lab.files().join("root-cert.pem"), "half of a certif").unwrap();
    lab.run(NOW, 1).await;
    fs::remove_dir_all(lab.files()).unwrap();
    lab.run(NOW, 1).await;
    lab.issue(NOW);
    // And again, once all is well: another key under the same root, at once.
    fs::create_dir(lab.files()).unwrap();
    plug(&lab.files(), &root.under("next"), "", &root.pem);
    lab.run(NOW, 1).await;
    assert_eq!((lab.authority.generation().issuing, lab.roots()), (2, 1));
    assert!(!lab.authority.figures().source_refused);
}

#[tokio::test]
async fn ca_that_ended_while_nothing_ran_is_replaced_by_new_files_at_the_start() {
    let root = Ca::root("root");
    let short = Ca::altered("short", Some(&root), |params| params.not_after = NOW + HOUR);
    let lab = Lab::open(|path| plug(path, &short, "", &root.pem)).await;
    // The same root, and what signs under it is over.
    let now = NOW + HOUR * 2;
    plug(&lab.files(), &root.under("next"), "", &root.pem);
    let lab = Lab { authority: Lab::again(&lab.temp, now).await, temp: lab.temp };
    assert_eq!((lab.issue(now).generation.root, lab.issue(now).generation.issuing), (1, 2));
    // The root itself is over: another one signs without a wait.
    let now = root.params.not_after + HOUR;
    let error = Lab::try_again(&lab.temp, now).await.err().unwrap();
    assert!(matches!(error, crate::authority::AuthorityError::Source(_)), "{error}");
    let other = Ca::altered("other", None, |params| params.not_after = now + HOUR * 48);
    plug(&lab.files(), &other, "", &other.pem);
    let lab = Lab { authority: Lab::again(&lab.temp, now).await, temp: lab.temp };
    assert_eq!(lab.issue(now).generation.root, 2);
    lab.run(now, 2).await;
    lab.issue(now);
}

#[tokio::test]
async fn root_that_is_over_in_a_running_server_holds_its_successor_for_no_node() {
    let short = Ca::altered("short", None, |params| params.not_after = NOW + HOUR);
    let lab = Lab::open(|path| plug(path, &short, "", &short.pem)).await;
    lab.authority.heard("node1", Heard::Following { in_force: 1 }, NOW + HOUR * 2);
    let now = NOW + HOUR * 2;
    lab.authority.tend(now).await.unwrap();
    let other = Ca::altered("other", None, |params| params.not_after = now + HOUR * 48);
    plug(&lab.files(), &other, "", &other.pem);
    // Nobody acknowledges, nobody can.
    lab.authority.tend(now + time::Duration::SECOND).await.unwrap();
    assert_eq!(lab.authority.generation().root, 2);
}

#[tokio::test]
async fn changed_roots_are_announced_before_and_drained_after() {
    let (a, b) = (Ca::root("a"), Ca::root("b"));
    let lab = Lab::open(|path| plug(path, &a, "", &a.pem)).await;
    let now = lab.run(NOW, 2).await;
    plug(&lab.files(), &b, "", &b.pem);
    let now = lab.run(now, 5).await;
    assert_eq!((lab.roots(), lab.authority.published().borrow().sequence), (2, 2));
    assert_eq!(lab.issue(now).generation.root, 1, "nobody may know the new root yet");
    // A restart has only the new files, and still signs with the old key.
    let lab = Lab { authority: Lab::again(&lab.temp, now).await, temp: lab.temp };
    assert_eq!(lab.issue(now).generation.root, 1);
    let now = lab.run(now, 12).await;
    assert_eq!(lab.issue(now).generation.root, 2);
    assert_eq!(lab.roots(), 2, "leaves of the first are alive");
    lab.run(now, 66).await;
    assert_eq!((lab.roots(), lab.authority.published().borrow().sequence), (1, 3));
}

#[tokio::test]
async fn set_that_is_taken_back_never_signs() {
    let (a, b) = (Ca::root("a"), Ca::root("b"));
    let lab = Lab::open(|path| plug(path, &a, "", &a.pem)).await;
    let now = lab.run(NOW, 2).await;
    plug(&lab.files(), &b, "", &b.pem);
    let now = lab.run(now, 2).await;
    assert_eq!(lab.roots(), 2);
    plug(&lab.files(), &a, "", &a.pem);
    let now = lab.run(now, 60).await;
    assert_eq!((lab.roots(), lab.issue(now).generation.root), (1, 1));
}

#[tokio::test]
async fn root_made_before_files_were_plugged_in_drains() {
    let temp = tempfile::tempdir().unwrap();
    let store = DirectoryStore::new(Directory::open(&temp.path().join("ca")).unwrap());
    drop(Authority::with(Arc::new(store), Settings::new(domain()), NOW).await.unwrap());
    fs::create_dir(temp.path().join("cacerts")).unwrap();
    let root = Ca::root("root");
    plug(&temp.path().join("cacerts"), &root, "", &root.pem);
    let lab = Lab { authority: Lab::again(&temp, NOW).await, temp };
    let now = lab.run(NOW, 15).await;
    assert_eq!((lab.roots(), lab.issue(now).generation.root), (2, 2));
}
