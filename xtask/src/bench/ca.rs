//! `cargo xtask bench ca`: what certificates cost, at the authority and at the agents.
//!
//! ```text
//!   repeat 1                repeat 2
//!   in process, one thread  64 callers ══▶ culvert ca     then, once: handshakes, and pods that
//!   64 callers ══▶ ca       in process …                  come one by one in the lab
//! ```
//!
//! Rates are for each second of CPU time that the authority spent, so that callers on the same
//! cores and noisy neighbours count for neither side.

use crate::setup::{self, Purpose};
use crate::{build, interrupt, run};
use anyhow::{Context, Result, ensure};
use culvert_tests::{Lab, NodeId, PodSpec, SOON};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Callers, each with a connection and a node of its own.
const CALLERS: u8 = 64;

/// Longest that the authority may take to listen.
const START: Duration = Duration::from_secs(20);

/// What is measured.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How often each measurement is repeated.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: u32,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Pods that come one by one.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=200))]
    pods: u16,
    /// Write all figures to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Medians of a run.
struct Figures {
    grpc_per_core: f64,
    grpc_per_s: f64,
    in_process_per_core: f64,
    ratio: f64,
    p50_us: f64,
    p99_us: f64,
    handshake_cpu_us: f64,
    new_pods_ms: Vec<f64>,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(&[Purpose::Agent, Purpose::Kernel, Purpose::Run])?;
    let (culvert, load) = build::shipped_with_ca_load()?;
    let authority = Authority::start(&culvert)?;
    let figures = measure(arguments, &culvert, &load, &authority)?;
    println!("{}", table(&figures, arguments));
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&json(&figures))?;
        fs::write(path, text + "\n")
            .with_context(|| format!("could not write {}", path.display()))?;
        run::say(format!("figures: {}", path.display()));
    }
    Ok(())
}

fn measure(
    arguments: &Arguments,
    culvert: &Path,
    load: &Path,
    authority: &Authority,
) -> Result<Figures> {
    let seconds = arguments.seconds.to_string();
    let (mut in_process, mut calls) = (Vec::new(), Vec::new());
    for repeat in 1..=arguments.repeats {
        run::say(format!("repeat {repeat} of {}", arguments.repeats));
        // Who comes first changes, so that what drifts meets both.
        for called in [repeat % 2 == 0, repeat % 2 == 1] {
            if called {
                let pid = authority.child.id().to_string();
                let callers = CALLERS.to_string();
                let words = ["--watch", &pid, "--callers", &callers, "--seconds", &seconds];
                let line = told(authority.load(load, "calls").args(words))?;
                ensure!(line["refused"] == 0, "the authority refused calls: {line}");
                calls.push(line);
            } else {
                in_process.push(told(Command::new(load).args([
                    "in-process",
                    "--seconds",
                    &seconds,
                ]))?);
            }
        }
    }
    run::say("handshakes");
    let hands = told(authority.load(load, "handshakes").args(["--seconds", &seconds]))?;
    let all = |lines: &[Value], figure: fn(&Value) -> Option<f64>| -> Result<Vec<f64>> {
        lines
            .iter()
            .map(|line| figure(line).with_context(|| format!("no number: {line}")))
            .collect()
    };
    let per_core = all(&calls, |line| Some(number(line, "answered")? / watched(line)?))?;
    let own = all(&in_process, |line| Some(number(line, "made")? / number(line, "cpu_s")?))?;
    let ratios = per_core.iter().zip(&own).map(|(called, own)| called / own).collect();
    Ok(Figures {
        grpc_per_core: median(per_core),
        grpc_per_s: median(all(&calls, |l| Some(number(l, "answered")? / number(l, "seconds")?))?),
        in_process_per_core: median(own),
        ratio: median(ratios),
        p50_us: median(all(&calls, |line| number(line, "p50_us"))?),
        p99_us: median(all(&calls, |line| number(line, "p99_us"))?),
        // Two ends in each.
        handshake_cpu_us: number(&hands, "cpu_s")
            .zip(number(&hands, "handshakes"))
            .map(|(cpu, count)| cpu * 1e6 / count / 2.0)
            .with_context(|| format!("no handshakes: {hands}"))?,
        new_pods_ms: new_pods(culvert, arguments.pods)?,
    })
}

/// Milliseconds from an agent's learning of a pod to its certificate, sorted.
fn new_pods(culvert: &Path, count: u16) -> Result<Vec<f64>> {
    run::say(format!("{count} pods that come one by one"));
    let id = format!("bench-ca-{}", std::process::id());
    let interrupt = interrupt::clean_up(&id)?;
    let outcome = (|| {
        let mut lab = Lab::builder().named(&id).culvert(culvert.to_owned()).standard().start()?;
        let mut took = Vec::new();
        for number in 0..count {
            let name = format!("new{number}");
            lab.add_pod(PodSpec::new(&name, NodeId::Node1).service_account(&name))?;
            let issued = format!("identity=spiffe://cluster.local/ns/default/sa/{name} ");
            let line = lab.agent(NodeId::Node1)?.wait_for(&issued, SOON)?;
            took.push(waited(&line).with_context(|| format!("no time in `{line}`"))?);
        }
        took.sort_unstable_by(f64::total_cmp);
        Ok(took)
    })();
    // While the lab is being taken down because of Ctrl-C, what failed here failed because of it.
    interrupt.wait_if_raised();
    outcome
}

/// `waited_us` of the agent's line, in milliseconds.
fn waited(line: &str) -> Option<f64> {
    let number = line.split_once("waited_us=")?.1.split_whitespace().next()?;
    Some(number.parse::<f64>().ok()? / 1e3)
}

