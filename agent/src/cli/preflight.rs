//! `culvert preflight NAMESPACE`: what STRICT would cut, by the traffic that agents really saw.
//!
//! Each agent remembers who connected to its workloads, and whether with mutual TLS. What came to
//! an enrolled workload of the namespace in plaintext would be refused under STRICT, unless it came
//! from the workload's own node, as the kubelet's probes do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;
use time::OffsetDateTime;

use super::context::Context;
use super::error::CliError;
use super::exit::Exit;
use super::show::Asked;
use super::table::{Cell, Table, Tone};
use super::when::relative;
use crate::admin::model::{Edge, End, Map, Security, Status};

/// Addresses of strangers that are named.
const NAMED: usize = 3;

/// `culvert preflight`.
#[derive(Args)]
pub(super) struct Command {
    #[command(flatten)]
    asked: Asked,
    /// The namespace that is to become STRICT.
    namespace: String,
}

/// What STRICT would mean for a namespace.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Preflight {
    namespace: String,
    /// Since when every agent that was asked has watched; none without agents.
    observed_since: Option<String>,
    /// Whether every agent answered.
    complete: bool,
    /// Plaintext that STRICT would cut.
    cut: Vec<Peer>,
    /// Plaintext from the workloads' own nodes, which STRICT does not cut.
    kept: Vec<Peer>,
    /// Workloads of the namespace that are in no mesh: STRICT would do nothing for them.
    not_enrolled: Vec<String>,
}

/// Who sent plaintext to whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Peer {
    /// `NAMESPACE/NAME`, or nothing for who is no known workload.
    source: Option<String>,
    /// The latest addresses of those who are no known workload.
    addresses: Vec<String>,
    who: Who,
    destination: String,
    port: Option<u16>,
    connections: u64,
    open: u64,
    last_seen: String,
    /// What to do about it.
    fix: Option<String>,
}

/// What a source of plaintext is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Who {
    /// A workload that is not enrolled.
    NotEnrolled,
    /// An enrolled workload whose traffic came in plaintext nevertheless.
    Enrolled,
    /// No workload, and not the node.
    Outside,
    /// The workload's own node.
    Node,
}

/// Prints what STRICT would cut; ends with 3 where that is anything.
pub(super) fn run(command: &Command, context: &Context) -> Result<Exit, CliError> {
    let transport = command.asked.transport(context)?;
    let mut maps = transport.get::<Map>("/map.json");
    let mut exit = maps.complete()?;
    let statuses = transport.get::<Status>("/status");
    let maps: Vec<_> = maps.values().collect();
    // An agent that tells no start is one that tells no whole story.
    let complete = exit == Exit::Done && statuses.faults.is_empty();
    let since = statuses.values().map(|status| status.started.clone()).max();
    let found = examine(&command.namespace, &maps, since, complete);
    let now = OffsetDateTime::now_utc();
    command.asked.output.print(&found, |tint| found.render(now, tint))?;
    if !complete {
        exit = Exit::Incomplete;
    }
    Ok(if found.cut.is_empty() { exit } else { Exit::Refused })
}

fn examine(namespace: &str, maps: &[&Map], since: Option<String>, complete: bool) -> Preflight {
    let mut workloads = BTreeMap::new();
    for map in maps {
        for workload in &map.workloads {
            // Edges name the workload: it is in the mesh if all its pods are.
            let key = (workload.namespace.as_str(), workload.workload.as_str());
            *workloads.entry(key).or_insert(true) &= workload.enrolled;
        }
    }
    let is_plain = |edge: &&Edge| {
        edge.reporter == "destination"
            && edge.destination.namespace.as_deref() == Some(namespace)
            && edge.security == Security::Plaintext
            && edge.opened > edge.refused.get("plaintext_refused").copied().unwrap_or_default()
    };
    let mut all: Vec<Peer> = maps
        .iter()
        .flat_map(|map| map.edges.iter().filter(is_plain))
        .map(|edge| peer(edge, &workloads))
        .collect();
    all.sort_by(|a, b| {
        (a.who, &a.destination, &a.source, a.port).cmp(&(b.who, &b.destination, &b.source, b.port))
    });
    let (kept, cut) = all.into_iter().partition(|peer| peer.who == Who::Node);
    let outside = workloads
        .iter()
        .filter(|((of, _), enrolled)| *of == namespace && !**enrolled)
        .map(|((_, workload), _)| format!("{namespace}/{workload}"));
    Preflight {
        namespace: namespace.to_owned(),
        observed_since: since,
        complete,
        cut,
        kept,
        not_enrolled: outside.collect(),
    }
}

