//! Commands that ask the agent of this node over its admin socket.
//!
//! ```text
//!  culvert certs                    a table, or JSON
//!  culvert certs show ID [--root]   PEM, to be piped into openssl
//!  culvert certs export ID --dir D  cert-chain.pem, key.pem, root-cert.pem
//! ```

mod client;
mod error;
mod export;
mod start;
mod table;

use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use time::OffsetDateTime;

use self::client::Client;
pub use self::error::CliError;
pub use self::start::{control_runtime, start_log};
use crate::config::{Config, DEFAULT_ADMIN_SOCKET};

/// `culvert certs`.
#[derive(Args)]
pub struct Certificates {
    /// The agent's admin socket [default: that of --config, or /run/culvert/admin.sock]
    #[arg(long, global = true)]
    socket: Option<PathBuf>,
    /// The agent's configuration, to read the place of its socket from.
    #[arg(long, global = true, conflicts_with = "socket")]
    config: Option<PathBuf>,
    /// Form of the list.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(subcommand)]
    action: Option<Action>,
}

/// Form of the list.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Columns for people.
    Table,
    /// What the agent answered, for programs.
    Json,
}

#[derive(Subcommand)]
enum Action {
    /// Print a certificate with what issued it, PEM, leaf first.
    Show {
        /// A SPIFFE ID, or NAMESPACE/SERVICE-ACCOUNT.
        #[arg(required_unless_present = "root")]
        id: Option<String>,
        /// Print the root certificates instead.
        #[arg(long)]
        root: bool,
    },
    /// Write certificate chain, PRIVATE KEY and roots to files.
    Export {
        /// A SPIFFE ID, or NAMESPACE/SERVICE-ACCOUNT.
        id: String,
        /// Directory for cert-chain.pem, key.pem and root-cert.pem; made if it is not there.
        #[arg(long)]
        dir: PathBuf,
        /// Replace files of these names that are there already.
        #[arg(long)]
        force: bool,
    },
}

/// Runs `culvert certs`: asks the agent, and prints or writes what it says.
///
/// # Errors
/// The agent cannot be asked, refuses, or a file cannot be written.
pub fn certificates(command: Certificates) -> Result<(), CliError> {
    let socket = match (command.socket, command.config) {
        (Some(socket), _) => socket,
        (None, Some(config)) => Config::load(&config)?.admin.socket,
        (None, None) => DEFAULT_ADMIN_SOCKET.into(),
    };
    let client = Client::new(socket)?;
    match command.action {
        None if command.output == Output::Json => print(&client.identities_json()?),
        None => print(&table::render(&client.identities()?, OffsetDateTime::now_utc())),
        Some(Action::Show { root: true, .. }) => print(&client.roots()?),
        Some(Action::Show { id, root: false }) => print(&client.chain(&id.unwrap_or_default())?),
        Some(Action::Export { id, dir, force }) => {
            // Before the key is asked for: a refusal costs no export.
            export::check(&dir, force)?;
            let export = client.export(&id)?;
            export::write(&dir, &export, force)?;
            eprintln!(
                "culvert: WARNING: {} now holds the private key of {}: who reads it can be this \
                 workload until {}. Remove it when it has served.",
                dir.join(export::KEY).display(),
                export.id,
                export.not_after
            );
            Ok(())
        }
    }
}

/// Like `print!`, but a reader that has seen enough is no error.
fn print(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(CliError::Print(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}
