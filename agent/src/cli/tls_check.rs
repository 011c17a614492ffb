//! `culvert tls-check`: the table that istioctl had, and a real handshake to prove it.

use std::path::PathBuf;

use clap::Args;
use culvert_spiffe::TrustDomain;
use serde::Serialize;

use super::explain::files;
use super::transport::{Answer, Answers, Ask, Connect, Transport};
use super::{Cell, CliError, Context, Exit, Output, Table, Tone};
use crate::explain::{Checks, Mesh, Pair, Probe, Question, Source, percent, probed, tls_check};
use crate::workload::offline::Reading;

/// Endpoints that are probed, at most.
const MOST_PROBES: usize = 32;

/// `culvert tls-check`.
#[derive(Args)]
pub(super) struct TlsCheck {
    /// Who connects: POD, NAMESPACE/POD, a SPIFFE ID or an address.
    #[arg(value_name = "SRC")]
    source: String,
    /// A Service, pod or address, with a port or without [default: every Service].
    #[arg(value_name = "DST")]
    destination: Option<String>,
    /// Namespace of names that are given without.
    #[arg(short, long)]
    namespace: Option<String>,
    /// Let the source's agent make a real handshake with each destination that uses mutual TLS.
    #[arg(long, conflicts_with = "offline")]
    probe: bool,
    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Ask no agent: answer from files alone.
    #[arg(long, requires = "workloads")]
    offline: bool,
    /// Workloads, as in standalone mode or as `kubectl get -o yaml` writes them; may be repeated.
    #[arg(long, value_name = "FILE", requires = "offline")]
    workloads: Vec<PathBuf>,
    /// Policies, likewise.
    #[arg(long, value_name = "FILE", requires = "offline")]
    policies: Vec<PathBuf>,
    /// Trust domain of the identities in the files.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local", requires = "offline")]
    trust_domain: TrustDomain,
    /// The namespace whose policies hold for the mesh.
    #[arg(long, value_name = "NAMESPACE", default_value = "istio-system", requires = "offline")]
    root_namespace: String,
    #[command(flatten)]
    connect: Connect,
}

/// What is printed for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answered {
    pairs: Vec<Row>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    probes: Vec<Probe>,
}

/// A pair with what istioctl said of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    status: &'static str,
    #[serde(flatten)]
    pair: Pair,
}

/// Runs `culvert tls-check`. The exit code says whether any pair is in conflict.
///
/// # Errors
/// The question cannot be answered.
pub(super) fn run(command: &TlsCheck, context: Context) -> Result<Exit, CliError> {
    let (pairs, probes, exit) = if command.offline {
        (offline(command)?, Vec::new(), Exit::Done)
    } else {
        online(command, context)?
    };
    let answered = answered(pairs, probes);
    command.output.print(&answered, |colours| render(&answered, colours))?;
    let conflict = answered.pairs.iter().any(|row| row.status == CONFLICT);
    Ok(if conflict && exit == Exit::Done { Exit::Refused } else { exit })
}

const OK: &str = "OK";
const CONFLICT: &str = "CONFLICT";

fn answered(pairs: Vec<Pair>, probes: Vec<Probe>) -> Answered {
    let failed = |pair: &Pair| {
        pair.endpoints
            .iter()
            .filter_map(probed)
            .any(|to| probes.iter().any(|probe| probe.to == to && probe.error.is_some()))
    };
    let rows = pairs.into_iter().map(|pair| {
        let status = if pair.agrees() && !failed(&pair) { OK } else { CONFLICT };
        Row { status, pair }
    });
    Answered { pairs: rows.collect(), probes }
}

/// From files alone.
fn offline(command: &TlsCheck) -> Result<Vec<Pair>, CliError> {
    let reading = Reading {
        trust_domain: command.trust_domain.clone(),
        root_namespace: command.root_namespace.clone(),
    };
    let offline = files(&command.workloads, &command.policies, reading)?;
    let snapshot = offline.snapshot("")?;
    let mesh = Mesh { snapshot: &snapshot, names: offline.names() };
    let question = Question {
        source: command.source.clone(),
        destination: String::new(),
        namespace: command.namespace.clone(),
        plaintext: false,
    };
    let source = Source::find(mesh, &question)?;
    let namespace = command.namespace.as_deref();
    Ok(tls_check(mesh, &source, command.destination.as_deref(), namespace)?)
}

