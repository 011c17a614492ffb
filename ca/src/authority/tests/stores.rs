//! Stores that fail, vanish, are shared: nothing is lost, and nothing stops signing.

use super::fragile::{Fault, Fragile, with};
use super::*;
use crate::rotation::Step;
use crate::state::Phase;

/// Issued now, and believed by everybody who has the bundle of now or of the step before.
fn holds(authority: &Authority, before: &TrustBundle, now: OffsetDateTime) {
    let key = proven(&KeyPair::generate().unwrap());
    let issued = authority.issue(&web(), &key, HOUR, now).unwrap();
    before.verify(&issued.chain, PeerRole::Server, unix(now)).unwrap();
    authority.bundle().verify(&issued.chain, PeerRole::Client, unix(now)).unwrap();
}

/// A whole rotation with a crash (a failed write, then a new process) at the `n`th write.
async fn crash_at(fault: impl Fn(usize) -> Fault, n: usize) -> bool {
    let store = Arc::new(Fragile::default());
    let mut now = NOW;
    let mut authority = with(&store, now).await.unwrap();
    let mut ordered = false;
    store.break_at(fault(n));
    for _ in 0..200 {
        let before = authority.bundle();
        if !ordered {
            ordered = operate::rotate(&*store, now).await.is_ok()
                || store.state().in_phase(Phase::Prepared).is_some();
        }
        let sequence = authority.published().borrow().sequence;
        authority.heard("node1", Heard::Following { in_force: sequence }, now);
        if authority.tend(now).await.is_err() {
            holds(&authority, &before, now);
            drop(authority);
            authority = with(&store, now).await.unwrap();
        }
        holds(&authority, &before, now);
        now += time::Duration::SECOND;
        let state = store.state();
        let [first, second] = state.generations.as_slice() else { continue };
        if first.phase == Phase::Removed && first.key.is_none() {
            assert_eq!((second.phase, state.sequence), (Phase::Active, 3));
            return store.has_broken();
        }
    }
    panic!("write {n}: the rotation came to no end");
}

#[tokio::test]
async fn rotation_survives_a_crash_before_and_after_each_write() {
    for fault in [Fault::Before as fn(usize) -> Fault, Fault::After] {
        let mut writes = 0;
        while crash_at(fault, writes).await {
            writes += 1;
        }
        // Prepare, activate, remove, destroy, and root certificates and nodes between.
        assert!(writes >= 6, "{writes} writes");
    }
}

#[tokio::test]
async fn first_start_survives_a_crash_at_each_write() {
    for fault in [Fault::Before as fn(usize) -> Fault, Fault::After] {
        for n in 0..2 {
            let store = Arc::new(Fragile::default());
            store.break_at(fault(n));
            assert!(with(&store, NOW).await.is_err());
            let authority = with(&store, NOW).await.unwrap();
            assert_eq!(store.state().generations.len(), 1);
            assert_eq!(
                store.published().await.unwrap().unwrap(),
                store.state().generations[0].anchors[0].as_bytes()
            );
            issue(&authority, NOW);
        }
    }
}

#[tokio::test]
async fn two_replicas_that_rotate_at_once_agree() {
    let store = Arc::new(Fragile::default());
    let mut now = NOW;
    let (one, two) = (with(&store, now).await.unwrap(), with(&store, now).await.unwrap());
    assert_eq!(one.bundle().certificates(), two.bundle().certificates());
    let (first, second) =
        tokio::join!(operate::rotate(&*store, now), operate::rotate(&*store, now));
    assert!(first.is_ok() != second.is_ok(), "one of them prepares");
    for second in 0..200 {
        // Each node talks to one of them.
        for (replica, node) in [(&one, "node1"), (&two, "node2")] {
            let in_force = replica.published().borrow().sequence;
            replica.heard(node, Heard::Following { in_force }, now);
        }
        // Either may be first.
        let (left, right) = if second % 2 == 0 { (&one, &two) } else { (&two, &one) };
        let (a, b) = tokio::join!(left.tend(now), right.tend(now));
        a.unwrap();
        b.unwrap();
        for replica in [&one, &two] {
            let key = proven(&KeyPair::generate().unwrap());
            let issued = replica.issue(&web(), &key, HOUR, now).unwrap();
            for other in [&one, &two] {
                other.bundle().verify(&issued.chain, PeerRole::Client, unix(now)).unwrap();
            }
        }
        one.tend(now).await.unwrap();
        two.tend(now).await.unwrap();
        assert_eq!(one.generation(), two.generation(), "both sign with the same key");
        now += time::Duration::SECOND;
    }
    let phases: Vec<_> = store.state().generations.iter().map(|g| g.phase).collect();
    assert_eq!(phases, [Phase::Removed, Phase::Active]);
}

