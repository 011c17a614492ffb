//! The Workload API, asked by clients that others wrote, and by callers that should get nothing.

mod clients;
mod hostile;
mod streams;
mod tokens;

use anyhow::{Context as _, Result};
use culvert_tests::{Builder, Finished, Lab, NodeId, Place, Process, SOON, tool};
use serde_json::Value;

/// The usual lab, with certificates of a life as short as is asked for.
fn builder(life: &str) -> Builder {
    let builder = Lab::builder().standard().ca_argument("--min-ttl").ca_argument("5s");
    builder.set("ca", "certificateTtl", life)
}

/// Node 1's socket, as a workload's environment has it.
fn environment(lab: &Lab) -> String {
    format!("SPIFFE_ENDPOINT_SOCKET=unix://{}", lab.workload_socket(NodeId::Node1).display())
}

/// The words of `culvert-caller MODE` against node 1's socket.
fn words(lab: &Lab, mode: &str, arguments: &[&str]) -> Result<Vec<String>> {
    let socket = lab.workload_socket(NodeId::Node1).display().to_string();
    let mut words = vec![tool("culvert-caller")?.display().to_string(), mode.to_owned()];
    words.extend(["--socket".to_owned(), socket]);
    words.extend(arguments.iter().map(|word| (*word).to_owned()));
    Ok(words)
}

fn call(lab: &Lab, from: &Place, mode: &str, arguments: &[&str]) -> Result<Value> {
    finished(lab, from, mode, arguments)?.json()
}

fn finished(lab: &Lab, from: &Place, mode: &str, arguments: &[&str]) -> Result<Finished> {
    from.run(&words(lab, mode, arguments)?, SOON)
}

fn start(lab: &Lab, from: &Place, mode: &str, arguments: &[&str]) -> Result<Process> {
    from.spawn(&words(lab, mode, arguments)?)
}

/// The JSON lines that a program has said so far.
fn lines(process: &Process) -> Vec<Value> {
    process.stdout().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// A counter of node 1's agent.
fn counted(lab: &Lab, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
    Ok(lab.metrics(NodeId::Node1).context("metrics")?.sum(name, labels))
}
