//! The flows that are open now.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use culvert_spiffe::SpiffeId;

use super::flow::FlowState;
use super::labels::{Path, Reporter, Security, ServiceName};

/// Parts that are locked apart, so that workers seldom meet.
const SHARDS: u64 = 64;

/// One end of a flow or of an edge, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct End {
    /// The workload's namespace.
    pub namespace: Option<String>,
    /// The name of the pod, for a flow; of its workload, for an edge.
    pub workload: Option<String>,
    /// The name of its workload, for both.
    pub owner: Option<String>,
    /// Its identity, where mutual TLS proved it.
    pub identity: Option<SpiffeId>,
}

/// An open flow as it was when somebody asked.
#[derive(Clone, Debug)]
pub struct FlowView {
    /// Counts up with each flow of this agent.
    pub id: u64,
    /// Which end this agent stands at.
    pub reporter: Reporter,
    /// Where it comes from.
    pub source: End,
    /// The source's address as the application sees it.
    pub source_address: SocketAddr,
    /// Where it goes to.
    pub destination: End,
    /// The other end of the connection on the wire: port 15008 when tunnelled.
    pub destination_address: SocketAddr,
    /// The final destination inside the tunnel, if there is a tunnel.
    pub hbone_address: Option<SocketAddr>,
    /// The Service that was asked for.
    pub service: Option<ServiceName>,
    /// How it is protected.
    pub security: Security,
    /// Which way its bytes take.
    pub path: Path,
    /// When it opened.
    pub opened: SystemTime,
    /// Bytes that the local workload sent.
    pub sent: u64,
    /// Bytes that the local workload received.
    pub received: u64,
    /// HTTP requests seen in passing.
    pub requests: u64,
}

/// What is open, or the latest part of it.
#[derive(Clone, Debug)]
pub struct FlowsView {
    /// How many flows are open.
    pub total: usize,
    /// The latest of them, latest first.
    pub flows: Vec<FlowView>,
}

/// Every open flow by its number.
pub(super) struct Open {
    // Each guards its part of the flows. Held to add one, to take one away, or to copy the handles
    // of the latest.
    shards: [Mutex<BTreeMap<u64, Arc<FlowState>>>; SHARDS as usize],
    next: AtomicU64,
    count: AtomicUsize,
}

impl Open {
    pub(super) fn new() -> Self {
        Self {
            shards: [const { () }; SHARDS as usize].map(|()| Mutex::default()),
            next: AtomicU64::new(1),
            count: AtomicUsize::new(0),
        }
    }

    /// A number for a new flow.
    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn add(&self, flow: Arc<FlowState>) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.shard(flow.id).lock().unwrap_or_else(PoisonError::into_inner).insert(flow.id, flow);
    }

    pub(super) fn remove(&self, id: u64) {
        let gone = self.shard(id).lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        if gone.is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The latest `limit` flows.
    pub(super) fn view(&self, limit: usize) -> FlowsView {
        let mut latest: Vec<Arc<FlowState>> = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            latest.extend(shard.values().rev().take(limit).cloned());
        }
        latest.sort_unstable_by_key(|flow| std::cmp::Reverse(flow.id));
        latest.truncate(limit);
        FlowsView {
            total: self.count.load(Ordering::Relaxed),
            flows: latest.iter().map(|flow| flow.view()).collect(),
        }
    }

    fn shard(&self, id: u64) -> &Mutex<BTreeMap<u64, Arc<FlowState>>> {
        // The remainder is below the number of shards, which is a `usize`.
        &self.shards[usize::try_from(id % SHARDS).unwrap_or(0)]
    }
}
