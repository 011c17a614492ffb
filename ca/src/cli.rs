//! `culvert ca …`: what a person types.

use std::fs::File;
use std::io::{BufReader, IsTerminal as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use culvert_spiffe::TrustDomain;
use time::OffsetDateTime;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::attest::NodeTokens;
use crate::audit::chain::{self, Chained};
use crate::authority::{Authority, Lifetimes, Settings};
use crate::directory::{Directory, write_secret};
use crate::duration;
use crate::jwt::JwtKeys;
use crate::placement::PlacementFile;
use crate::profile::ServerName;
use crate::server::{self, Parts};
use crate::store::DirectoryStore;

mod jwt;
mod roots;
mod timing;

use jwt::JwtOptions;
pub(crate) use roots::moment;
use roots::{Named, RotateRoot, Status};
use timing::RootOptions;

/// The certificate authority.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve certificates to nodes; makes the root in --dir when there is none.
    Serve(Box<Serve>),
    /// Tokens by which nodes prove themselves.
    #[command(subcommand)]
    Token(Token),
    /// Show roots, bundle and nodes, and the next step of rotation with what holds it.
    Status(Status),
    /// Put a new root in place of the one in use, without one refused connection.
    RotateRoot(RotateRoot),
    /// Say that a root is compromised: another signs at once, and all certificates are replaced.
    Taint(Named),
    /// Take a compromised root out at once: what rests on it is refused and closed.
    Revoke(Named),
    /// The audit that `serve --audit-chain` wrote.
    #[command(subcommand)]
    Audit(Audit),
}

/// Arguments of `culvert ca serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// Directory of the keys; made when absent, readable by its owner only.
    #[arg(long)]
    dir: PathBuf,
    /// Address to serve on.
    #[arg(long, default_value = "0.0.0.0:15012")]
    listen: SocketAddr,
    /// Trust domain of every identity issued.
    #[arg(long, default_value = "cluster.local")]
    trust_domain: TrustDomain,
    /// The agents' workloads.yaml: says which identities each node may ask for. Followed.
    #[arg(long)]
    workloads: PathBuf,
    /// Host name or address by which clients that check no SPIFFE ID know this server; repeatable.
    #[arg(long = "san")]
    names: Vec<ServerName>,
    /// Life of a certificate for which none is wished.
    #[arg(long, default_value = "24h", value_parser = duration::parse)]
    default_ttl: Duration,
    /// Longest life of a certificate.
    #[arg(long, default_value = "24h", value_parser = duration::parse)]
    max_ttl: Duration,
    /// Shortest life of a certificate.
    #[arg(long, default_value = "10m", value_parser = duration::parse)]
    min_ttl: Duration,
    #[command(flatten)]
    roots: RootOptions,
    #[command(flatten)]
    jwt: JwtOptions,
    /// Address of `/metrics` for Prometheus; none without it.
    #[arg(long)]
    metrics: Option<SocketAddr>,
    /// End each audit line with the SHA-256 of the line before, for `culvert ca audit verify`.
    #[arg(long)]
    audit_chain: bool,
    /// What to log, as `info` or `culvert_ca=debug`; audit lines are always written.
    #[arg(long, default_value = "info")]
    log: EnvFilter,
}

/// `culvert ca token …`
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token for the agent of one node.
    Create(Create),
}

/// `culvert ca audit …`
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Tell whether lines were changed or taken out.
    Verify {
        /// The file that the output of `serve` was written to; `-` is standard input.
        file: PathBuf,
    },
}

/// Arguments of `culvert ca token create`.
#[derive(Debug, Args)]
pub struct Create {
    /// The node, as workloads.yaml names it.
    node: String,
    /// Directory of the authority's keys.
    #[arg(long)]
    dir: PathBuf,
    /// How long the token is good.
    #[arg(long, default_value = "30d", value_parser = duration::parse)]
    ttl: Duration,
    /// File to write it to, for its owner only (0600); standard output without it.
    #[arg(long)]
    output: Option<PathBuf>,
}

/// Runs one command to its end.
///
/// `serve` logs to standard error and writes its audit to standard output, one bare JSON line a
/// decision, unless the caller has set up logging before.
///
/// # Errors
/// Whatever kept the command from its work, as a chain that ends in what to do.
pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(arguments) => run_async(serve(*arguments)),
        Command::Token(Token::Create(arguments)) => create_token(&arguments),
        Command::Status(arguments) => run_async(roots::status(arguments)),
        Command::RotateRoot(arguments) => run_async(roots::rotate(arguments)),
        Command::Taint(arguments) => run_async(roots::taint(arguments)),
        Command::Revoke(arguments) => run_async(roots::revoke(arguments)),
        Command::Audit(Audit::Verify { file }) => verify_audit(&file),
    }
}

fn run_async(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(work)
}

fn start_log(filter: EnvFilter, chain: bool) {
    let audit = fmt::layer().without_time().with_level(false).with_target(false).with_ansi(false);
    let audit = if chain {
        audit.with_writer(Chained::new(std::io::stdout())).boxed()
    } else {
        audit.with_writer(std::io::stdout).boxed()
    };
    let audit = audit.with_filter(filter_fn(|metadata| metadata.target() == "audit"));
    let log = fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .with_filter(filter_fn(|metadata| metadata.target() != "audit"))
        .with_filter(filter);
    // Fails only when the caller's own is in place, which is then the one to use.
    let _ = tracing_subscriber::registry().with(audit).with(log).try_init();
}

