//! What is put in force and what is not, by certificates made for it.

use std::time::Duration;

use culvert_proto::culvert::ca as wire;
use tokio::time::timeout;

use super::offer::{Judgement, Served, judge, read};
use super::*;
use crate::identity::Svid;
use crate::identity::testing::TestAuthority;

/// Far more than anything here takes; a test that gets there has failed.
const PATIENCE: Duration = Duration::from_secs(20);

fn domain() -> TrustDomain {
    "td".parse().unwrap()
}

fn numbered(sequence: u64, roots: &[(&TestAuthority, Standing)]) -> BundleInForce {
    let roots = roots.iter().map(|(root, standing)| (root.root_certificate(), *standing));
    BundleInForce::numbered(domain(), sequence, roots.collect(), Arc::default()).unwrap()
}

fn served(svid: &Svid) -> Served {
    Served { identity: svid.id().clone(), chain: svid.chain().to_vec() }
}

fn message(sequence: u64, roots: &[(&TestAuthority, wire::Standing)]) -> wire::TrustBundle {
    let root = |(root, standing): &(&TestAuthority, wire::Standing)| wire::Root {
        certificate: root.root_certificate().to_vec(),
        standing: (*standing).into(),
    };
    wire::TrustBundle {
        trust_domain: "td".to_owned(),
        sequence,
        roots: roots.iter().map(root).collect(),
        jwks: b"{}".to_vec(),
    }
}

fn id(authority: &TestAuthority) -> RootId {
    RootId::of_certificate(&authority.root_certificate()).unwrap()
}

#[test]
fn highest_number_wins_and_a_number_never_goes_back() {
    let (a, b) = (TestAuthority::new("td"), TestAuthority::new("td"));
    let now = UnixTime::now();
    let current = numbered(5, &[(&a, Standing::Trusted)]);
    let both = [(&a, Standing::Trusted), (&b, Standing::Trusted)];
    let judged = |offered: &BundleInForce| judge(&current, offered, &[], now);
    assert!(matches!(judged(&numbered(4, &both)), Ok(Judgement::Older)));
    assert!(matches!(judged(&numbered(5, &both[..1])), Ok(Judgement::Same)));
    assert!(matches!(judged(&numbered(5, &both)), Err(OfferError::Forked { sequence: 5 })));
    let Ok(Judgement::Take(next)) = judged(&numbered(6, &both)) else { panic!("not taken") };
    assert_eq!(next.bundle().root_ids(), [id(&a), id(&b)]);

    // The keys of JWTs turn over without a new number.
    let roots = vec![(a.root_certificate(), Standing::Trusted)];
    let keys = BundleInForce::numbered(domain(), 5, roots, Arc::from(&b"{}"[..])).unwrap();
    let Ok(Judgement::Take(next)) = judged(&keys) else { panic!("not taken") };
    assert_eq!(&next.jwks()[..], b"{}");
}

#[test]
fn root_that_a_certificate_in_use_needs_may_go_only_when_it_is_given_up() {
    let (a, b) = (TestAuthority::new("td"), TestAuthority::new("td"));
    let svid = a.svid("web");
    let judged = |was: Standing, next: &[(&TestAuthority, Standing)]| {
        judge(&numbered(1, &[(&a, was)]), &numbered(2, next), &[served(&svid)], UnixTime::now())
    };
    let without = [(&b, Standing::Trusted)];
    let error = judged(Standing::Trusted, &without).unwrap_err();
    assert!(matches!(&error, OfferError::Needed { root, .. } if *root == id(&a)), "{error}");
    assert!(error.to_string().contains("spiffe://td/ns/default/sa/web"), "{error}");

    let revoked = [(&a, Standing::Revoked), (&b, Standing::Trusted)];
    assert!(matches!(judged(Standing::Trusted, &revoked), Ok(Judgement::Take(_))));
    assert!(matches!(judged(Standing::Tainted, &without), Ok(Judgement::Take(_))));
    let both = [(&a, Standing::Trusted), (&b, Standing::Trusted)];
    assert!(matches!(judged(Standing::Trusted, &both), Ok(Judgement::Take(_))));
    // What nobody believes today is lost already.
    let other = judge(
        &numbered(1, &[(&b, Standing::Trusted)]),
        &numbered(2, &without),
        &[served(&svid)],
        UnixTime::now(),
    );
    assert!(matches!(other, Ok(Judgement::Take(_))));
}

