//! The applications of the scenarios: servers and clients that know nothing of a mesh and tell
//! exactly what they saw, one JSON object a line.
//!
//! Servers print `listening ADDRESS` first and run until they are ended; clients print one line
//! and end with status 0 when all went as an application expects, else 1.
#![forbid(unsafe_code)]

mod client;
mod crowd;
mod pattern;
mod report;
mod server;
mod socket;
mod steady;
mod udp;

use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Parser)]
#[command(name = "culvert-testapp", about, long_about = None)]
struct Arguments {
    #[command(subcommand)]
    mode: Mode,
}

/// Where a server listens.
#[derive(Args, Clone)]
struct Listen {
    /// Address and port; `[::]:80` takes IPv4 too.
    #[arg(long)]
    listen: SocketAddr,
}

/// Where a client connects to, and from where.
#[derive(Args, Clone)]
pub(crate) struct Target {
    /// Address and port; `[::ffff:10.11.2.2]:80` makes an IPv6 socket.
    #[arg(long)]
    pub(crate) to: SocketAddr,
    /// Source address to bind first; port 0 lets the kernel choose.
    #[arg(long)]
    pub(crate) bind: Option<SocketAddr>,
    /// Device that the socket is bound to before it connects (`SO_BINDTODEVICE`).
    #[arg(long)]
    pub(crate) device: Option<String>,
    /// Connects by sending a first byte (`MSG_FASTOPEN`), which the server of `echo` sends back.
    #[arg(long)]
    pub(crate) fast_open: bool,
    /// A multipath TCP socket.
    #[arg(long)]
    pub(crate) multipath: bool,
    /// Connects the same socket there first: goes on after a failure, and after a success takes
    /// the connection back (`AF_UNSPEC`).
    #[arg(long)]
    pub(crate) first: Option<SocketAddr>,
    /// Seconds without progress after which the client gives up.
    #[arg(long, default_value_t = 60)]
    pub(crate) patience: u64,
}