pub(super) fn number(line: &Value, key: &str) -> Option<f64> {
    line[key].as_f64()
}

fn watched(line: &Value) -> Option<f64> {
    line["watched_cpu_s"][0].as_f64()
}

pub(super) fn told(command: &mut Command) -> Result<Value> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "`{}` ended with {}", run::shown(command), output.status);
    serde_json::from_slice(&output.stdout).context("the load told no JSON")
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The time that `share` of 100 do not exceed.
fn share(sorted: &[f64], share: usize) -> f64 {
    sorted.get((sorted.len() * share / 100).min(sorted.len() - 1)).copied().unwrap_or(f64::NAN)
}

fn table(figures: &Figures, arguments: &Arguments) -> String {
    let mut text = format!(
        "\n   {} repeats of {} s each, taking turns; medians; rates for each CPU second of the \
         authority\n\n",
        arguments.repeats, arguments.seconds
    );
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "   {name:<44} {value}"); // writing to a String does not fail
    };
    row("requests answered over gRPC, 64 callers", format!("{:.0} /s", figures.grpc_per_core));
    row("the same work in process", format!("{:.0} /s", figures.in_process_per_core));
    row("ratio", format!("{:.2}", figures.ratio));
    row(
        "answered by the clock, callers on the same cores",
        format!("{:.0} /s", figures.grpc_per_s),
    );
    row("time of a call, p50, p99", format!("{:.0}, {:.0} µs", figures.p50_us, figures.p99_us));
    row("handshake, CPU time of each end", format!("{:.0} µs", figures.handshake_cpu_us));
    let pods = &figures.new_pods_ms;
    row(
        "new pod to its certificate, p50, p99, most",
        format!("{:.1}, {:.1}, {:.1} ms", share(pods, 50), share(pods, 99), share(pods, 100)),
    );
    text
}

fn json(figures: &Figures) -> Value {
    let pods = &figures.new_pods_ms;
    json!({ "ca": {
        "grpc_per_core": figures.grpc_per_core,
        "grpc_ratio": figures.ratio,
        "grpc_per_s": figures.grpc_per_s,
        "grpc_p50_us": figures.p50_us,
        "grpc_p99_us": figures.p99_us,
        "in_process_per_core": figures.in_process_per_core,
        "handshake_cpu_us": figures.handshake_cpu_us,
        "new_pod_certificate_p50_ms": share(pods, 50),
        "new_pod_certificate_p99_ms": share(pods, 99),
        "new_pod_certificate_max_ms": share(pods, 100),
    }})
}

/// An authority of this run's own, on loopback.
struct Authority {
    child: Child,
    address: SocketAddr,
    directory: tempfile::TempDir,
}

impl Authority {
    fn start(culvert: &Path) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let keys = directory.path().join("ca").display().to_string();
        let workloads = directory.path().join("workloads.yaml");
        fs::write(&workloads, workloads_text())?;
        for number in 0..CALLERS {
            let token = directory.path().join(format!("node{number}.token"));
            let node = format!("node{number}");
            let words = ["ca", "token", "create", &node, "--dir", &keys, "--output"];
            let mut command = Command::new(culvert);
            let status = command.args(words).arg(&token).stdout(Stdio::null()).status()?;
            ensure!(status.success(), "`{}` ended with {status}", run::shown(&command));
        }
        let address = free_address()?;
        let child = Command::new(culvert)
            .args(["ca", "serve", "--dir", &keys, "--listen", &address.to_string()])
            .args(["--san", "localhost", "--log", "warn", "--workloads"])
            .arg(&workloads)
            // An audit line a call, as in production; to nowhere, so that no disk is measured.
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("could not start {}", culvert.display()))?;
        let mut authority = Self { child, address, directory };
        authority.wait()?;
        Ok(authority)
    }

    /// Until it accepts connections.
    fn wait(&mut self) -> Result<()> {
        let begun = Instant::now();
        while std::net::TcpStream::connect(self.address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("the authority ended with {status}");
            }
            ensure!(begun.elapsed() < START, "the authority does not listen on {}", self.address);
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn load(&self, load: &Path, kind: &str) -> Command {
        let mut command = Command::new(load);
        command
            .args([kind, "--address", &self.address.to_string(), "--tokens"])
            .arg(self.directory.path())
            .arg("--root")
            .arg(self.directory.path().join("ca/root-cert.pem"));
        command
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        // It has ended already, or ends now; there is nobody left to be told otherwise.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn workloads_text() -> String {
    (0..CALLERS).fold("workloads:\n".to_owned(), |text, number| {
        text + &format!(
            "  - {{name: w{number}, namespace: bench, serviceAccount: node{number}, \
             node: node{number}, addresses: [10.0.0.{number}]}}\n"
        )
    })
}

/// An address of loopback that nobody listens on now.
fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free")?;
    Ok(listener.local_addr()?)
}

#[cfg(test)]
mod tests {
    use super::{median, share, waited};

    #[test]
    fn shares_and_medians_are_of_what_was_measured() {
        let sorted: Vec<f64> = (1..=100).map(f64::from).collect();
        assert!((share(&sorted, 99) - 100.0).abs() < f64::EPSILON);
        assert!((share(&[7.0], 99) - 7.0).abs() < f64::EPSILON);
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
    }

    #[test]
    fn time_is_read_from_the_agents_line() {
        let line = "INFO svid issued identity=x waited_us=1500 renewal=false";
        assert_eq!(waited(line), Some(1.5));
        assert_eq!(waited("INFO svid issued identity=x"), None);
    }
}