#[test]
fn bundle_of_another_domain_or_beyond_the_bounds_is_refused() {
    let a = TestAuthority::new("td");
    let good = message(3, &[(&a, wire::Standing::Trusted)]);
    assert_eq!(read(good.clone(), &domain()).unwrap().sequence(), 3);
    let refused = |change: &dyn Fn(&mut wire::TrustBundle)| {
        let mut message = good.clone();
        change(&mut message);
        read(message, &domain()).unwrap_err()
    };
    let foreign = refused(&|m| m.trust_domain = "other\n".to_owned());
    assert!(matches!(foreign, OfferError::ForeignTrustDomain { .. }));
    assert!(!foreign.to_string().contains('\n'), "{foreign}");
    assert!(matches!(refused(&|m| m.sequence = 0), OfferError::Malformed { .. }));
    assert!(matches!(refused(&|m| m.roots.clear()), OfferError::Bundle { .. }));
    assert!(matches!(refused(&|m| m.roots[0].standing = 3), OfferError::Bundle { .. }));
    assert!(matches!(refused(&|m| m.roots[0].certificate.truncate(9)), OfferError::Root { .. }));
    let large = refused(&|m| m.roots[0].certificate.resize(17 * 1024, 0));
    assert!(matches!(large, OfferError::Malformed { .. }));
    let many = refused(&|m| m.roots = vec![m.roots[0].clone(); 33]);
    assert!(matches!(many, OfferError::Malformed { .. }));
    let keys = refused(&|m| m.jwks = vec![b' '; 65 * 1024]);
    assert!(matches!(keys, OfferError::Malformed { .. }));
}

#[test]
fn revoked_key_is_believed_in_no_certificate_and_what_nobody_vouches_for_is_revoked() {
    let (a, b) = (TestAuthority::new("td"), TestAuthority::new("td"));
    let twice = [
        (&a, wire::Standing::Trusted),
        (&a, wire::Standing::Revoked),
        (&b, wire::Standing::Trusted),
    ];
    let bundle = read(message(1, &twice), &domain()).unwrap();
    assert_eq!(bundle.bundle().root_ids(), [id(&b)]);
    assert!(bundle.is_revoked(id(&a)) && !bundle.is_revoked(id(&b)));

    let unsaid = [(&a, wire::Standing::Unspecified), (&b, wire::Standing::Tainted)];
    let bundle = read(message(1, &unsaid), &domain()).unwrap();
    assert!(bundle.is_revoked(id(&a)));
    assert_eq!(bundle.bundle().root_ids(), [id(&b)], "a tainted root is believed for now");
}

#[test]
fn chain_rests_on_what_its_root_is_good_for() {
    let (a, b) = (TestAuthority::new("td"), TestAuthority::new("td"));
    let (svid, now) = (a.svid("web"), UnixTime::now());
    for (standing, rests) in [
        (Standing::Trusted, Rests::Sound),
        (Standing::Tainted, Rests::Tainted),
        (Standing::Revoked, Rests::Nothing),
    ] {
        let bundle = numbered(1, &[(&a, standing), (&b, Standing::Trusted)]);
        assert_eq!(bundle.rests(svid.chain(), now), rests);
    }
    // Past its end it is not the root's fault.
    let later = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs() + 7200));
    let bundle = numbered(1, &[(&a, Standing::Trusted)]);
    assert_eq!(bundle.rests(svid.chain(), later), Rests::Sound);
}

