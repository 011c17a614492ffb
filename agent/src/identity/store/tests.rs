//! The store against the real authority, over real TLS on the loopback.

use std::time::SystemTime;

use culvert_ca::authority::{Authority, ROOT_CERTIFICATES_FILE};
use culvert_ca::directory::Directory;
use rustls::pki_types::UnixTime;
use time::OffsetDateTime;
use tokio::io::duplex;
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::lab::{Lab, WORKLOADS, id};
use super::*;
use crate::identity::handshake;
use crate::identity::testing::TestAuthority;

/// Far more than anything here takes; a test that gets there has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until what connections see of an identity is `such`.
async fn until(hold: &IdentityHold, such: impl FnMut(&Current) -> bool) -> Current {
    let mut current = hold.entry.current.subscribe();
    timeout(PATIENCE, current.wait_for(such)).await.unwrap().unwrap().clone()
}

fn last_error(current: &Current) -> String {
    match current {
        Current::Absent(Some(error)) => chain(&**error),
        Current::Absent(None) | Current::Ready(_) => panic!("no error"),
    }
}

#[tokio::test]
async fn issued_svids_shake_hands_and_one_entry_serves_many_pods() {
    let mut lab = Lab::new().await;
    let _authority = lab.authority(Duration::from_secs(1)).await;
    let store = lab.store(Duration::from_hours(1)).await;
    let holds = [
        store.hold(&id("web"), "default/pod"),
        store.hold(&id("web"), "default/pod"),
        store.hold(&id("api"), "default/pod"),
    ];
    assert_eq!(store.len(), 2);
    let (web, api) = (store.svid(&id("web")).await.unwrap(), holds[2].svid().await.unwrap());
    assert!(Arc::ptr_eq(&web, &holds[1].svid().await.unwrap()));

    let (expected, (near, far)) = (id("api"), duplex(64 * 1024));
    let (near, far) =
        tokio::join!(handshake::connect(&web, &expected, near), handshake::accept(&api, far));
    assert_eq!(near.unwrap().1.id(), &id("api"));
    assert_eq!(far.unwrap().1.id(), &id("web"));

    let text = prometheus::TextEncoder::new().encode_to_string(&lab.registry.gather()).unwrap();
    for line in [
        "culvert_identity_issuance_total{kind=\"first\",result=\"ok\"} 2",
        "culvert_identity_handshakes_total{reason=\"ok\",role=\"client\"} 1",
        "culvert_identity_svid_expiry_seconds{identity=\"spiffe://td/ns/default/sa/web\"}",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn svid_is_renewed_before_its_end_with_a_fresh_key() {
    let mut lab = Lab::new().await;
    let _authority = lab.authority(Duration::from_secs(1)).await;
    let store = lab.store(Duration::from_secs(3)).await;
    let hold = store.hold(&id("web"), "default/pod");
    let first = hold.svid().await.unwrap();
    let next =
        until(&hold, |now| matches!(now, Current::Ready(svid) if !Arc::ptr_eq(svid, &first)));
    let Current::Ready(next) = next.await else { panic!("withdrawn instead of renewed") };
    assert!(!first.is_expired(UnixTime::now()), "renewed while the old one was good");
    assert_ne!(first.chain()[0], next.chain()[0]);
    assert!(next.not_after().as_secs() > first.not_after().as_secs());
}

#[tokio::test]
async fn svid_serves_to_its_end_while_the_authority_is_away_and_not_longer() {
    let mut lab = Lab::new().await;
    let authority = lab.authority(Duration::from_secs(1)).await;
    let store = lab.store(Duration::from_secs(3)).await;
    let hold = store.hold(&id("web"), "default/pod");
    let svid = hold.svid().await.unwrap();
    authority.stop().await;
    until(&hold, |now| matches!(now, Current::Absent(_))).await;
    assert!(
        SystemTime::now()
            >= SystemTime::UNIX_EPOCH + Duration::from_secs(svid.not_after().as_secs())
    );

    let _back = lab.authority(Duration::from_secs(1)).await;
    until(&hold, |now| matches!(now, Current::Ready(_))).await;
}

#[tokio::test]
async fn connection_waits_for_an_authority_that_comes_up_late() {
    let mut lab = Lab::new().await;
    let store = lab.store(Duration::from_hours(1)).await;
    let hold = store.hold(&id("web"), "default/pod");
    let refused = until(&hold, |now| matches!(now, Current::Absent(Some(_)))).await;
    assert!(last_error(&refused).contains("check that `culvert ca serve` runs there"));
    let (svid, _authority) = tokio::join!(hold.svid(), lab.authority(Duration::from_secs(1)));
    assert_eq!(svid.unwrap().id(), &id("web"));
}

#[tokio::test]
async fn identity_of_another_node_is_refused_until_its_workload_comes_here() {
    let mut lab = Lab::new().await;
    let _authority = lab.authority(Duration::from_secs(1)).await;
    let store = lab.store(Duration::from_hours(1)).await;
    let hold = store.hold(&id("db"), "default/pod");
    let refused = until(&hold, |now| matches!(now, Current::Absent(Some(_)))).await;
    let text = last_error(&refused);
    assert!(text.contains("authority refused") && !text.contains("not_on_node"), "{text}");

    std::fs::write(lab.path().join("workloads.yaml"), WORKLOADS.replace("node2", "node1")).unwrap();
    until(&hold, |now| matches!(now, Current::Ready(_))).await;
}

#[tokio::test]
async fn nobody_but_the_authority_is_believed_to_be_it() {
    // The impostor holds a good certificate of the mesh, but of a workload.
    let mut lab = Lab::new().await;
    let files = Directory::open(lab.path()).unwrap();
    let authority =
        Authority::open(files, "td".parse().unwrap(), OffsetDateTime::now_utc()).await.unwrap();
    let serving = lab.authority(Duration::from_secs(1)).await;
    let store = lab.store(Duration::from_hours(1)).await;
    let hold = store.hold(&id("web"), "default/pod");
    let svid = hold.svid().await.unwrap();
    serving.stop().await;
    drop(authority);

    let listener = TcpListener::bind(lab.address).await.unwrap();
    let impostor = async {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            // The client goes away as soon as it has seen the certificate.
            let _ = handshake::accept(&svid, tcp).await;
        }
    };
    let other = store.hold(&id("api"), "default/pod");
    let refused = tokio::select! {
        refused = until(&other, |now| matches!(now, Current::Absent(Some(_)))) => refused,
        () = impostor => panic!("never ends"),
    };
    let text = last_error(&refused);
    assert!(text.contains("expected spiffe://td/ns/culvert-system/sa/culvert-ca"), "{text}");
}

/// Waits until the agent has kept the bundle of this number.
async fn kept(lab: &Lab, store: &IdentityStore, sequence: u64) {
    let mut bundles = store.bundle();
    timeout(PATIENCE, bundles.wait_for(|bundle| bundle.sequence() >= sequence))
        .await
        .unwrap()
        .unwrap();
    let kept = async {
        while !lab.path().join("bundle.json").exists() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, kept).await.unwrap();
}

#[tokio::test]
async fn pushed_bundle_is_in_force_and_kept_so_that_an_old_root_file_does_no_harm() {
    let mut lab = Lab::new().await;
    let _authority = lab.authority(Duration::from_secs(1)).await;
    let store = lab.store(Duration::from_hours(1)).await;
    kept(&lab, &store, 1).await;
    let text = prometheus::TextEncoder::new().encode_to_string(&lab.registry.gather()).unwrap();
    for line in [
        "culvert_identity_bundle_sequence 1",
        "culvert_identity_bundle_offers_total{result=\"taken\"} 1",
        "culvert_identity_bundle_connected 1",
        "culvert_identity_bundle_roots{standing=\"trusted\"} 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }

    // A root file from before: of a root that is gone, as far as anybody knows.
    let old = TestAuthority::new("td").root_pem();
    std::fs::write(lab.path().join(ROOT_CERTIFICATES_FILE), old).unwrap();
    lab.registry = prometheus::Registry::new();
    let again = lab.store(Duration::from_hours(1)).await;
    assert_eq!(again.bundle().borrow().sequence(), 1, "before the authority has said anything");
    let hold = again.hold(&id("web"), "a1");
    hold.svid().await.unwrap();
}

#[tokio::test]
async fn authority_made_anew_is_not_believed_until_the_kept_bundle_is_removed() {
    let mut lab = Lab::new().await;
    let first = lab.authority(Duration::from_secs(1)).await;
    let store = lab.store(Duration::from_hours(1)).await;
    kept(&lab, &store, 1).await;
    first.stop().await;
    let mut anew = Lab::new().await;
    anew.address = lab.address;
    let _second = anew.authority(Duration::from_secs(1)).await;
    for name in [ROOT_CERTIFICATES_FILE, "token"] {
        std::fs::copy(anew.path().join(name), lab.path().join(name)).unwrap();
    }
    lab.registry = prometheus::Registry::new();
    let fooled = lab.store(Duration::from_hours(1)).await;
    let hold = fooled.hold(&id("web"), "a1");
    let refused = until(&hold, |now| matches!(now, Current::Absent(Some(_)))).await;
    assert!(last_error(&refused).contains("remove `ca.bundleFile`"), "{}", last_error(&refused));

    std::fs::remove_file(lab.path().join("bundle.json")).unwrap();
    lab.registry = prometheus::Registry::new();
    let mended = lab.store(Duration::from_hours(1)).await;
    mended.hold(&id("web"), "a1").svid().await.unwrap();
}

#[tokio::test]
async fn authority_is_found_by_name() {
    let mut lab = Lab::new().await;
    let _authority = lab.authority(Duration::from_secs(1)).await;
    let name = format!("localhost:{}", lab.address.port());
    let settings =
        Settings { ca_address: name.parse().unwrap(), ..lab.settings(Duration::from_hours(1)) };
    let store = lab.store_with(settings).await;
    store.hold(&id("web"), "a1").svid().await.unwrap();
}

#[tokio::test]
async fn missing_token_says_how_to_make_one() {
    let mut lab = Lab::new().await;
    let _authority = lab.authority(Duration::from_secs(1)).await;
    std::fs::remove_file(lab.path().join("token")).unwrap();
    let store = lab.store(Duration::from_hours(1)).await;
    let hold = store.hold(&id("web"), "default/pod");
    let refused = until(&hold, |now| matches!(now, Current::Absent(Some(_)))).await;
    assert!(last_error(&refused).contains("culvert ca token create node1"));
}

#[tokio::test]
async fn wiped_identity_is_gone_and_a_used_one_is_not_wiped() {
    let mut lab = Lab::new().await;
    let _authority = lab.authority(Duration::from_secs(1)).await;
    let store = lab.store(Duration::from_hours(1)).await;
    assert!(matches!(store.svid(&id("web")).await, Err(SvidError::NotHeld { .. })));
    let hold = store.hold(&id("web"), "default/pod");
    hold.svid().await.unwrap();
    let entry = hold.entry.clone();
    assert!(!store.shared.wipe(&entry), "still referenced");
    drop(hold);
    assert!(store.shared.wipe(&entry));
    assert!(store.is_empty());
    assert!(entry.ready().is_none());
}

#[tokio::test]
async fn svid_is_had_from_another_runtime() {
    let mut lab = Lab::new().await;
    let _authority = lab.authority(Duration::from_secs(1)).await;
    let store = lab.store(Duration::from_hours(1)).await;
    let _hold = store.hold(&id("web"), "default/pod");
    let worker = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(store.svid(&id("web")))
    });
    assert_eq!(worker.await.unwrap().unwrap().id(), &id("web"));
}

