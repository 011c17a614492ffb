//! `culvert-ca-load`: the load of `cargo xtask bench ca`. Prints one JSON line.
//!
//! ```text
//!  in-process   request::read ─▶ Authority::issue            one thread, no network
//!  calls        64 callers ══ gRPC over TLS ══▶ culvert ca   the same work, asked for
//!  handshakes   Svid ◀══ mutual TLS ══▶ Svid                 both ends on one thread
//! ```
#![forbid(unsafe_code)]

mod calls;
mod csr;
mod handshakes;
mod in_process;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use culvert_spiffe::TrustDomain;

/// Load for the authority and for identities.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    load: Load,
}

#[derive(Subcommand)]
enum Load {
    /// Check requests and make certificates on one thread.
    InProcess {
        /// How long.
        #[arg(long)]
        seconds: u32,
    },
    /// Ask a running authority.
    Calls {
        #[command(flatten)]
        authority: Authority,
        /// Callers, each with a connection and a node of its own.
        #[arg(long, default_value = "64")]
        callers: u8,
        /// Process of the authority, whose CPU time is counted.
        #[arg(long)]
        watch: u32,
        /// How long.
        #[arg(long)]
        seconds: u32,
    },
    /// Shake hands, both ends on one thread, with certificates of a running authority.
    Handshakes {
        #[command(flatten)]
        authority: Authority,
        /// How long.
        #[arg(long)]
        seconds: u32,
    },
}

/// A running authority. Its workloads run on nodes `node0`, `node1`, …, as
/// `spiffe://<trust domain>/ns/bench/sa/node<N>` each.
#[derive(Args)]
struct Authority {
    /// Where it listens.
    #[arg(long)]
    address: SocketAddr,
    /// Its root-cert.pem.
    #[arg(long)]
    root: PathBuf,
    /// Directory of the node tokens, `node<N>.token`.
    #[arg(long)]
    tokens: PathBuf,
    /// Its trust domain.
    #[arg(long, default_value = "cluster.local")]
    trust_domain: TrustDomain,
}

fn main() -> anyhow::Result<()> {
    let line = match Arguments::parse().load {
        Load::InProcess { seconds } => in_process::run(length(seconds))?,
        Load::Calls { authority, callers, watch, seconds } => {
            calls::run(&authority, callers, watch, length(seconds))?
        }
        Load::Handshakes { authority, seconds } => handshakes::run(&authority, length(seconds))?,
    };
    println!("{line}");
    Ok(())
}

fn length(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}
