use std::sync::Arc;

use serde_json::json;
use time::OffsetDateTime;
use tokio::task::JoinSet;

use super::*;
use crate::authority::{Authority, AuthorityError, Settings};
use crate::kubernetes::testing::{Cluster, Fault, SYSTEM};

fn store(cluster: &Cluster) -> SecretStore {
    SecretStore::new(cluster.client(), SYSTEM.into())
}

#[tokio::test]
async fn document_is_replaced_only_by_who_has_seen_it() {
    let cluster = Cluster::default();
    let store = store(&cluster);
    assert!(store.read("state").await.unwrap().is_none());
    let Swap::Done(first) = store.swap("state", None, b"one").await.unwrap() else {
        panic!("nobody else is there");
    };
    assert_eq!(store.swap("state", None, b"other").await.unwrap(), Swap::Conflict);
    let Swap::Done(second) = store.swap("state", Some(&first), b"two").await.unwrap() else {
        panic!("it was seen");
    };
    assert_eq!(store.swap("state", Some(&first), b"three").await.unwrap(), Swap::Conflict);
    let read = store.read("state").await.unwrap().unwrap();
    assert_eq!((read.bytes.as_slice(), &read.version), (&b"two"[..], &second));
    // Gone: to be read again, as after any other change.
    cluster.delete("secrets", SYSTEM, "culvert-ca");
    assert_eq!(store.swap("state", Some(&second), b"four").await.unwrap(), Swap::Conflict);
}

#[tokio::test]
async fn each_document_has_a_secret_of_its_own_so_that_one_does_not_touch_the_other() {
    let cluster = Cluster::default();
    let store = store(&cluster);
    let Swap::Done(state) = store.swap("state", None, b"keys").await.unwrap() else { panic!() };
    store.swap("heard", None, b"nodes").await.unwrap();
    store.swap("jwt-keys", None, b"more").await.unwrap();
    assert_eq!(store.read("state").await.unwrap().unwrap().version, state);
    let secret = cluster.get("secrets", SYSTEM, "culvert-ca").unwrap();
    assert_eq!(secret["data"], json!({ "state.json": "a2V5cw==" }));
    assert_eq!(secret["metadata"]["labels"]["app.kubernetes.io/name"], "culvert");
    assert!(cluster.get("secrets", SYSTEM, "culvert-ca-heard").is_some());
    assert!(cluster.get("secrets", SYSTEM, "culvert-ca-jwt-keys").is_some());
}

#[tokio::test]
async fn labels_and_keys_that_a_person_added_stay() {
    let cluster = Cluster::default();
    let store = store(&cluster);
    store.swap("state", None, b"one").await.unwrap();
    let mut secret = cluster.get("secrets", SYSTEM, "culvert-ca").unwrap();
    secret["metadata"]["annotations"] = json!({ "backup": "yes" });
    cluster.put("secrets", SYSTEM, secret);
    let seen = store.read("state").await.unwrap().unwrap();
    store.swap("state", Some(&seen.version), b"two").await.unwrap();
    let secret = cluster.get("secrets", SYSTEM, "culvert-ca").unwrap();
    assert_eq!(secret["metadata"]["annotations"]["backup"], "yes");
}

#[tokio::test]
async fn secret_of_somebody_else_is_not_written_into() {
    let cluster = Cluster::default();
    cluster.put("secrets", SYSTEM, json!({ "metadata": { "name": "culvert-ca" }, "data": {} }));
    let error = store(&cluster).read("state").await.unwrap_err();
    assert!(matches!(error, StoreError::ForeignSecret { .. }), "{error}");
}