#[derive(Subcommand)]
enum Mode {
    /// Server: sends back what comes; a half-close of the client is answered by one.
    Echo(Listen),
    /// Server: tells each client `{"peer", "local"}` as it sees them, then echoes.
    Serve(Listen),
    /// Server: reads to the end; prints `{"peer", "bytes", "matches", "end"}` for each connection.
    Sink(Listen),
    /// Server: sends BYTES of the pattern, closes its side, reads to the end; prints as `sink`.
    Source {
        #[command(flatten)]
        at: Listen,
        /// How much it sends.
        #[arg(long)]
        bytes: u64,
    },
    /// Server: sends BYTES while it reads to the end; the other side of `transfer`.
    Exchange {
        #[command(flatten)]
        at: Listen,
        /// How much it sends.
        #[arg(long)]
        bytes: u64,
    },
    /// Server: reads to the end, and only then sends BYTES of the pattern; prints as `sink`.
    Answer {
        #[command(flatten)]
        at: Listen,
        /// How much it sends.
        #[arg(long)]
        bytes: u64,
    },
    /// Server: reads BYTES, sends them back, and resets the connection.
    Resetting {
        #[command(flatten)]
        at: Listen,
        /// How much it reads first.
        #[arg(long)]
        bytes: u64,
    },
    /// Server: accepts and reads nothing, ever.
    NeverRead(Listen),
    /// Server: reads at most RATE bytes a second; prints as `sink`.
    SlowReader {
        #[command(flatten)]
        at: Listen,
        /// Bytes a second.
        #[arg(long)]
        rate: u64,
    },
    /// Client: connects, and prints `{"peer", "local", "saw", "echoed"}` or `{"error", "errno"}`.
    Talk {
        #[command(flatten)]
        target: Target,
        /// Reads a `serve` line first.
        #[arg(long)]
        line: bool,
        /// What is sent and expected back.
        #[arg(long, default_value = "hello")]
        send: String,
        /// Connects without blocking, waits with poll, and asks for `SO_ERROR`.
        #[arg(long)]
        nonblocking: bool,
        /// Only connects.
        #[arg(long)]
        only_connect: bool,
    },
    /// Client of `exchange`: both ways at once; `{"sent", "received", "matches", "end", "ms"}`.
    Transfer {
        #[command(flatten)]
        target: Target,
        /// How much it sends.
        #[arg(long)]
        bytes: u64,
        /// How much it expects.
        #[arg(long)]
        expect: u64,
    },
    /// Client of `echo`: sends BYTES, closes its side, then reads them all back.
    HalfClose {
        #[command(flatten)]
        target: Target,
        /// How much it sends.
        #[arg(long)]
        bytes: u64,
    },
    /// Client of `source`: reads to the end, and only then sends BYTES.
    ReadThenWrite {
        #[command(flatten)]
        target: Target,
        /// How much it sends.
        #[arg(long)]
        bytes: u64,
    },
    /// Client of `source`: reads at most RATE bytes a second.
    ReadSlowly {
        #[command(flatten)]
        target: Target,
        /// Bytes a second.
        #[arg(long)]
        rate: u64,
        /// Ends after so many bytes; else at the end of the stream.
        #[arg(long)]
        bytes: Option<u64>,
    },
    /// Client: sends until nothing goes for a second; prints `{"stalled": BYTES}`, and holds on
    /// until its standard input ends, or with `--to-the-end` the connection, and prints how.
    Stall {
        #[command(flatten)]
        target: Target,
        /// Waits for the end of the connection.
        #[arg(long)]
        to_the_end: bool,
    },
    /// Client: sends BYTES and resets the connection.
    Reset {
        #[command(flatten)]
        target: Target,
        /// How much it sends first.
        #[arg(long, default_value_t = 0)]
        bytes: u64,
        /// Reads as much back before it resets: then the server has surely seen it.
        #[arg(long)]
        answered: bool,
    },
    /// Client of `sink` or `echo`: waits for the other side to end; prints how it ended.
    WaitEnd {
        #[command(flatten)]
        target: Target,
        /// How much it sends first.
        #[arg(long, default_value_t = 0)]
        bytes: u64,
    },
    /// Client of `echo`: opens COUNT connections, checks each, prints `{"held", "failed"}`; when
    /// its standard input ends it checks each again, prints the same, and closes.
    Hold {
        #[command(flatten)]
        target: Target,
        /// How many.
        #[arg(long)]
        count: usize,
        /// How many are opened at a time.
        #[arg(long, default_value_t = 16)]
        parallel: usize,
    },
    /// Client of `echo`: COUNT times connect, send, receive, close; `{"ok", "failed", "errors"}`.
    Short {
        #[command(flatten)]
        target: Target,
        /// How many.
        #[arg(long)]
        count: usize,
        /// How many at a time.
        #[arg(long, default_value_t = 8)]
        parallel: usize,
        /// Goes on until its standard input ends instead of COUNT times.
        #[arg(long)]
        until_stdin_ends: bool,
    },
    /// Client of `echo`: requests on one connection until standard input ends (or COUNT);
    /// `{"ok", "failed", "longest_ms"}`.
    Ping {
        #[command(flatten)]
        target: Target,
        /// Ends after so many.
        #[arg(long)]
        count: Option<u64>,
        /// Milliseconds between two requests.
        #[arg(long, default_value_t = 0)]
        every_ms: u64,
    },
    /// Client of `echo` that goes on whatever happens: each round a new connection, and a request
    /// on each of those kept; prints every second how it went so far.
    Steady {
        #[command(flatten)]
        target: Target,
        /// Connections that are kept.
        #[arg(long, default_value_t = 0)]
        kept: usize,
        /// Milliseconds from one round to the next.
        #[arg(long, default_value_t = 100)]
        every_ms: u64,
        /// Ends after so many rounds.
        #[arg(long)]
        rounds: Option<u64>,
    },
    /// UDP server: sends back each datagram.
    UdpEcho(Listen),
    /// UDP client: COUNT datagrams, each awaited; `{"ok", "failed", "peer"}`.
    Udp {
        #[command(flatten)]
        target: Target,
        /// How many.
        #[arg(long, default_value_t = 1)]
        count: usize,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().mode {
        Mode::Echo(at) => server::run(at.listen, server::echo),
        Mode::Serve(at) => server::run(at.listen, server::serve),
        Mode::Sink(at) => server::run(at.listen, |stream| server::sink(stream, None)),
        Mode::SlowReader { at, rate } => {
            server::run(at.listen, move |stream| server::sink(stream, Some(rate)))
        }
        Mode::Source { at, bytes } => {
            server::run(at.listen, move |stream| server::source(stream, bytes))
        }
        Mode::Exchange { at, bytes } => {
            server::run(at.listen, move |stream| server::exchange(stream, bytes))
        }
        Mode::Answer { at, bytes } => {
            server::run(at.listen, move |stream| server::answer(stream, bytes))
        }
        Mode::Resetting { at, bytes } => {
            server::run(at.listen, move |stream| server::resetting(stream, bytes))
        }
        Mode::NeverRead(at) => server::never_read(at.listen),
        Mode::Talk { target, line, send, nonblocking, only_connect } => {
            let wish = client::Wish { line, send, nonblocking, only_connect };
            client::talk(&target, &wish)
        }
        Mode::Transfer { target, bytes, expect } => client::transfer(&target, bytes, expect),
        Mode::HalfClose { target, bytes } => client::half_close(&target, bytes),
        Mode::ReadThenWrite { target, bytes } => client::read_then_write(&target, bytes),
        Mode::ReadSlowly { target, rate, bytes } => client::read_slowly(&target, rate, bytes),
        Mode::Stall { target, to_the_end } => client::stall(&target, to_the_end),
        Mode::Reset { target, bytes, answered } => client::reset(&target, bytes, answered),
        Mode::WaitEnd { target, bytes } => client::wait_end(&target, bytes),
        Mode::Hold { target, count, parallel } => crowd::hold(&target, count, parallel),
        Mode::Short { target, count, parallel, until_stdin_ends } => {
            Ok(crowd::short(&target, (!until_stdin_ends).then_some(count), parallel))
        }
        Mode::Ping { target, count, every_ms } => crowd::ping(&target, count, every_ms),
        Mode::Steady { target, kept, every_ms, rounds } => {
            let every = Duration::from_millis(every_ms);
            Ok(steady::run(&target, &steady::Work { kept, every, rounds }))
        }
        Mode::UdpEcho(at) => udp::echo(at.listen),
        Mode::Udp { target, count } => udp::client(&target, count),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            report::line(&report::error(&error));
            ExitCode::FAILURE
        }
    }
}