#[tokio::test]
async fn two_replicas_turn_over_to_one_issuing_certificate() {
    let store = Arc::new(Fragile::default());
    let (one, two) = (with(&store, NOW).await.unwrap(), with(&store, NOW).await.unwrap());
    let later = NOW + time::Duration::days(11);
    let (a, b) = tokio::join!(one.tend(later), two.tend(later));
    assert!(a.unwrap() && b.unwrap());
    assert_eq!(one.generation(), two.generation());
    assert_eq!(store.state().last_issuing, 2);
}

#[tokio::test]
async fn broken_state_is_told_and_what_is_in_use_stays() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("state.json");
    let authority = open(temp.path(), NOW).await.unwrap();
    let good = std::fs::read_to_string(&file).unwrap();
    let state = State::parse(good.as_bytes()).unwrap();
    let issuing = state.generations[0].issuing.as_ref().unwrap().key.expose().to_owned();
    let other = KeyPair::generate().unwrap().serialize_pem();
    let swapped = good.replace(&issuing.replace('\n', "\\n"), &other.replace('\n', "\\n"));
    assert_ne!(swapped, good);
    let cases = [
        ("", "half-written"),
        (&good[..good.len() / 2], "half-written"),
        ("garbage", "half-written"),
        (&good.replace("\"schema\": 1", "\"schema\": 2"), "newer culvert"),
        (&good.replace("\"active\"", "\"draining\""), "0 active roots"),
        (&swapped, "issuing key of another certificate"),
        (&good.replace("BEGIN CERT", "BEGIN DIRT"), "certificate unreadable"),
    ];
    for (text, told) in cases {
        std::fs::write(&file, text).unwrap();
        let error = authority.tend(NOW).await.unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains(told), "{cause}");
        issue(&authority, NOW);
        let opened = open(temp.path(), NOW).await.err().unwrap();
        assert!(matches!(opened, AuthorityError::State(_)), "{opened}");
    }
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(authority.tend(NOW).await, Err(AuthorityError::Lost)));
    issue(&authority, NOW);
    let opened = open(temp.path(), NOW).await.err().unwrap();
    assert!(matches!(opened, AuthorityError::Lost), "no new root behind the mesh's back: {opened}");
    std::fs::write(&file, good).unwrap();
    authority.tend(NOW).await.unwrap();
}

#[tokio::test]
async fn issuing_certificate_that_expired_while_all_were_down_is_replaced() {
    let temp = tempfile::tempdir().unwrap();
    drop(open(temp.path(), NOW).await.unwrap());
    let late = NOW + time::Duration::days(40);
    let authority = open(temp.path(), late).await.unwrap();
    assert_eq!(issue(&authority, late).generation.issuing, 2);
    let over = open(temp.path(), NOW + time::Duration::days(3651)).await.err().unwrap();
    assert!(matches!(over, AuthorityError::RootExpired { .. }), "{over}");
}

#[tokio::test]
async fn order_that_others_get_ahead_of_is_made_on_theirs() {
    let store = Arc::new(Fragile::default());
    let authority = with(&store, NOW).await.unwrap();
    operate::rotate(&*store, NOW).await.unwrap();
    // The authority has not looked since.
    let late = NOW + time::Duration::days(11);
    authority.tend(late).await.unwrap();
    let plan = operate::look(&*store, None, late).await.unwrap().plan;
    assert_eq!(plan.step, Step::Remove { generation: 1 });
}
