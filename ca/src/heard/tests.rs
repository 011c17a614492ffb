use time::macros::datetime;

use super::*;
use crate::directory::Directory;
use crate::store::DirectoryStore;

const NOW: OffsetDateTime = datetime!(2026-06-01 12:00 UTC);
const DAY: i64 = 86400;

fn following(in_force: u64) -> Heard {
    Heard::Following { in_force }
}

struct Lab {
    temp: tempfile::TempDir,
    store: DirectoryStore,
    hearing: Hearing,
    shared: Shared,
    now: i64,
}

impl Lab {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let store = DirectoryStore::new(Directory::open(temp.path()).unwrap());
        let (hearing, shared) = (Hearing::default(), Shared::default());
        Self { temp, store, hearing, shared, now: NOW.unix_timestamp() }
    }

    fn note(&self, node: &str, heard: Heard) {
        let now = OffsetDateTime::from_unix_timestamp(self.now).unwrap();
        self.hearing.note(node, heard, now, DAY);
    }

    async fn exchange(&mut self) {
        self.shared.exchange(&self.store, &self.hearing, self.now, DAY).await.unwrap();
    }

    /// As another replica, or a person, finds it.
    fn written(&self) -> Option<Nodes> {
        let bytes = std::fs::read(self.temp.path().join("heard.json")).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    fn in_force(&self, node: &str) -> u64 {
        self.written().unwrap().nodes[node].in_force
    }
}

#[tokio::test]
async fn change_of_number_is_written_at_once_and_the_rest_seldom() {
    let mut lab = Lab::new();
    lab.exchange().await;
    assert!(lab.written().is_none(), "nothing heard, nothing written");
    lab.note("node1", following(1));
    lab.exchange().await;
    let first = lab.written().unwrap();
    for _ in 0..59 {
        lab.now += 1;
        lab.note("node1", following(1));
        lab.exchange().await;
    }
    assert_eq!(lab.written().unwrap(), first, "the same within a minute");
    lab.now += 1;
    lab.note("node1", following(1));
    lab.exchange().await;
    assert_eq!(lab.written().unwrap().nodes["node1"].followed, Some(lab.now));
    lab.now += 1;
    lab.note("node1", following(2));
    lab.exchange().await;
    assert_eq!(lab.in_force("node1"), 2);
    // A node that lost its disk begins anew, and is to hold steps again.
    lab.note("node1", following(0));
    lab.exchange().await;
    assert_eq!(lab.in_force("node1"), 0);
}

#[tokio::test]
async fn replicas_hear_for_each_other() {
    let mut one = Lab::new();
    let (hearing, mut shared) = (Hearing::default(), Shared::default());
    one.note("node1", following(3));
    one.exchange().await;
    hearing.note("node2", Heard::Issued, NOW, DAY);
    shared.exchange(&one.store, &hearing, one.now, DAY).await.unwrap();
    one.exchange().await;
    for nodes in [one.shared.nodes(), shared.nodes()] {
        assert!(nodes.nodes["node1"].follows() && !nodes.nodes["node2"].follows());
    }
}

#[tokio::test]
async fn silent_nodes_are_dropped_and_a_clock_set_back_is_heard() {
    let mut lab = Lab::new();
    lab.note("gone", following(1));
    lab.exchange().await;
    lab.now += 2 * DAY + 1;
    lab.note("node1", following(1));
    lab.exchange().await;
    assert_eq!(lab.written().unwrap().nodes.len(), 1);
    lab.now -= 3600;
    lab.note("node1", following(2));
    lab.exchange().await;
    assert_eq!(lab.in_force("node1"), 2, "what it said by the clock that was ahead is past");
    assert_eq!(lab.written().unwrap().nodes["node1"].followed, Some(lab.now));
}

#[tokio::test]
async fn lost_document_is_told_once_and_written_anew() {
    let mut lab = Lab::new();
    lab.note("node1", following(1));
    lab.exchange().await;
    assert!(!lab.shared.was_lost());
    let file = lab.temp.path().join("heard.json");
    std::fs::write(&file, "half of a docum").unwrap();
    lab.exchange().await;
    assert!(lab.shared.was_lost() && !lab.shared.was_lost());
    std::fs::remove_file(&file).unwrap();
    lab.exchange().await;
    assert!(lab.shared.was_lost());
    lab.now += 60;
    lab.note("node1", following(1));
    lab.exchange().await;
    assert_eq!(lab.in_force("node1"), 1);
}

#[tokio::test]
async fn node_whose_certificates_live_for_seconds_never_looks_dead() {
    let mut lab = Lab::new();
    let within = 12;
    for second in 0..60 {
        // Renewed at 70 % of its life.
        if second % 8 == 0 {
            let now = OffsetDateTime::from_unix_timestamp(lab.now).unwrap();
            lab.hearing.note("node1", Heard::Issued, now, within);
        }
        lab.shared.exchange(&lab.store, &lab.hearing, lab.now, within).await.unwrap();
        assert!(lab.written().unwrap().nodes["node1"].is_live(lab.now, within), "{second}");
        lab.now += 1;
    }
}