#[test]
fn answers_add_roots_until_a_bundle_was_pushed() {
    let (a, b) = (TestAuthority::new("td"), TestAuthority::new("td"));
    a.roots.add(&b.believed());
    assert_eq!(a.believed().root_ids(), [id(&a), id(&b)]);
    a.roots.add(&b.believed());
    assert_eq!(a.roots.load().sequence(), 0);

    a.roots.replace(|_| Some(numbered(1, &[(&a, Standing::Trusted)])));
    a.roots.add(&b.believed());
    assert_eq!(a.believed().root_ids(), [id(&a)]);
}

#[test]
fn authority_is_verified_with_the_root_file_too_but_for_revoked_roots() {
    let [a, b, c] = [(); 3].map(|()| TestAuthority::new("td"));
    let in_force = numbered(2, &[(&b, Standing::Trusted), (&c, Standing::Revoked)]);
    let roots = TrustRoots::new(in_force);
    assert_eq!(roots.and(&a.believed()).root_ids(), [id(&b), id(&a)]);
    assert_eq!(roots.and(&c.believed()).root_ids(), [id(&b)]);
}

#[tokio::test]
async fn connection_ends_when_its_peers_root_or_its_own_is_revoked_and_for_nothing_else() {
    let [a, b, c] = [(); 3].map(|()| TestAuthority::new("td"));
    let own = a.svid("web");
    let bundle = |first, second, third| numbered(1, &[(&a, first), (&b, second), (&c, third)]);
    let (good, bad) = (Standing::Trusted, Standing::Revoked);
    let roots = TrustRoots::new(bundle(good, good, good));
    let mut ended = std::pin::pin!(roots.revoked(id(&b), own.chain()));
    let moment = Duration::from_millis(20);
    timeout(moment, &mut ended).await.unwrap_err();
    roots.replace(|_| Some(bundle(Standing::Tainted, Standing::Tainted, bad)));
    timeout(moment, &mut ended).await.unwrap_err();
    roots.replace(|_| Some(bundle(good, bad, good)));
    timeout(PATIENCE, ended).await.unwrap();

    let roots = TrustRoots::new(bundle(good, good, good));
    let ended = roots.revoked(id(&b), own.chain());
    roots.replace(|_| Some(bundle(bad, good, good)));
    timeout(PATIENCE, ended).await.unwrap();
}

#[test]
fn kept_bundle_reads_back_and_what_is_none_is_refused() {
    let (a, b) = (TestAuthority::new("td"), TestAuthority::new("td"));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bundle.json");
    assert!(file::read(&path, &domain()).unwrap().is_none());

    let roots =
        vec![(a.root_certificate(), Standing::Revoked), (b.root_certificate(), Standing::Tainted)];
    let keys = Arc::from(&b"{\"keys\":[]}"[..]);
    let bundle = BundleInForce::numbered(domain(), 7, roots, keys).unwrap();
    for _ in 0..2 {
        file::write(&path, &bundle).unwrap();
    }
    let back = file::read(&path, &domain()).unwrap().unwrap();
    assert_eq!((back.sequence(), back.roots()), (7, bundle.roots()));
    assert_eq!(back.jwks(), bundle.jwks());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing left behind");

    let foreign = file::read(&path, &"other".parse().unwrap()).unwrap_err();
    assert!(matches!(foreign, file::FileError::ForeignTrustDomain { .. }), "{foreign}");
    let text = std::fs::read_to_string(&path).unwrap();
    let halves = text.split_at(text.len() / 2);
    for broken in [halves.0.to_owned(), text.replace('7', "0"), text.replace("BEGIN", "BEGUN")] {
        std::fs::write(&path, broken).unwrap();
        file::read(&path, &domain()).unwrap_err();
    }
    let nowhere = directory.path().join("none").join("bundle.json");
    assert!(matches!(file::write(&nowhere, &bundle), Err(file::FileError::Write { .. })));
}
