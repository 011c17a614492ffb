//! A rotation from end to end, by hand.

use super::*;
use crate::state::{Phase, Timing};

const MINUTE: time::Duration = time::Duration::MINUTE;
const DAY: time::Duration = time::Duration::DAY;

fn phases(path: &std::path::Path) -> Vec<Phase> {
    state_of(path).generations.iter().map(|one| one.phase).collect()
}

fn store(path: &std::path::Path) -> DirectoryStore {
    DirectoryStore::new(Directory::open(path).unwrap())
}

fn follow(authority: &Authority, node: &str, in_force: u64, now: OffsetDateTime) {
    authority.heard(node, Heard::Following { in_force }, now);
}

/// Whether a peer with these roots believes it.
fn believes(roots: &[CertificateDer<'static>], issued: &Issued, now: OffsetDateTime) -> bool {
    let bundle = TrustBundle::from_certificates(domain(), roots.to_vec()).unwrap();
    bundle.verify(&issued.chain, PeerRole::Client, unix(now)).is_ok()
}

#[tokio::test]
async fn root_turns_over_by_order_step_by_step() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path();
    let authority = open(path, NOW).await.unwrap();
    let mut published = authority.published();
    let a = authority.bundle().certificates().to_vec();
    let before = issue(&authority, NOW);
    follow(&authority, "node1", 1, NOW);
    follow(&authority, "node2", 1, NOW);
    authority.tend(NOW).await.unwrap();

    operate::rotate(&store(path), NOW).await.unwrap();
    assert!(matches!(
        operate::rotate(&store(path), NOW).await,
        Err(operate::OrderError::UnderWay(_))
    ));
    authority.tend(NOW).await.unwrap();
    assert_eq!(phases(path), [Phase::Active, Phase::Prepared]);
    assert_eq!(published.borrow_and_update().sequence, 2);
    assert_eq!(authority.bundle().certificates().len(), 2);
    let written =
        TrustBundle::from_pem(domain(), &std::fs::read(path.join("root-cert.pem")).unwrap());
    assert_eq!(written.unwrap().certificates(), authority.bundle().certificates());
    assert_eq!(issue(&authority, NOW).generation.root, 1, "the first goes on signing");

    // One node acknowledges, the other does not, however long it takes.
    let mut now = NOW;
    for _ in 0..60 {
        now += MINUTE;
        follow(&authority, "node1", 2, now);
        follow(&authority, "node2", 1, now);
        authority.tend(now).await.unwrap();
        assert_eq!(phases(path), [Phase::Active, Phase::Prepared]);
    }
    assert_eq!(authority.figures().holding_nodes, 1);
    follow(&authority, "node2", 2, now);
    authority.tend(now).await.unwrap();
    assert_eq!(phases(path), [Phase::Draining, Phase::Active]);

    // Believed by who knows both, by who knows only the old root, and by who knows only the new.
    let after = issue(&authority, now);
    assert_eq!((after.generation.root, after.chain.len()), (2, 3));
    let both = authority.bundle().certificates().to_vec();
    let b = vec![both[1].clone()];
    for roots in [&both, &a, &b] {
        assert!(believes(roots, &after, now));
    }
    assert!(believes(&both, &before, NOW) && !believes(&b, &before, NOW));

    let drained = now + DAY + MINUTE * 5;
    authority.tend(drained - MINUTE).await.unwrap();
    assert_eq!(phases(path), [Phase::Draining, Phase::Active]);
    follow(&authority, "node1", 2, drained);
    authority.tend(drained).await.unwrap();
    assert_eq!(phases(path), [Phase::Removed, Phase::Active]);
    assert_eq!(published.borrow_and_update().sequence, 3);
    assert_eq!(authority.bundle().certificates(), b);
    assert_eq!(issue(&authority, drained).chain.len(), 2, "no cross certificate any more");
    assert!(state_of(path).generations[0].key.is_some());
    authority.tend(drained + DAY).await.unwrap();
    assert!(state_of(path).generations[0].key.is_none(), "destroyed after the rollback window");
}

