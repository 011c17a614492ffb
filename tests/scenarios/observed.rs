//! What the scenarios ask of programs and agents, in few words.

use anyhow::{Context, Result, ensure};
use culvert_tests::{Lab, NodeId, Place, Process, SOON};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// What a connect gets from a pod that should be enrolled and could not be.
pub(crate) const EPERM: i64 = 1;
/// What a connect gets from a port that nobody listens on.
pub(crate) const ECONNREFUSED: i64 = 111;

/// Starts the server that tells each client who it seems to be.
pub(crate) fn serve(place: &Place, listen: &str) -> Result<Process> {
    let server = place.app(&["serve", "--listen", listen])?;
    server.wait_for("listening", SOON)?;
    Ok(server)
}

/// One exchange with such a server; what the client saw.
pub(crate) fn talk(place: &Place, to: SocketAddr, more: &[&str]) -> Result<Value> {
    let to = to.to_string();
    let words = [&["talk", "--line", "--to", &to], more].concat();
    let said = place
        .run_app(&words, SOON)?
        .json()
        .with_context(|| format!("{} to {to} {more:?}", place.name()))?;
    ensure!(said["echoed"] == true, "{said}");
    Ok(said)
}

/// An attempt that must fail: its step and the error's number.
pub(crate) fn fails(place: &Place, to: SocketAddr, more: &[&str]) -> Result<(String, i64)> {
    let to = to.to_string();
    let words = [&["talk", "--line", "--to", &to], more].concat();
    let finished = place.run_app(&words, SOON)?;
    ensure!(
        !finished.status.success(),
        "{} reaches {to} {more:?}: {}",
        place.name(),
        finished.stdout
    );
    let line = finished.stdout.lines().last().context("a line")?;
    let said: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
    let step = said["step"].as_str().with_context(|| line.to_owned())?;
    let errno = said["errno"].as_i64().with_context(|| line.to_owned())?;
    Ok((step.to_owned(), errno))
}

/// An address that a program told, as it wrote it.
pub(crate) fn address(said: &Value) -> Result<SocketAddr> {
    let text = said.as_str().with_context(|| format!("no address: {said}"))?;
    text.parse().with_context(|| text.to_owned())
}

/// Its IP, without the mapping of a server that listens on both families.
pub(crate) fn ip(said: &Value) -> Result<IpAddr> {
    Ok(address(said)?.ip().to_canonical())
}

/// What the kernel programs of a node have counted, and how many flows its agent has opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counted(BTreeMap<&'static str, u64>);

const EVENTS: [&str; 13] = [
    "outbound_steered",
    "outbound_passed",
    "outbound_state_full",
    "outbound_agent_down",
    "original_dst_handed_over",
    "original_dst_missing",
    "flow_table_full",
    "inbound_hbone",
    "inbound_plaintext",
    "inbound_refused",
    "inbound_agent_down",
    "inbound_delivered",
    "delivery_table_full",
];

/// Not a kernel's event: the flows that the agent has opened.
const FLOWS: &str = "flows";

impl Counted {
    pub(crate) fn now(lab: &Lab, node: NodeId) -> Result<Self> {
        let scrape = lab.metrics(node)?;
        let event = |event| scrape.sum("culvert_capture_events_total", &[("event", event)]);
        let flows = scrape.sum("istio_tcp_connections_opened_total", &[]);
        let values = EVENTS.map(|name| (name, event(name))).into_iter().chain([(FLOWS, flows)]);
        Ok(Self(values.map(|(name, value)| (name, whole(value))).collect()))
    }

    /// By how much one of them has risen since an earlier look.
    pub(crate) fn since(&self, earlier: &Self, name: &str) -> u64 {
        self.0[name] - earlier.0[name]
    }

    /// Fails unless just these have risen since, by just so much.
    pub(crate) fn rose(&self, lab: &Lab, node: NodeId, by: &[(&str, u64)]) -> Result<()> {
        let now = Self::now(lab, node)?;
        let risen: BTreeMap<_, _> = now
            .0
            .iter()
            .map(|(name, value)| (*name, value - self.0[name]))
            .filter(|(_, by)| *by > 0)
            .collect();
        let wanted: BTreeMap<_, _> = by.iter().copied().collect();
        ensure!(risen == wanted, "{}: risen {risen:?}, expected {wanted:?}", node.name());
        Ok(())
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small counter")]
fn whole(value: f64) -> u64 {
    value as u64
}

/// Sums a metric that counts, for labels given.
pub(crate) fn count(lab: &Lab, node: NodeId, name: &str, labels: &[(&str, &str)]) -> Result<u64> {
    Ok(whole(lab.metrics(node)?.sum(name, labels)))
}