#[tokio::test]
async fn of_many_that_count_at_once_none_loses_a_step() {
    let cluster = Cluster::default();
    store(&cluster).swap("state", None, b"0").await.unwrap();
    let mut writers = JoinSet::new();
    for _ in 0..8 {
        let store = store(&cluster);
        writers.spawn(async move {
            for _ in 0..10 {
                loop {
                    let seen = store.read("state").await.unwrap().unwrap();
                    let count: u32 = std::str::from_utf8(&seen.bytes).unwrap().parse().unwrap();
                    let next = (count + 1).to_string();
                    let swap = store.swap("state", Some(&seen.version), next.as_bytes()).await;
                    if swap.unwrap() != Swap::Conflict {
                        break;
                    }
                }
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    assert_eq!(store(&cluster).read("state").await.unwrap().unwrap().bytes.as_slice(), b"80");
}

#[tokio::test(start_paused = true)]
async fn faults_say_what_was_tried_and_never_what_the_answer_held() {
    let cluster = Cluster::default();
    let store = store(&cluster);
    store.swap("state", None, b"a key").await.unwrap();
    let text = |error: &StoreError| crate::complaint::chain(error);
    for (fault, says) in [
        (Fault::Status(403), "does not let this account read its Secret; grant it that"),
        (Fault::Status(401), "does not let this account read its Secret; grant it that"),
        (Fault::Status(503), "refused to read its Secret"),
        (Fault::Hang, "took over 5 s"),
        (Fault::Lost, "cannot be reached"),
    ] {
        cluster.fail(Some(fault));
        let error = store.read("state").await.unwrap_err();
        assert!(text(&error).contains(says), "{fault:?}: {}", text(&error));
    }
    cluster.fail(None);
    let broken =
        json!({ "metadata": { "name": "culvert-ca" }, "data": ["a key in the wrong place"] });
    cluster.put("secrets", SYSTEM, broken);
    let error = store.read("state").await.unwrap_err();
    assert!(text(&error).contains("malformed at line 1"), "{}", text(&error));
    assert!(!text(&error).contains("wrong place"), "{}", text(&error));
    let most = vec![0; MOST_BYTES + 1];
    let error = store.swap("heard", None, &most).await.unwrap_err();
    assert!(text(&error).contains("1048577 bytes"), "{}", text(&error));
}

#[tokio::test]
async fn write_whose_answer_is_lost_is_found_at_the_next_look() {
    let cluster = Cluster::default();
    let store = store(&cluster);
    let Swap::Done(first) = store.swap("state", None, b"one").await.unwrap() else { panic!() };
    cluster.fail(Some(Fault::Lost));
    store.swap("state", Some(&first), b"two").await.unwrap_err();
    cluster.fail(None);
    assert_eq!(store.swap("state", Some(&first), b"two").await.unwrap(), Swap::Conflict);
    assert_eq!(store.read("state").await.unwrap().unwrap().bytes.as_slice(), b"two");
}

fn settings() -> Settings {
    Settings::new("td".parse().unwrap())
}

#[tokio::test]
async fn two_replicas_that_begin_at_once_have_one_root() {
    let cluster = Cluster::default();
    let now = OffsetDateTime::now_utc();
    let open = || Authority::with(Arc::new(store(&cluster)), settings(), now);
    let (first, second) = tokio::join!(open(), open());
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(*first.roots().borrow(), *second.roots().borrow());
    let map = cluster.get("configmaps", SYSTEM, "culvert-root-cert").unwrap();
    assert_eq!(map["data"]["root-cert.pem"], **first.roots().borrow());
}

#[tokio::test]
async fn secret_that_was_removed_is_not_made_anew_while_its_roots_are_published() {
    let cluster = Cluster::default();
    let now = OffsetDateTime::now_utc();
    let authority = Authority::with(Arc::new(store(&cluster)), settings(), now).await.unwrap();
    cluster.delete("secrets", SYSTEM, "culvert-ca");
    let error = authority.tend(now).await.unwrap_err();
    assert!(matches!(error, AuthorityError::Lost), "{error}");
    let error = Authority::with(Arc::new(store(&cluster)), settings(), now).await.err().unwrap();
    assert!(matches!(error, AuthorityError::Lost), "{error}");
    cluster.delete("configmaps", SYSTEM, "culvert-root-cert");
    assert!(Authority::with(Arc::new(store(&cluster)), settings(), now).await.is_ok());
}

#[tokio::test]
async fn replica_that_does_not_lead_follows_and_signs_and_moves_nothing_on() {
    let cluster = Cluster::default();
    let now = OffsetDateTime::now_utc();
    let open = || Authority::with(Arc::new(store(&cluster)), settings(), now);
    let (leader, other) = (open().await.unwrap(), open().await.unwrap());
    other.lead(false);
    let later = now + time::Duration::days(11);
    other.tend(later).await.unwrap();
    assert_eq!(other.generation().issuing, 1, "it is 11 days old, and not its to replace");
    assert!(leader.tend(later).await.unwrap());
    assert!(other.tend(later).await.unwrap(), "it takes over what the leader made");
    assert_eq!(other.generation(), leader.generation());
}

#[tokio::test]
async fn authority_signs_on_while_the_api_server_is_away() {
    let cluster = Cluster::default();
    let now = OffsetDateTime::now_utc();
    let authority = Authority::with(Arc::new(store(&cluster)), settings(), now).await.unwrap();
    cluster.fail(Some(Fault::Status(503)));
    let minute = time::Duration::MINUTE;
    let hour = std::time::Duration::from_hours(1);
    for at in [now + minute, now + minute * 10] {
        authority.tend(at).await.unwrap_err();
        authority.issue_server(&[], hour, at).unwrap();
    }
    cluster.fail(None);
    authority.tend(now + minute * 11).await.unwrap();
}
