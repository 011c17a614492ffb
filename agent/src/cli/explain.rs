//! `culvert explain`: may this connection be, and why.

mod online;
mod text;

use std::path::PathBuf;

use clap::Args;
use culvert_spiffe::TrustDomain;

use super::transport::{Connect, Transport};
use super::{CliError, Context, Exit, Output};
use crate::explain::{Explanation, Mesh, Question, Source, Verdict, explain};
use crate::workload::offline::{Offline, Reading};

/// Notes about documents that are told, at most.
const MOST_NOTES: usize = 20;

/// `culvert explain`.
#[derive(Args)]
pub(super) struct Explain {
    /// Who connects: POD, NAMESPACE/POD, POD.NAMESPACE, a SPIFFE ID or an address.
    #[arg(value_name = "SRC")]
    source: String,
    /// Where to: a Service, pod or address, with its port.
    #[arg(value_name = "DST:PORT")]
    destination: String,
    /// Ask about a connection that arrives in plaintext, whoever sends it.
    #[arg(long)]
    plaintext: bool,
    /// Namespace of names that are given without [default: the only one that has the name]
    #[arg(short, long)]
    namespace: Option<String>,
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

/// Runs `culvert explain`. The exit code says whether the connection may be.
///
/// # Errors
/// The question cannot be answered.
pub(super) fn run(command: &Explain, context: Context) -> Result<Exit, CliError> {
    let (explanation, exit) = if command.offline {
        (offline(command)?, Exit::Done)
    } else {
        let transport = Transport::open(&command.connect, context.plugin)?;
        online::ask(command, &transport)?
    };
    command.output.print(&explanation, |colours| text::render(&explanation, colours))?;
    Ok(match (exit, explanation.verdict) {
        (Exit::Done, Verdict::Deny) => Exit::Refused,
        (exit, _) => exit,
    })
}

/// The mesh that files say.
pub(super) fn files(
    workloads: &[PathBuf],
    policies: &[PathBuf],
    reading: Reading,
) -> Result<Offline, CliError> {
    let files: Vec<_> = workloads.iter().chain(policies).cloned().collect();
    Ok(Offline::read(&files, reading)?)
}

/// The answer from files alone.
fn offline(command: &Explain) -> Result<Explanation, CliError> {
    let reading = Reading {
        trust_domain: command.trust_domain.clone(),
        root_namespace: command.root_namespace.clone(),
    };
    let offline = files(&command.workloads, &command.policies, reading)?;
    let question = Question {
        source: command.source.clone(),
        destination: command.destination.clone(),
        namespace: command.namespace.clone(),
        plaintext: command.plaintext,
    };
    let names = offline.names();
    let anywhere = offline.snapshot("")?;
    let source = Source::find(Mesh { snapshot: &anywhere, names }, &question)?;
    // What is near is near the source.
    let node = source.workload().map(|workload| workload.node.clone()).unwrap_or_default();
    let snapshot = offline.snapshot(&node)?;
    let mut explanation = explain(Mesh { snapshot: &snapshot, names }, &question)?;
    let findings = offline.findings().iter().map(|(policy, found)| format!("{policy}: {found}"));
    let about = findings.chain(names.notes.iter().cloned()).take(MOST_NOTES);
    explanation.notes.extend(about);
    Ok(explanation)
}
