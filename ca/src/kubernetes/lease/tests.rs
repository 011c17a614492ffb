use serde_json::json;
use tokio::task::JoinSet;

use super::*;
use crate::kubernetes::testing::{Cluster, Fault, SYSTEM};

/// Candidates of one lease.
struct Election {
    cluster: Cluster,
    tasks: JoinSet<()>,
}

struct Elected {
    leads: watch::Receiver<bool>,
    cancel: CancellationToken,
}

impl Election {
    fn new() -> Self {
        Self { cluster: Cluster::default(), tasks: JoinSet::new() }
    }

    fn candidate(&mut self, holder: &str) -> Elected {
        let client = self.cluster.client();
        let candidate = Candidate::new(client, SYSTEM.into(), "culvert-ca", holder.into());
        let (leads, cancel) = (candidate.leads(), CancellationToken::new());
        self.tasks.spawn(candidate.run(cancel.clone()));
        Elected { leads, cancel }
    }

    fn holder(&self) -> String {
        let lease = self.cluster.get("leases", SYSTEM, "culvert-ca").unwrap();
        lease["spec"]["holderIdentity"].as_str().unwrap().to_owned()
    }
}

impl Elected {
    fn leads(&self) -> bool {
        *self.leads.borrow()
    }

    /// How long it takes until it leads, or leads no more.
    async fn until(&mut self, leads: bool) -> Duration {
        let began = Instant::now();
        let within = Duration::from_mins(5);
        timeout(within, self.leads.wait_for(|now| *now == leads)).await.unwrap().unwrap();
        began.elapsed()
    }
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_the_next_follows_it_at_once_when_it_stops() {
    let mut election = Election::new();
    let mut first = election.candidate("a");
    first.until(true).await;
    let mut second = election.candidate("b");
    seconds(120).await;
    assert!(first.leads() && !second.leads());
    let lease = election.cluster.get("leases", SYSTEM, "culvert-ca").unwrap();
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 15);
    assert_eq!(lease["spec"]["leaseTransitions"], 0);
    first.cancel.cancel();
    assert!(second.until(true).await <= LOOK_EVERY, "it was given back");
    assert_eq!(election.holder(), "b");
}

#[tokio::test(start_paused = true)]
async fn leader_that_is_gone_without_a_word_is_followed_after_it_stopped_leading() {
    let mut election = Election::new();
    let stale = json!({
        "metadata": { "name": "culvert-ca" },
        // Its clock is a day ahead; nobody goes by it.
        "spec": { "holderIdentity": "dead", "renewTime": "2099-01-01T00:00:00.000000Z" },
    });
    election.cluster.put("leases", SYSTEM, stale);
    let mut second = election.candidate("b");
    let took = second.until(true).await;
    assert!(took >= HELD_FOR && took <= HELD_FOR + LOOK_EVERY, "{took:?}");
    let lease = election.cluster.get("leases", SYSTEM, "culvert-ca").unwrap();
    assert_eq!(lease["spec"]["leaseTransitions"], 1);
}

#[tokio::test(start_paused = true)]
async fn leader_without_api_server_steps_down_before_another_may_take_over() {
    for fault in [Fault::Status(503), Fault::Status(403), Fault::Hang, Fault::Lost] {
        let mut election = Election::new();
        let mut leader = election.candidate("a");
        leader.until(true).await;
        election.cluster.fail(Some(fault));
        let took = leader.until(false).await;
        assert!(took <= LEAD_FOR, "{fault:?}: {took:?}");
        seconds(600).await;
        assert!(!leader.leads());
        election.cluster.fail(None);
        let took = leader.until(true).await;
        assert!(took <= LOOK_EVERY + super::super::CALL_DEADLINE, "{fault:?}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn leader_whose_lease_was_taken_or_removed_knows_it_at_its_next_look() {
    let mut election = Election::new();
    let mut leader = election.candidate("a");
    leader.until(true).await;
    let mut taken = election.cluster.get("leases", SYSTEM, "culvert-ca").unwrap();
    taken["spec"]["holderIdentity"] = "thief".into();
    election.cluster.put("leases", SYSTEM, taken);
    assert!(leader.until(false).await <= LOOK_EVERY);
    election.cluster.delete("leases", SYSTEM, "culvert-ca");
    assert!(leader.until(true).await <= LOOK_EVERY, "there is none: it is made");
    assert_eq!(election.holder(), "a");
}

#[tokio::test(start_paused = true)]
async fn of_many_that_begin_at_once_one_leads() {
    let mut election = Election::new();
    let all: Vec<_> = (0..8).map(|n| election.candidate(&n.to_string())).collect();
    for _ in 0..60 {
        seconds(1).await;
        assert!(all.iter().filter(|one| one.leads()).count() <= 1);
    }
    assert_eq!(all.iter().filter(|one| one.leads()).count(), 1);
}
