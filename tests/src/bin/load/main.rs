//! The load of `cargo xtask bench`: servers and clients that do as little as possible besides
//! sending, and measure one piece of work exactly.
//!
//! A client prints one JSON line: what was done, in how long, how long single requests took, and
//! the CPU time that the system and the watched processes spent on it meanwhile.
#![forbid(unsafe_code)]

mod bulk;
mod client;
mod http;
mod latency;
mod requests;
mod server;
mod spin;

use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Parser)]
#[command(name = "culvert-load", about, long_about = None)]
struct Arguments {
    #[command(subcommand)]
    mode: Mode,
}

/// What every measurement is told.
#[derive(Args, Clone)]
pub(crate) struct Work {
    /// How long, in seconds.
    #[arg(long, default_value_t = 3.0)]
    pub(crate) seconds: f64,
    /// Processes whose CPU time is told apart; in this order in `watched_cpu_s`.
    #[arg(long)]
    pub(crate) watch: Vec<u32>,
}

impl Work {
    /// How long, as a duration; what is no duration counts as none.
    pub(crate) fn time(&self) -> Duration {
        Duration::try_from_secs_f64(self.seconds).unwrap_or_default()
    }
}

#[derive(Subcommand)]
enum Mode {
    /// Server of all clients: an echo, and a sink that answers with how many bytes it took.
    Serve {
        /// Where it echoes.
        #[arg(long)]
        echo: SocketAddr,
        /// Where it takes bytes.
        #[arg(long)]
        sink: SocketAddr,
        /// Where it answers HTTP/1.1.
        #[arg(long)]
        http: Option<SocketAddr>,
    },
    /// Sends as fast as it can; counts what the sink has acknowledged at the end.
    Bulk {
        /// The sink.
        #[arg(long)]
        to: SocketAddr,
        /// Streams at a time.
        #[arg(long, default_value_t = 1)]
        streams: usize,
        #[command(flatten)]
        work: Work,
    },
    /// Requests and answers in a closed loop on connections that are kept.
    PingPong {
        /// The echo.
        #[arg(long)]
        to: SocketAddr,
        /// Connections at a time.
        #[arg(long, default_value_t = 1)]
        connections: usize,
        /// Bytes of a request and of its answer.
        #[arg(long, default_value_t = 64)]
        size: usize,
        #[command(flatten)]
        work: Work,
    },
    /// The same with requests and answers of HTTP/1.1.
    Http {
        /// The server of HTTP/1.1.
        #[arg(long)]
        to: SocketAddr,
        /// Connections at a time.
        #[arg(long, default_value_t = 1)]
        connections: usize,
        /// Bytes of the answer's body.
        #[arg(long, default_value_t = 64)]
        size: usize,
        #[command(flatten)]
        work: Work,
    },
    /// Connects, sends one request, reads one answer, closes; again and again.
    Connect {
        /// The echo.
        #[arg(long)]
        to: SocketAddr,
        /// Clients at a time.
        #[arg(long, default_value_t = 1)]
        clients: usize,
        /// Bytes of the request and of its answer.
        #[arg(long, default_value_t = 64)]
        size: usize,
        #[command(flatten)]
        work: Work,
    },
    /// Does nothing: what the machine is busy with anyway.
    Rest {
        #[command(flatten)]
        work: Work,
    },
    /// Keeps every core awake until its standard input ends; to be run under `SCHED_IDLE`.
    Spin,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().mode {
        Mode::Serve { echo, sink, http } => server::run(echo, sink, http),
        Mode::Bulk { to, streams, work } => bulk::run(to, streams, &work),
        Mode::PingPong { to, connections, size, work } => {
            let request = vec![0x5a; size];
            requests::on_kept_connections(to, connections, &request, size, &work)
        }
        Mode::Http { to, connections, size, work } => {
            let (request, answer) = (http::request(size), http::answer(size).len());
            requests::on_kept_connections(to, connections, &request, answer, &work)
        }
        Mode::Connect { to, clients, size, work } => {
            requests::on_new_connections(to, clients, size, &work)
        }
        Mode::Rest { work } => client::rest(&work),
        Mode::Spin => spin::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