/// As agents know it: each of its own node's workloads best.
fn online(command: &TlsCheck, context: Context) -> Result<(Vec<Pair>, Vec<Probe>, Exit), CliError> {
    let transport = Transport::open(&command.connect, context.plugin)?;
    let mut path = format!("/tls-check?source={}", percent(&command.source));
    for (name, value) in [("destination", &command.destination), ("namespace", &command.namespace)]
    {
        if let Some(value) = value {
            path.extend(["&", name, "=", &percent(value)]);
        }
    }
    let mut answers: Answers<Checks> = transport.get(&path);
    if answers.good.is_empty() {
        return match answers.faults.into_iter().next() {
            Some(fault) => Err(fault.error.into()),
            None => Err(CliError::NoAnswer),
        };
    }
    let exit = answers.complete()?;
    let mut all = answers.good.into_iter().map(|Answer { answer, .. }| answer);
    let Some(first) = all.next() else { return Err(CliError::NoAnswer) };
    let (mut pairs, source) = (first.pairs, first.source);
    for other in all.filter(|other| other.cluster) {
        for pair in &mut pairs {
            let same = other.pairs.iter().find(|same| same.host == pair.host);
            if let Some(same) = same {
                pair.correct(&other.node, same);
            }
        }
    }
    let mut probes = Vec::new();
    if command.probe {
        let node = source.node.as_deref().unwrap_or_default();
        let name = match (&source.namespace, &source.name) {
            (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
            _ => return Err(CliError::NoProbe),
        };
        let mut asked: Vec<_> = pairs
            .iter()
            .flat_map(|pair| &pair.endpoints)
            .filter_map(|endpoint| Some((probed(endpoint)?, endpoint.identity.clone())))
            .collect();
        asked.sort();
        asked.dedup();
        for (to, identity) in asked.into_iter().take(MOST_PROBES) {
            let path = format!(
                "/probe?source={}&to={}&expected={}",
                percent(&name),
                percent(&to.to_string()),
                percent(&identity)
            );
            let mut answers: Answers<Probe> = transport.of_node(node, &Ask::post(path));
            answers.complete()?;
            probes.extend(answers.good.into_iter().map(|good| good.answer));
        }
    }
    Ok((pairs, probes, exit))
}

fn render(answered: &Answered, colours: bool) -> String {
    let mut table = Table::new(["HOST:PORT", "STATUS", "SERVER", "CLIENT", "AUTHN POLICY"]);
    for Row { status, pair } in &answered.pairs {
        let tone = if *status == OK { Tone::Good } else { Tone::Bad };
        table.push([
            pair.host.as_str().into(),
            Cell::new(*status, tone),
            pair.each(|endpoint| endpoint.server.as_str()).into(),
            pair.each(|endpoint| endpoint.client.as_str()).into(),
            pair.each(|endpoint| endpoint.policy.as_deref().unwrap_or("-")).into(),
        ]);
    }
    let mut text = table.render(colours);
    if answered.probes.is_empty() {
        return text;
    }
    let mut table = Table::new(["PROBE", "STATUS", "PROTOCOL", "CIPHER SUITE", "PEER", "SERIAL"]);
    for probe in &answered.probes {
        let (status, tone) = match &probe.error {
            None => (OK.to_owned(), Tone::Good),
            Some(error) => (format!("FAILED: {error}"), Tone::Bad),
        };
        table.push([
            probe.to.to_string().into(),
            Cell::new(status, tone),
            Cell::or_dash(probe.protocol.as_deref()),
            Cell::or_dash(probe.cipher_suite.as_deref()),
            Cell::or_dash(probe.peer.as_ref().map(ToString::to_string)),
            Cell::or_dash(probe.serial.as_deref()),
        ]);
    }
    text.push('\n');
    text.push_str(&table.render(colours));
    text
}