#[tokio::test]
async fn stop_ends_every_task() {
    let lab = Lab::new().await;
    let (settings, cancel) = (lab.settings(Duration::from_hours(1)), CancellationToken::new());
    let (store, tasks) =
        IdentityStore::start(settings, cancel.clone(), &lab.registry).await.unwrap();
    let _holds: Vec<_> =
        ["web", "api", "db"].map(|account| store.hold(&id(account), "default/pod")).into();
    cancel.cancel();
    timeout(PATIENCE, tasks.join()).await.unwrap();
}

#[tokio::test]
async fn status_says_what_is_held_by_whom_and_until_when() {
    let mut lab = Lab::new().await;
    let _authority = lab.authority(Duration::from_secs(1)).await;
    let store = lab.store(Duration::from_hours(1)).await;
    let first = store.hold(&id("web"), "default/web-2");
    let second = store.hold(&id("web"), "default/web-1");
    let _other = store.hold(&id("api"), "default/api");
    let svid = second.svid().await.unwrap();

    let [_, web] = &store.identities()[..] else { panic!("two identities, in order") };
    assert_eq!((&web.id, web.phase), (&id("web"), "held"));
    assert_eq!(web.users, ["default/web-1".into(), "default/web-2".into()]);
    let facts = &web.held.as_ref().unwrap().facts;
    assert_eq!(facts.not_after, svid.not_after());
    assert!(facts.issuer.contains("td issuing"), "{}", facts.issuer);
    let now = SystemTime::now();
    let renewal = web.next_request.unwrap().duration_since(now).unwrap();
    let life = web.not_after().unwrap().duration_since(now).unwrap();
    assert!((0.59..0.71).contains(&renewal.div_duration_f64(life)), "{renewal:?} of {life:?}");
    assert_eq!((web.failures, web.lingers_until), (0, None));

    drop((first, second));
    timeout(PATIENCE, async {
        while store.identities()[1].lingers_until.is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert!(store.identities()[1].users.is_empty());
}

#[tokio::test]
async fn watcher_sees_each_renewal_and_the_end() {
    let mut lab = Lab::new().await;
    let _authority = lab.authority(Duration::from_secs(1)).await;
    let store = lab.store(Duration::from_secs(3)).await;
    assert!(store.watch(&id("web")).is_none());
    let hold = store.hold(&id("web"), "default/pod");
    let mut watch = store.watch(&id("web")).unwrap();
    let ready = |now: &Current| matches!(now, Current::Ready(_));
    let Current::Ready(first) = watch.wait_for(ready).await.unwrap().clone() else { panic!() };
    let next = |now: &Current| matches!(now, Current::Ready(svid) if !Arc::ptr_eq(svid, &first));
    timeout(PATIENCE, watch.wait_for(next)).await.unwrap().unwrap();

    let entry = hold.entry.clone();
    drop(hold);
    assert!(store.shared.wipe(&entry));
    assert!(matches!(&*watch.borrow_and_update(), Current::Absent(None)));
}

#[tokio::test]
async fn svid_gives_its_key_on_request_and_prints_none() {
    let mut lab = Lab::new().await;
    let _authority = lab.authority(Duration::from_secs(1)).await;
    let store = lab.store(Duration::from_hours(1)).await;
    let hold = store.hold(&id("web"), "default/pod");
    let svid = hold.svid().await.unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(svid.private_key().as_slice());
    let key = rcgen::KeyPair::try_from(&key).unwrap();
    let public = key.public_key_raw();
    assert!(svid.chain()[0].windows(public.len()).any(|bytes| bytes == public), "of its leaf");
    let printed = format!("{svid:?} {:?}", store.identities());
    assert!(printed.contains("[redacted]"));
    let bytes = format!("{:?}", &svid.private_key()[..16]);
    assert!(!printed.contains(bytes.trim_matches(['[', ']'])), "{printed}");
}

#[tokio::test]
async fn away_authority_is_tried_by_few_and_asked_by_all_once_it_is_back() {
    let mut lab = Lab::new().await;
    // Accepts and goes away: as little as can be learnt of an authority.
    let listener = TcpListener::bind(lab.address).await.unwrap();
    let store = lab.store(Duration::from_hours(1)).await;
    let names = ["web", "api"].into_iter().map(str::to_owned);
    let holds: Vec<_> = names
        .chain((0..48).map(|number| format!("more-{number}")))
        .map(|account| store.hold(&id(&account), "default/pod"))
        .collect();
    let mut tries = 0;
    let away = async {
        loop {
            drop(listener.accept().await.unwrap());
            tries += 1;
        }
    };
    let failures = || store.identities().iter().map(|status| status.failures).collect::<Vec<_>>();
    // Those of the lane fail together; after them one tries at a time.
    let failed = async {
        while failures().into_iter().sum::<u32>() < 18 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        ended = timeout(PATIENCE, failed) => ended.unwrap(),
        () = away => panic!("never ends"),
    }
    let untried = failures().into_iter().filter(|failures| *failures == 0).count();
    assert!(untried >= 30, "only {untried} were held back");
    // Those that failed, and the watch of the bundle, which tries on its own.
    assert!(tries < 30, "{tries} connections");
    let metrics =
        || prometheus::TextEncoder::new().encode_to_string(&lab.registry.gather()).unwrap();
    assert!(metrics().contains("culvert_identity_authority_reachable 0"), "{}", metrics());
    drop(listener);

    let _authority = lab.authority(Duration::from_secs(1)).await;
    for hold in &holds[..2] {
        until(hold, |now| matches!(now, Current::Ready(_))).await;
    }
    assert!(metrics().contains("culvert_identity_authority_reachable 1"), "{}", metrics());
}
