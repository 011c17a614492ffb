//! `culvert certs`: the certificates that agents hold.
//!
//! ```text
//!  culvert certs                    a table, JSON or YAML
//!  culvert certs show ID [--root]   PEM, to be piped into openssl
//!  culvert certs export ID --dir D  cert-chain.pem, key.pem, root-cert.pem
//! ```

mod export;
mod table;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::context::Context;
use super::error::CliError;
use super::exit::Exit;
use super::output::print;
use super::show::Asked;
use super::transport::{Answers, Ask, Transport};
use crate::admin::model::{Export, Identities};

/// `culvert certs`.
#[derive(Args)]
pub(super) struct Certificates {
    #[command(flatten)]
    asked: Asked,
    #[command(subcommand)]
    action: Option<Action>,
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
    /// Write certificate chain, PRIVATE KEY and roots to files; on the agent's own node only.
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

/// Runs `culvert certs`: asks the agents, and prints or writes what they say.
///
/// # Errors
/// No agent can be asked, one alone refuses, or a file cannot be written.
pub(super) fn run(command: Certificates, context: &Context) -> Result<Exit, CliError> {
    let transport = || command.asked.transport(context);
    match command.action {
        None => list(&command.asked, &transport()?),
        Some(Action::Show { root: true, .. }) => first(&transport()?, "/roots"),
        Some(Action::Show { id, root: false }) => {
            first(&transport()?, &format!("/certs/{}", id.unwrap_or_default()))
        }
        Some(Action::Export { id, dir, force }) => {
            // Before the key is asked for: a refusal costs no export.
            export::check(&dir, force)?;
            export(&transport()?, &id, &dir, force)
        }
    }
}

fn list(asked: &Asked, transport: &Transport) -> Result<Exit, CliError> {
    asked.show(transport, "/certs", |answers: &Answers<Identities>, colours| {
        let all: Vec<_> = answers.values().collect();
        table::render(&all, answers.fleet, OffsetDateTime::now_utc(), colours)
    })
}

/// Prints what the first agent says that has it: a certificate is on the nodes of its workloads.
fn first(transport: &Transport, path: &str) -> Result<Exit, CliError> {
    let answers = transport.text(&Ask::get(path));
    if let Some(found) = answers.good.first() {
        print(&found.answer)?;
        return Ok(Exit::Done);
    }
    none_has_it(answers)
}

fn export(
    transport: &Transport,
    id: &str,
    dir: &std::path::Path,
    force: bool,
) -> Result<Exit, CliError> {
    let mut answers: Answers<Export> = transport.ask(&Ask::post(format!("/certs/{id}/export")));
    let Some(found) = answers.good.pop() else {
        return none_has_it(answers.map(|_| Zeroizing::new(String::new())));
    };
    let export = found.answer;
    export::write(dir, &export, force)?;
    eprintln!(
        "culvert: WARNING: {} now holds the private key of {}: who reads it can be this workload \
         until {}. Remove it when it has served.",
        dir.join(export::KEY).display(),
        export.id,
        export.not_after
    );
    Ok(Exit::Done)
}

/// The refusals of agents that all have none.
fn none_has_it(mut answers: Answers<Zeroizing<String>>) -> Result<Exit, CliError> {
    // With a single agent this is its error.
    answers.complete()?;
    Ok(Exit::Incomplete)
}