fn peer(edge: &Edge, workloads: &BTreeMap<(&str, &str), bool>) -> Peer {
    let name = |end: &End| match (&end.namespace, &end.workload) {
        (Some(namespace), Some(workload)) => Some(format!("{namespace}/{workload}")),
        _ => None,
    };
    let source = name(&edge.source);
    let known = match (&edge.source.namespace, &edge.source.workload) {
        (Some(namespace), Some(workload)) => workloads.get(&(namespace.as_str(), workload)),
        _ => None,
    };
    let who = match (&source, known) {
        (Some(_), Some(true)) => Who::Enrolled,
        (Some(_), _) => Who::NotEnrolled,
        // The node's own connections are remembered without an address.
        (None, _) if edge.strangers.is_empty() => Who::Node,
        (None, _) => Who::Outside,
    };
    let fix = match who {
        Who::NotEnrolled => Some(format!(
            "enrol it: kubectl label namespace {} istio.io/dataplane-mode=ambient",
            edge.source.namespace.as_deref().unwrap_or_default()
        )),
        Who::Enrolled => Some(
            "it was enrolled after it connected, or dials what no Service or pod has: restart it, \
             and ask `culvert explain`"
                .to_owned(),
        ),
        Who::Outside => Some(
            "let it come through a gateway that is enrolled, or keep this port PERMISSIVE with \
             portLevelMtls"
                .to_owned(),
        ),
        Who::Node => None,
    };
    Peer {
        source,
        addresses: edge.strangers.iter().map(ToString::to_string).collect(),
        who,
        destination: name(&edge.destination).unwrap_or_else(|| "?".to_owned()),
        port: edge.port,
        connections: edge.opened,
        open: edge.open,
        last_seen: edge.last_opened.clone(),
        fix,
    }
}

impl Preflight {
    fn render(&self, now: OffsetDateTime, tint: bool) -> String {
        let mut text = String::new();
        // Writing to a String does not fail, here and below.
        if self.cut.is_empty() {
            let _ =
                writeln!(text, "no plaintext was seen that STRICT would cut in {}", self.namespace);
        } else {
            let mut table =
                Table::new(["SOURCE", "WHO", "DESTINATION", "CONNECTIONS", "OPEN", "LAST SEEN"]);
            self.cut.iter().for_each(|peer| table.push(peer.row(now)));
            text.push_str(&table.render(tint));
            let fixes: BTreeSet<_> = self.cut.iter().filter_map(Peer::advice).collect();
            text.push('\n');
            for fix in fixes {
                let _ = writeln!(text, "{fix}");
            }
        }
        if !self.kept.is_empty() {
            let count: u64 = self.kept.iter().map(|peer| peer.connections).sum();
            let _ = writeln!(
                text,
                "\n{count} plaintext connections of the nodes themselves (probes) stay allowed"
            );
        }
        if !self.not_enrolled.is_empty() {
            let names = self.not_enrolled.join(", ");
            let _ = writeln!(text, "\nnot enrolled, so STRICT does nothing for them: {names}");
        }
        if let Some(since) = &self.observed_since {
            let ago = relative(since, now);
            let _ = writeln!(text, "\nby what was seen since {since} ({ago})");
        }
        if !self.complete {
            text.push_str("\nsome agents did not answer: there may be more\n");
        }
        text
    }
}

impl Peer {
    fn name(&self) -> String {
        self.source.clone().unwrap_or_else(|| {
            let latest = self.addresses.iter().rev().take(NAMED).cloned().collect::<Vec<_>>();
            let more = if self.addresses.len() > NAMED { ", …" } else { "" };
            latest.join(", ") + more
        })
    }

    fn advice(&self) -> Option<String> {
        self.fix.as_ref().map(|fix| format!("{}: {fix}", self.name()))
    }

    fn row(&self, now: OffsetDateTime) -> [Cell; 6] {
        let (who, tone) = match self.who {
            Who::NotEnrolled => ("not enrolled", Tone::Bad),
            Who::Enrolled => ("enrolled, in plaintext", Tone::Doubtful),
            Who::Outside => ("outside the mesh", Tone::Bad),
            Who::Node => ("its node", Tone::Plain),
        };
        let port = self.port.map_or_else(String::new, |port| format!(":{port}"));
        [
            self.name().into(),
            Cell::new(who, tone),
            format!("{}{port}", self.destination).into(),
            self.connections.to_string().into(),
            self.open.to_string().into(),
            relative(&self.last_seen, now).into(),
        ]
    }
}

#[cfg(test)]
mod tests;