#[tokio::test]
async fn root_turns_over_by_itself_after_a_year() {
    let temp = tempfile::tempdir().unwrap();
    let authority = open(temp.path(), NOW).await.unwrap();
    authority.tend(NOW + DAY * 364).await.unwrap();
    assert_eq!(phases(temp.path()), [Phase::Active]);
    authority.tend(NOW + DAY * 365).await.unwrap();
    assert_eq!(phases(temp.path()), [Phase::Active, Phase::Prepared]);
}

#[tokio::test]
async fn caller_that_follows_no_bundle_makes_the_wait_a_whole_life() {
    let temp = tempfile::tempdir().unwrap();
    let authority = open(temp.path(), NOW).await.unwrap();
    operate::rotate(&store(temp.path()), NOW).await.unwrap();
    authority.heard("istio", Heard::Issued, NOW);
    authority.tend(NOW + DAY - MINUTE).await.unwrap();
    assert_eq!(phases(temp.path()), [Phase::Active, Phase::Prepared]);
    authority.tend(NOW + DAY).await.unwrap();
    assert_eq!(phases(temp.path()), [Phase::Draining, Phase::Active]);
}

#[tokio::test]
async fn force_overrides_nodes_and_no_time() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path();
    let authority = open(path, NOW).await.unwrap();
    follow(&authority, "node1", 1, NOW);
    operate::rotate(&store(path), NOW).await.unwrap();
    authority.tend(NOW).await.unwrap();
    let sight = operate::force(&store(path), NOW).await.unwrap();
    assert_eq!(sight.state.forced[0].nodes, ["node1"]);
    authority.tend(NOW + MINUTE * 14).await.unwrap();
    assert_eq!(phases(path), [Phase::Active, Phase::Prepared]);
    authority.tend(NOW + MINUTE * 15).await.unwrap();
    assert_eq!(phases(path), [Phase::Draining, Phase::Active]);
    // The next step is another one, and is held again.
    let drained = NOW + DAY * 2;
    follow(&authority, "node1", 1, drained);
    authority.tend(drained).await.unwrap();
    assert_eq!(phases(path), [Phase::Draining, Phase::Active]);
    assert_eq!(authority.figures().holding_nodes, 1);
}

#[tokio::test]
async fn tainted_root_is_followed_at_once_and_revoked_by_a_second_order() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path();
    let authority = open(path, NOW).await.unwrap();
    let a = authority.bundle().certificates().to_vec();
    let refused = operate::revoke(&store(path), 1, NOW).await;
    assert!(matches!(refused, Err(operate::OrderError::Signs(1))), "the only usable root");
    assert!(matches!(
        operate::taint(&store(path), 2, NOW).await,
        Err(operate::OrderError::Unknown(2))
    ));

    operate::taint(&store(path), 1, NOW).await.unwrap();
    assert!(authority.tend(NOW).await.unwrap(), "another issuing certificate is in use");
    assert_eq!(phases(path), [Phase::Tainted, Phase::Active]);
    let standings: Vec<_> =
        authority.published().borrow().roots.iter().map(|root| root.standing).collect();
    assert_eq!(standings, [Standing::Tainted, Standing::Trusted]);
    assert!(state_of(path).generations[0].key.is_none());
    let after = issue(&authority, NOW);
    assert!(believes(&a, &after, NOW), "who has not heard of it is not cut off");

    operate::revoke(&store(path), 1, NOW).await.unwrap();
    authority.tend(NOW).await.unwrap();
    let published = authority.published().borrow().clone();
    assert_eq!(published.roots[0].standing, Standing::Revoked);
    assert_eq!(published.believed().count(), 1);
    let pem = std::fs::read(path.join("root-cert.pem")).unwrap();
    assert_eq!(TrustBundle::from_pem(domain(), &pem).unwrap().certificates().len(), 1);
    // Named as revoked until nothing under it can be alive, whatever nodes acknowledge.
    follow(&authority, "node1", 1, NOW + DAY * 2);
    authority.tend(NOW + DAY * 2).await.unwrap();
    assert_eq!(phases(path), [Phase::Removed, Phase::Active]);
}

