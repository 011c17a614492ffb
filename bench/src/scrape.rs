//! `culvert-scrape-load`: the load of `cargo xtask bench observe`. Prints one JSON line.
//!
//! ```text
//!  main    GET /metrics ══ HTTP ══▶ Server ──▶ Metrics ◀── open, count, close    worker
//! ```
//!
//! The server, the metrics and the flows are the agent's own. Nobody reads the access log, so no
//! line of it is written.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Parser;
use culvert_agent::observe::{
    FlowLabels, Metrics, Party, Path, Reason, Reporter, Routes, Security, SeriesSettings, Server,
    ServiceName,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// What is measured.
#[derive(Parser)]
struct Arguments {
    /// Sets of labels that flows were counted under; each is four lines of a scrape.
    #[arg(long)]
    sets: usize,
    /// How often all are scraped.
    #[arg(long)]
    repeats: u32,
}

/// How long flows are measured while nobody scrapes.
const QUIET: Duration = Duration::from_secs(2);
/// One flow in so many is the first of its set of labels.
const NEW_EVERY: usize = 5_000;
/// At most so many are, so that a scrape stays what it was.
const NEW: usize = 200;
/// Peers that each workload has.
const PEERS: usize = 100;
/// What a flow carries in each direction.
const CHUNK: [u8; 256] = [0; 256];
/// Bytes that are taken from the connection at once.
const READ: usize = 1 << 18;

fn main() -> anyhow::Result<()> {
    let Arguments { sets, repeats } = Arguments::parse();
    let metrics = Metrics::new()?;
    let cluster = Some("Kubernetes".to_owned());
    metrics.set_series(SeriesSettings { most: sets + 2 * NEW, cluster });
    let all = (0..sets).map(labels).collect::<anyhow::Result<Vec<_>>>()?;
    let new = (sets..sets + 2 * NEW).map(labels).collect::<anyhow::Result<Vec<_>>>()?;
    let (idle_new, busy_new) = new.split_at(NEW);
    all.iter().for_each(|labels| flow(&metrics, labels));

    let begun = Instant::now();
    let quiet = flows(&metrics, &all, idle_new, || begun.elapsed() >= QUIET);
    let scrapes = Scrapes::start(&metrics)?;
    let done = AtomicBool::new(false);
    let (busy, taken) = thread::scope(|scope| {
        let worker =
            scope.spawn(|| flows(&metrics, &all, busy_new, || done.load(Ordering::Relaxed)));
        let taken = (0..repeats).map(|_| scrapes.take()).collect::<anyhow::Result<Vec<_>>>();
        done.store(true, Ordering::Relaxed);
        let busy = worker.join().map_err(|_| anyhow::anyhow!("the worker panicked"))?;
        anyhow::Ok((busy, taken?))
    })?;
    println!("{}", told(&all, &taken, quiet, busy)?);
    Ok(())
}

fn told(
    all: &[FlowLabels],
    taken: &[Scrape],
    quiet: Vec<u64>,
    busy: Vec<u64>,
) -> anyhow::Result<Value> {
    let first = taken.first().context("nothing was scraped")?;
    ensure!(first.lines >= 4 * all.len(), "only {} lines came", first.lines);
    let mut times: Vec<_> = taken.iter().map(|scrape| nanos(scrape.took)).collect();
    times.sort_unstable();
    Ok(json!({
        "sets": all.len(),
        "lines": first.lines,
        "bytes": first.bytes,
        "scrape_p50_ms": share(&times, 500) / 1e6,
        "scrape_max_ms": share(&times, 1000) / 1e6,
        "quiet": latencies(quiet),
        "scraped": latencies(busy),
    }))
}

/// A flow between two Deployments, one a Service; `number` tells it from all others.
fn labels(number: usize) -> anyhow::Result<FlowLabels> {
    let party = |name: &str, of: usize| {
        let pod = format!("{name}-{of}-6d4b75cb6d-x7k2p");
        let labels = [
            ("pod-template-hash", "6d4b75cb6d".to_owned()),
            ("app", format!("{name}-{of}")),
            ("version", "v1".to_owned()),
        ];
        let labels = labels.map(|(key, value)| (key.to_owned(), value));
        Party::workload("online-boutique", &pod, &BTreeMap::from(labels))
    };
    let id = |name: &str, of: usize| {
        format!("spiffe://cluster.local/ns/online-boutique/sa/{name}-{of}").parse()
    };
    let (near, far) = (number / PEERS, number % PEERS);
    let address = |last: u8, port| SocketAddr::from((Ipv4Addr::new(10, 0, 0, last), port));
    Ok(FlowLabels {
        source: party("frontend", near),
        destination: party("backend", far),
        source_principal: Some(id("frontend", near)?),
        destination_principal: Some(id("backend", far)?),
        service: Some(ServiceName::new("online-boutique", &format!("backend-{far}"))),
        security: Security::MutualTls,
        path: Path::Tunnel,
        hbone_address: Some(address(2, 8080)),
        ..FlowLabels::unknown(Reporter::Source, address(1, 40_000), address(2, 15_008))
    })
}

/// The life of a flow: one lookup of its series when it opens, then only counting.
fn flow(metrics: &Metrics, labels: &FlowLabels) {
    let flow = metrics.open(labels.clone());
    flow.sent(&CHUNK);
    flow.received(&CHUNK);
    flow.close(Reason::Ok, None);
}

/// One flow after the other until `enough`, and how many nanoseconds each took.
fn flows(
    metrics: &Metrics,
    all: &[FlowLabels],
    new: &[FlowLabels],
    enough: impl Fn() -> bool,
) -> Vec<u64> {
    let (mut took, mut new) = (Vec::with_capacity(1 << 23), new.iter());
    for (number, known) in all.iter().cycle().enumerate() {
        if enough() {
            break;
        }
        let labels = if number % NEW_EVERY == 0 { new.next() } else { None };
        let begun = Instant::now();
        flow(metrics, labels.unwrap_or(known));
        took.push(nanos(begun.elapsed()));
    }
    took
}

/// A server of metrics that listens.
struct Scrapes {
    address: SocketAddr,
    // Dropped, it takes the server with it.
    _runtime: tokio::runtime::Runtime,
}

/// What one scrape was.
struct Scrape {
    lines: usize,
    bytes: usize,
    took: Duration,
}

impl Scrapes {
    fn start(metrics: &Metrics) -> anyhow::Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let server = {
            let _inside = runtime.enter();
            Server::bind((Ipv4Addr::LOCALHOST, 0).into(), Routes::Metrics(metrics.clone()))?
        };
        let address = server.address();
        runtime.spawn(server.run(CancellationToken::new()));
        Ok(Self { address, _runtime: runtime })
    }

    /// From the connection to the last byte.
    fn take(&self) -> anyhow::Result<Scrape> {
        let mut answer = Vec::new();
        let mut chunk = vec![0; READ];
        let begun = Instant::now();
        let mut stream = TcpStream::connect(self.address)?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        loop {
            let read = stream.read(&mut chunk)?;
            if read == 0 {
                break;
            }
            answer.extend_from_slice(&chunk[..read]);
        }
        let took = begun.elapsed();
        let text = String::from_utf8(answer)?;
        ensure!(text.starts_with("HTTP/1.1 200"), "{}", text.lines().next().unwrap_or_default());
        let lines = text.lines().filter(|line| line.starts_with("istio_tcp_")).count();
        Ok(Scrape { lines, bytes: text.len(), took })
    }
}

fn latencies(mut nanos: Vec<u64>) -> Value {
    nanos.sort_unstable();
    json!({
        "flows": nanos.len(),
        "p50_us": share(&nanos, 500) / 1e3,
        "p99_us": share(&nanos, 990) / 1e3,
        "p999_us": share(&nanos, 999) / 1e3,
        "max_us": share(&nanos, 1000) / 1e3,
    })
}

/// What `thousandths` of the sorted figures do not exceed.
#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a second are exact in it")]
fn share(sorted: &[u64], thousandths: usize) -> f64 {
    let at = (sorted.len() * thousandths / 1000).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(f64::NAN, |nanos| *nanos as f64)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
