//! The lab that is measured: a pair of enrolled pods and a pair that is not, each on both nodes.

use super::case::{Case, Test};
use super::figures::{Plane, Sample};
use super::spinner::Spinner;
use anyhow::{Context, Result};
use culvert_tests::{Lab, NodeId, Pod, Process, SOON};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// Where the load's server echoes, in each pod.
const ECHO_PORT: u16 = 7000;

/// Where it takes bytes.
const SINK_PORT: u16 = 7001;

/// What a measurement may take besides its own time.
const SLACK: Duration = Duration::from_secs(40);

/// The lab with its servers.
pub(crate) struct Bench {
    lab: Lab,
    load: PathBuf,
    seconds: u32,
    // Ended before the lab is.
    _servers: Vec<Process>,
}

/// Builds the lab and starts a server in the second pod of each pair.
pub(crate) fn start(id: &str, culvert: PathBuf, load: PathBuf, seconds: u32) -> Result<Bench> {
    let lab = Lab::builder().named(id).culvert(culvert).standard().start()?;
    let mut servers = Vec::new();
    for plane in Plane::ALL {
        let (client, server) = pair(&lab, plane);
        for pod in [client, server] {
            // A client that opens and closes connections for seconds on end would run out of
            // ports; one that has been closed for a second may be used again.
            pod.netns().sysctl("net/ipv4/tcp_tw_reuse", "1")?;
        }
        let echo = format!("[::]:{ECHO_PORT}");
        let sink = format!("[::]:{SINK_PORT}");
        let words = [&load.display().to_string(), "serve", "--echo", &echo, "--sink", &sink];
        let process = server.spawn(&words)?;
        process.wait_for("listening", SOON)?;
        servers.push(process);
    }
    Ok(Bench { lab, load, seconds, _servers: servers })
}

/// Client and server of a plane.
fn pair(lab: &Lab, plane: Plane) -> (&Pod, &Pod) {
    match plane {
        Plane::Plain => (lab.pod("x1"), lab.pod("y1")),
        Plane::Culvert => (lab.pod("a1"), lab.pod("b1")),
    }
}

impl Bench {
    /// Measures one case on one plane.
    pub(crate) fn measure(&self, plane: Plane, case: Case) -> Result<Sample> {
        let (client, server) = pair(&self.lab, plane);
        let spinner = if case.awake { Some(Spinner::start(&self.load)?) } else { None };
        let mut words = vec![self.load.display().to_string()];
        let (mode, port, details) = match case.test {
            Test::Bulk { streams } => ("bulk", SINK_PORT, vec![("--streams", streams)]),
            Test::PingPong { size, connections } => {
                ("ping-pong", ECHO_PORT, vec![("--size", size), ("--connections", connections)])
            }
            Test::Connect { clients } => ("connect", ECHO_PORT, vec![("--clients", clients)]),
        };
        words.extend([mode, "--to", &server.at(port).to_string()].map(str::to_owned));
        for (option, value) in details {
            words.extend([option.to_owned(), value.to_string()]);
        }
        words.extend(["--seconds".to_owned(), self.seconds.to_string()]);
        for pid in self.agents()?.into_iter().chain(spinner.as_ref().map(Spinner::pid)) {
            words.extend(["--watch".to_owned(), pid.to_string()]);
        }
        let limit = Duration::from_secs(self.seconds.into()) + SLACK;
        let line = client.run(&words, limit)?.json()?;
        drop(spinner);
        Sample::read(case.test.unit(), &line, self.memory()?)
    }

    /// Share of the CPUs that others use while nothing is measured.
    pub(crate) fn others(&self) -> Result<f64> {
        let words = [self.load.display().to_string(), "rest".to_owned(), "--seconds=1".to_owned()];
        let line = self.lab.node(NodeId::Node1).run(&words, SOON)?.json()?;
        let number = |key: &str| line[key].as_f64().context("a number of the load is missing");
        let cores = std::thread::available_parallelism()?.get();
        let cores = u32::try_from(cores).map_or(1.0, f64::from);
        Ok(number("system_cpu_s")? / number("seconds")? / cores)
    }

    /// Resident memory of both agents, in bytes.
    pub(crate) fn memory(&self) -> Result<f64> {
        let mut total = 0;
        for node in NodeId::ALL {
            total += self.lab.agent_memory(node)?;
        }
        // Exact below eight petabytes.
        Value::from(total).as_f64().context("memory is a number")
    }

    /// Flows that both agents carried with mutual TLS.
    pub(crate) fn tunnelled(&self) -> Result<f64> {
        let labels = [("connection_security_policy", "mutual_tls"), ("reporter", "destination")];
        Ok(self.lab.metrics(NodeId::Node2)?.sum("istio_tcp_connections_opened_total", &labels))
    }

    fn agents(&self) -> Result<Vec<u32>> {
        NodeId::ALL.iter().map(|node| Ok(self.lab.agent(*node)?.pid())).collect()
    }
}