async fn serve(arguments: Serve) -> anyhow::Result<()> {
    start_log(arguments.log, arguments.audit_chain);
    let Serve { default_ttl, min_ttl, max_ttl, .. } = arguments;
    anyhow::ensure!(
        min_ttl <= default_ttl && default_ttl <= max_ttl,
        "--min-ttl, --default-ttl and --max-ttl must not decrease in this order"
    );
    let directory = Directory::open(&arguments.dir)?;
    let authenticator = NodeTokens::open(&directory)?;
    let settings = Settings {
        trust_domain: arguments.trust_domain.clone(),
        largest_ttl: max_ttl,
        timing: arguments.roots.timing(),
        source: arguments.roots.source(),
    };
    let store = Arc::new(DirectoryStore::new(directory));
    let times = arguments.jwt.times()?;
    let jwt_keys = JwtKeys::open(store.clone(), times, OffsetDateTime::now_utc()).await?;
    let authority = Authority::with(store, settings, OffsetDateTime::now_utc()).await?;
    let placement = PlacementFile::open(&arguments.workloads, arguments.trust_domain)?;
    let listener = server::bind(arguments.listen)
        .await
        .with_context(|| format!("cannot listen on {}; is it taken?", arguments.listen))?;
    let metrics = match arguments.metrics {
        Some(address) => Some(
            server::bind(address)
                .await
                .with_context(|| format!("cannot listen on {address}; is it taken?"))?,
        ),
        None => None,
    };
    let parts = Parts {
        authority: Arc::new(authority),
        placement: Arc::new(placement),
        authenticator,
        lifetimes: Lifetimes { default: default_ttl, least: min_ttl, most: max_ttl },
        names: arguments.names,
        jwt_keys: Some(Arc::new(jwt_keys)),
        metrics,
    };
    let mut terminate = signal(SignalKind::terminate()).context("cannot take SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot take SIGINT")?;
    let cancel = CancellationToken::new();
    let server = server::serve(listener, parts, cancel.clone());
    tokio::pin!(server);
    // Either signal stops, and a server that ends by itself was not asked to; order is no matter.
    tokio::select! {
        ended = &mut server => return Ok(ended?),
        _ = terminate.recv() => info!("SIGTERM: stopping"),
        _ = interrupt.recv() => info!("SIGINT: stopping"),
    }
    cancel.cancel();
    Ok(server.await?)
}

fn create_token(arguments: &Create) -> anyhow::Result<()> {
    let directory = Directory::open(&arguments.dir)?;
    let tokens = NodeTokens::open(&directory)?;
    let token = tokens.create(&arguments.node, arguments.ttl, OffsetDateTime::now_utc())?;
    match &arguments.output {
        Some(path) => write_secret(path, token.as_bytes())?,
        None => println!("{}", token.as_str()),
    }
    Ok(())
}

fn verify_audit(file: &Path) -> anyhow::Result<()> {
    let found = if file == Path::new("-") {
        chain::verify(std::io::stdin().lock())
    } else {
        let file = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
        chain::verify(BufReader::new(file))
    };
    let found = found?;
    let starts: Vec<_> = found.starts.iter().map(ToString::to_string).collect();
    println!("{} lines, none changed or missing between them", found.lines);
    println!("begun at line {}; each must be a start of the authority", starts.join(", "));
    println!("last {}", found.last);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(subcommand)]
        command: Command,
    }

    #[test]
    fn arguments_are_consistent_and_have_defaults() {
        Program::command().debug_assert();
        let words = "ca serve --dir d --workloads w --san ca.example.org --san fd00::1";
        let Command::Serve(serve) = Program::parse_from(words.split(' ')).command else {
            panic!("serve");
        };
        assert_eq!(serve.listen.port(), 15012);
        assert_eq!(serve.max_ttl, Duration::from_hours(24));
        assert_eq!(serve.names.len(), 2);
        for wrong in ["--san a_b/c", "--trust-domain TD", "--min-ttl 10", "--listen x"] {
            let words = format!("ca serve --dir d --workloads w {wrong}");
            assert!(Program::try_parse_from(words.split(' ')).is_err(), "{wrong}");
        }
    }

    #[test]
    fn token_file_is_for_its_owner_only_and_replaced_whole() {
        let temp = tempfile::tempdir().unwrap();
        let (directory, file) = (temp.path().join("ca"), temp.path().join("node1.token"));
        for _ in 0..2 {
            let words = ["ca", "token", "create", "node1", "--dir"].map(Into::into).into_iter();
            let words = words.chain([directory.clone().into_os_string(), "--output".into()]);
            let program = Program::parse_from(words.chain([file.clone().into_os_string()]));
            run(program.command).unwrap();
        }
        let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_eq!(std::fs::read_to_string(&file).unwrap().split('.').count(), 3);
    }
}
