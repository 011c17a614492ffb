//! The labs that are measured: a pair of enrolled pods and a pair that is not, each on both nodes,
//! and on wish the enrolled pair once more in a lab whose agents observe nothing.

use super::case::{Case, Test};
use super::figures::{Plane, Sample};
use super::spinner::Spinner;
use anyhow::{Context, Result, bail};
use culvert_tests::{Lab, NodeId, Pod, Process, SOON};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Where the load's server echoes, in each pod.
const ECHO_PORT: u16 = 7000;

/// Where it takes bytes.
const SINK_PORT: u16 = 7001;

/// Where it answers HTTP/1.1.
const HTTP_PORT: u16 = 7002;

/// How often a Prometheus that is in a hurry scrapes.
const SCRAPE: Duration = Duration::from_secs(1);

/// What a measurement may take besides its own time.
const SLACK: Duration = Duration::from_secs(40);

/// The lab with its servers.
pub(crate) struct Bench {
    lab: Lab,
    dark: Option<Lab>,
    load: PathBuf,
    seconds: u32,
    // Ended before the lab is.
    _servers: Vec<Process>,
}

/// What is built.
pub(crate) struct Plan {
    /// The program of agents and authority.
    pub(crate) culvert: PathBuf,
    /// The program of clients and servers.
    pub(crate) load: PathBuf,
    /// Seconds of a measurement.
    pub(crate) seconds: u32,
    /// Name of the lab whose agents observe nothing, if there is to be one.
    pub(crate) dark: Option<String>,
}

/// Builds the labs and starts a server in the second pod of each pair.
pub(crate) fn start(id: &str, plan: Plan) -> Result<Bench> {
    let Plan { culvert, load, seconds, dark } = plan;
    let lab = Lab::builder().named(id).culvert(culvert.clone()).standard().start()?;
    let dark = dark.map(|id| unobserved(&id, culvert)).transpose()?;
    let mut bench = Bench { lab, dark, load, seconds, _servers: Vec::new() };
    let servers: Result<_> = bench.planes().into_iter().map(|plane| bench.serve(plane)).collect();
    bench._servers = servers?;
    Ok(bench)
}

/// A lab whose agents look into nothing and log no connection. Counting flows is not turned off:
/// there is no setting for it.
fn unobserved(id: &str, culvert: PathBuf) -> Result<Lab> {
    let builder = Lab::builder().named(id).culvert(culvert).standard();
    builder.set("observe", "http", "false").set("observe", "accessLog", "false").start()
}

impl Bench {
    /// What can be measured.
    pub(crate) fn planes(&self) -> Vec<Plane> {
        let there = |plane: &Plane| *plane != Plane::Dark || self.dark.is_some();
        Plane::ALL.into_iter().filter(there).collect()
    }

    /// The lab of a plane.
    fn lab(&self, plane: Plane) -> &Lab {
        self.dark.as_ref().filter(|_| plane == Plane::Dark).unwrap_or(&self.lab)
    }

    /// Client and server of a plane.
    fn pair(&self, plane: Plane) -> (&Pod, &Pod) {
        let lab = self.lab(plane);
        match plane {
            Plane::Plain => (lab.pod("x1"), lab.pod("y1")),
            Plane::Culvert | Plane::Dark => (lab.pod("a1"), lab.pod("b1")),
        }
    }

    fn serve(&self, plane: Plane) -> Result<Process> {
        let (client, server) = self.pair(plane);
        for pod in [client, server] {
            // A client that opens and closes connections for seconds on end would run out of
            // ports; one that has been closed for a second may be used again.
            pod.netns().sysctl("net/ipv4/tcp_tw_reuse", "1")?;
        }
        let [echo, sink, http] = [ECHO_PORT, SINK_PORT, HTTP_PORT].map(|p| format!("[::]:{p}"));
        let load = self.load.display().to_string();
        let words = [&load, "serve", "--echo", &echo, "--sink", &sink, "--http", &http];
        let process = server.spawn(&words)?;
        process.wait_for("listening", SOON)?;
        Ok(process)
    }

    /// Does something while the metrics of both agents are read as a Prometheus does.
    fn scraped<T>(&self, something: impl FnOnce() -> Result<T>) -> Result<T> {
        // Its end is the scraper's sign to stop.
        let (under_way, done) = mpsc::channel::<()>();
        let lab = &self.lab;
        thread::scope(|scope| {
            let scraper = scope.spawn(move || {
                while done.recv_timeout(SCRAPE) == Err(mpsc::RecvTimeoutError::Timeout) {
                    for node in NodeId::ALL {
                        lab.metrics(node)?;
                    }
                }
                Ok(())
            });
            let outcome = something();
            drop(under_way);
            let scraped = scraper.join().unwrap_or_else(|_| bail!("the scraper panicked"));
            scraped.and(outcome)
        })
    }

    /// Measures one case on one plane.
    pub(crate) fn measure(&self, plane: Plane, case: Case) -> Result<Sample> {
        let (client, server) = self.pair(plane);
        let spinner = if case.awake { Some(Spinner::start(&self.load)?) } else { None };
        let mut words = vec![self.load.display().to_string()];
        let (mode, port, details) = match case.test {
            Test::Bulk { streams } => ("bulk", SINK_PORT, vec![("--streams", streams)]),
            Test::PingPong { size, connections } => {
                ("ping-pong", ECHO_PORT, vec![("--size", size), ("--connections", connections)])
            }
            Test::Http { size, connections } => {
                ("http", HTTP_PORT, vec![("--size", size), ("--connections", connections)])
            }
            Test::Connect { clients } => ("connect", ECHO_PORT, vec![("--clients", clients)]),
        };
        words.extend([mode, "--to", &server.at(port).to_string()].map(str::to_owned));
        for (option, value) in details {
            words.extend([option.to_owned(), value.to_string()]);
        }
        words.extend(["--seconds".to_owned(), self.seconds.to_string()]);
        for pid in self.agents(plane)?.into_iter().chain(spinner.as_ref().map(Spinner::pid)) {
            words.extend(["--watch".to_owned(), pid.to_string()]);
        }
        let limit = Duration::from_secs(self.seconds.into()) + SLACK;
        let measure = || client.run(&words, limit)?.json();
        let observed = plane == Plane::Culvert && self.dark.is_some();
        let line = if observed { self.scraped(measure)? } else { measure()? };
        drop(spinner);
        Sample::read(case.test.unit(), &line, self.memory(plane)?)
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

    /// Resident memory of both agents of a plane, in bytes.
    pub(crate) fn memory(&self, plane: Plane) -> Result<f64> {
        let mut total = 0;
        for node in NodeId::ALL {
            total += self.lab(plane).agent_memory(node)?;
        }
        // Exact below eight petabytes.
        Value::from(total).as_f64().context("memory is a number")
    }

    /// Flows that both agents carried with mutual TLS.
    pub(crate) fn tunnelled(&self) -> Result<f64> {
        let labels = [("connection_security_policy", "mutual_tls"), ("reporter", "destination")];
        Ok(self.lab.metrics(NodeId::Node2)?.sum("istio_tcp_connections_opened_total", &labels))
    }

    fn agents(&self, plane: Plane) -> Result<Vec<u32>> {
        NodeId::ALL.iter().map(|node| Ok(self.lab(plane).agent(*node)?.pid())).collect()
    }
}
