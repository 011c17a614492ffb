//! A caller of the Workload API that does what no client library does: leaves the header out, asks
//! for others' identities, opens too much, hands its connection on.
//!
//! Prints one JSON object a line. A refusal is a result here, with its `code`, not a failure.
#![forbid(unsafe_code)]

mod calls;
mod hand_over;
mod many;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use serde_json::Value;

#[derive(Parser)]
#[command(name = "culvert-caller", about, long_about = None)]
struct Arguments {
    #[command(subcommand)]
    mode: Mode,
}

/// Where the socket is, and what every call carries.
#[derive(Args, Clone)]
pub(crate) struct Target {
    /// The socket.
    #[arg(long)]
    pub(crate) socket: PathBuf,
    /// Values of the security header, one each; without any it has the right one.
    #[arg(long)]
    pub(crate) header: Vec<String>,
    /// Leaves the security header out.
    #[arg(long)]
    pub(crate) no_header: bool,
}

#[derive(Subcommand)]
enum Mode {
    /// Follows X509-SVIDs: a line for each message, and one with the code that ends them.
    X509(Target),
    /// Asks for a JWT-SVID.
    Jwt {
        #[command(flatten)]
        target: Target,
        #[arg(long)]
        audience: Vec<String>,
        /// Of whom; empty for the own.
        #[arg(long, default_value = "")]
        id: String,
    },
    /// Asks whether a token holds.
    Validate {
        #[command(flatten)]
        target: Target,
        #[arg(long, default_value = "")]
        audience: String,
        #[arg(long, default_value = "")]
        token: String,
    },
    /// Calls a method of the WIT profile.
    Wit(Target),
    /// Opens streams, tells how many were let in, and holds them until standard input ends.
    Streams {
        #[command(flatten)]
        target: Target,
        #[arg(long)]
        count: usize,
    },
    /// Opens connections with a call on each, tells how many were served, and holds them.
    Connections {
        #[command(flatten)]
        target: Target,
        #[arg(long)]
        count: usize,
    },
    /// Connects, says nothing, and tells when the other end closes.
    Silent(Target),
    /// Connects, gives the connection to a child and ends when standard input does; the child
    /// follows X509-SVIDs on it.
    HandOver(Target),
    /// The child of `hand-over`: standard input is the connection.
    Adopt(Target),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .and_then(|runtime| {
            let outcome = runtime.block_on(run(arguments.mode));
            // A read of standard input may stand for ever.
            runtime.shutdown_background();
            outcome
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&serde_json::json!({"error": format!("{error:#}")}));
            ExitCode::FAILURE
        }
    }
}

async fn run(mode: Mode) -> Result<()> {
    match mode {
        Mode::X509(target) => calls::x509(&mut calls::client(&target)?, &target).await,
        Mode::Jwt { target, audience, id } => calls::jwt(&target, audience, id).await,
        Mode::Validate { target, audience, token } => {
            calls::validate(&target, audience, token).await
        }
        Mode::Wit(target) => calls::wit(&target).await,
        Mode::Streams { target, count } => many::streams(&target, count).await,
        Mode::Connections { target, count } => many::connections(&target, count).await,
        Mode::Silent(target) => many::silent(&target).await,
        Mode::HandOver(target) => hand_over::give(&target),
        Mode::Adopt(target) => hand_over::take(&target).await,
    }
}

pub(crate) fn tell(line: &Value) {
    println!("{line}");
}

/// Ends when standard input does.
pub(crate) async fn stdin_end() {
    let read = || std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    // However it ends, it has ended.
    let _ = tokio::task::spawn_blocking(read).await;
}