#[tokio::test]
async fn clock_that_is_wrong_makes_no_step() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path();
    let authority = open(path, NOW).await.unwrap();
    follow(&authority, "node1", 1, NOW);
    operate::rotate(&store(path), NOW).await.unwrap();
    authority.tend(NOW).await.unwrap();
    // An hour back: earlier than the last step.
    authority.distrust_clock(NOW - MINUTE * 60);
    authority.tend(NOW - MINUTE * 60).await.unwrap();
    let plan = operate::look(&store(path), None, NOW - MINUTE * 60).await.unwrap().plan;
    assert!(matches!(plan.holds[0], crate::rotation::Hold::Clock { .. }));
    issue(&authority, NOW - MINUTE * 60);
    // 48 hours ahead: all nodes look dead, so that none would hold the step.
    let ahead = NOW + DAY * 2;
    authority.distrust_clock(ahead);
    authority.tend(ahead).await.unwrap();
    assert_eq!(phases(path), [Phase::Active, Phase::Prepared]);
    issue(&authority, ahead);
    // It was true: nodes say so within a minute, and hold the step as before.
    let steady = ahead + MINUTE * 15;
    follow(&authority, "node1", 1, steady);
    authority.tend(steady).await.unwrap();
    assert_eq!(phases(path), [Phase::Active, Phase::Prepared]);
    follow(&authority, "node1", 2, steady);
    authority.tend(steady).await.unwrap();
    assert_eq!(phases(path), [Phase::Draining, Phase::Active]);
}

#[tokio::test]
async fn leaf_never_outlives_what_the_store_was_last_seen_to_allow() {
    let temp = tempfile::tempdir().unwrap();
    let authority = open(temp.path(), NOW).await.unwrap();
    std::fs::remove_file(temp.path().join("state.json")).unwrap();
    let late = NOW + time::Duration::hours(23);
    assert!(matches!(authority.tend(late).await, Err(AuthorityError::Lost)));
    let key = proven(&KeyPair::generate().unwrap());
    let issued = authority.issue(&web(), &key, HOUR * 24, late).unwrap();
    assert_eq!(issued.not_after.as_secs(), unix(NOW + DAY + MINUTE).as_secs());
    let over = authority.issue(&web(), &key, HOUR, NOW + DAY + MINUTE).unwrap_err();
    assert!(matches!(over, AuthorityError::Unconfirmed { .. }), "{over}");
}

#[tokio::test]
async fn largest_life_only_grows_and_timing_is_the_last_servers() {
    let temp = tempfile::tempdir().unwrap();
    let open = |largest_ttl, timing| {
        let settings = Settings { largest_ttl, timing, ..Settings::new(domain()) };
        Authority::with(Arc::new(store(temp.path())), settings, NOW)
    };
    drop(open(HOUR * 48, Timing::default()).await.unwrap());
    let timing = Timing { wait: 5, ..Timing::default() };
    drop(open(HOUR, timing).await.unwrap());
    let state = state_of(temp.path());
    assert_eq!(state.largest_ttl, 48 * 3600, "what lived so long may be alive");
    assert_eq!(state.timing, timing);
}

#[tokio::test]
async fn state_from_an_older_backup_is_announced_anew() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path();
    let backup = {
        let authority = open(path, NOW).await.unwrap();
        let backup = std::fs::read(path.join("state.json")).unwrap();
        operate::rotate(&store(path), NOW).await.unwrap();
        authority.tend(NOW).await.unwrap();
        std::fs::write(path.join("state.json"), &backup).unwrap();
        let refused = authority.tend(NOW).await.unwrap_err();
        assert!(matches!(refused, AuthorityError::Older { found: 1, used: 2 }), "{refused}");
        backup
    };
    std::fs::write(path.join("state.json"), backup).unwrap();
    let authority = open(path, NOW).await.unwrap();
    follow(&authority, "node1", 7, NOW);
    authority.tend(NOW).await.unwrap();
    assert_eq!(authority.published().borrow().sequence, 8, "above what nodes have seen");
}
