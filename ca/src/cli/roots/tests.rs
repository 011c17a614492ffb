use std::path::Path;

use culvert_spiffe::TrustDomain;
use time::macros::datetime;

use super::*;
use crate::authority::{Authority, Heard};
use crate::directory::Directory;
use crate::state::State;
use crate::store::DirectoryStore;

const NOW: OffsetDateTime = datetime!(2026-06-01 12:00 UTC);

fn place(dir: std::path::PathBuf) -> Place {
    Place { dir: Some(dir), kubernetes: false, namespace: "culvert-system".into() }
}

async fn authority(path: &Path) -> Authority {
    let domain: TrustDomain = "td".parse().unwrap();
    Authority::open(Directory::open(path).unwrap(), domain, NOW).await.unwrap()
}

#[tokio::test]
async fn status_says_where_rotation_stands_and_shows_no_key() {
    let temp = tempfile::tempdir().unwrap();
    let authority = authority(temp.path()).await;
    authority.heard("node1", Heard::Following { in_force: 1 }, NOW);
    authority.heard("proxy", Heard::Issued, NOW);
    let store = DirectoryStore::new(Directory::open(temp.path()).unwrap());
    operate::rotate(&store, NOW).await.unwrap();
    authority.tend(NOW).await.unwrap();

    let sight = operate::look(&store, None, NOW).await.unwrap();
    let report = Report::of(&sight, NOW.unix_timestamp());
    let table = report.table();
    for line in [
        "trust domain td, bundle 2, root 1 signs by issuing certificate 1 until 2026-07-01",
        "1     active    2026-06-01T12:00:00Z  2036-05-29T12:00:00Z  made     1      kept",
        "2     prepared  2026-06-01T12:00:00Z  2036-05-29T12:00:00Z  made     2      kept",
        "2 live nodes, 0 of them with bundle 2",
        "next: activate root 2",
        "held: not before 2026-06-02T12:00:00Z: callers that follow no bundle",
        "held: 1 nodes have not acknowledged bundle 2: node1",
    ] {
        assert!(table.contains(line), "no `{line}` in\n{table}");
    }
    let json = serde_json::to_string(&report).unwrap();
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["next"]["generation"], 2);
    assert_eq!(value["next"]["holds"][1]["names"][0], "node1");
    assert_eq!(value["nodes"][0]["bundle"], 1);
    let state = State::parse(&std::fs::read(temp.path().join("state.json")).unwrap()).unwrap();
    for shown in [&table, &json] {
        assert!(!shown.contains("PRIVATE"));
        let key = state.generations[0].key.as_ref().unwrap().expose().lines().nth(1).unwrap();
        assert!(!shown.contains(key));
    }
}

#[tokio::test]
async fn orders_make_no_authority_where_there_is_none() {
    let temp = tempfile::tempdir().unwrap();
    let absent = temp.path().join("typo");
    let status = |dir| status(Status { place: place(dir), output: Format::Json });
    assert!(status(absent.clone()).await.is_err());
    assert!(!absent.exists());
    let error = status(temp.path().to_owned()).await.unwrap_err();
    assert!(error.to_string().contains("start `culvert ca serve`"), "{error}");
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn orders_are_carried_out_as_typed() {
    let temp = tempfile::tempdir().unwrap();
    let dir = || temp.path().to_owned();
    drop(authority(temp.path()).await);
    let phases = || {
        let bytes = std::fs::read(temp.path().join("state.json")).unwrap();
        let state = State::parse(&bytes).unwrap();
        state.generations.iter().map(|one| one.phase.label()).collect::<Vec<_>>()
    };
    let order = |plan, force| rotate(RotateRoot { place: place(dir()), plan, force });
    order(true, false).await.unwrap();
    assert_eq!(phases(), ["active"], "a plan changes nothing");
    order(false, false).await.unwrap();
    assert_eq!(phases(), ["active", "prepared"]);
    assert!(order(false, true).await.is_err(), "no node holds it");
    assert!(revoke(Named { generation: 1, place: place(dir()) }).await.is_err());
    taint(Named { generation: 1, place: place(dir()) }).await.unwrap();
    assert_eq!(phases(), ["tainted", "active"]);
    revoke(Named { generation: 1, place: place(dir()) }).await.unwrap();
    assert_eq!(phases(), ["revoked", "active"]);
    assert!(taint(Named { generation: 7, place: place(dir()) }).await.is_err());
}
