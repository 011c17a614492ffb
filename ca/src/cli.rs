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
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::attest::{Authenticator, NodeTokens, Residents};
use crate::audit::chain::{self, Chained};
use crate::authority::{Authority, Lifetimes, Settings};
use crate::directory::{Directory, write_secret};
use crate::duration;
use crate::jwt::JwtKeys;
use crate::placement::PlacementFile;
use crate::profile::ServerName;
use crate::server::{self, Parts};
use crate::store::{DirectoryStore, Store};

mod cluster;
mod jwt;
mod place;
mod roots;
mod timing;

use cluster::{ClusterOptions, patiently};
use jwt::JwtOptions;
use place::Place;
pub(crate) use roots::moment;
use roots::{Named, RotateRoot, Status};
use timing::RootOptions;

/// The certificate authority.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve certificates to nodes; makes the root when there is none.
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
    #[command(flatten)]
    place: Place,
    /// Address to serve on.
    #[arg(long, default_value = "0.0.0.0:15012")]
    listen: SocketAddr,
    /// Trust domain of every identity issued.
    #[arg(long, default_value = "cluster.local")]
    trust_domain: TrustDomain,
    /// The agents' workloads.yaml: says which identities each node may ask for. Followed. In a
    /// cluster its pods say that.
    #[arg(long, required_unless_present = "kubernetes", conflicts_with = "kubernetes")]
    workloads: Option<PathBuf>,
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
    #[command(flatten)]
    cluster: ClusterOptions,
    /// Address of `/metrics` for Prometheus, and of `/healthz/ready` and `/healthz/live`; none
    /// without it.
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

/// What is not in the log: the audit, which has an output of its own; and two parts of the API
/// server's client: one logs an answer that it cannot read whole, with the keys in it, the other
/// each failure, which whoever asked says with what it means.
const APART: [&str; 3] = ["audit", "kube_client::client", "kube_client::client::builder"];

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
        .with_filter(filter_fn(|metadata| !APART.contains(&metadata.target())))
        .with_filter(filter);
    // Fails only when the caller's own is in place, which is then the one to use.
    let _ = tracing_subscriber::registry().with(audit).with(log).try_init();
}

async fn serve(arguments: Serve) -> anyhow::Result<()> {
    start_log(arguments.log.clone(), arguments.audit_chain);
    let Serve { default_ttl, min_ttl, max_ttl, .. } = arguments;
    anyhow::ensure!(
        min_ttl <= default_ttl && default_ttl <= max_ttl,
        "--min-ttl, --default-ttl and --max-ttl must not decrease in this order"
    );
    if arguments.place.kubernetes {
        return serve_cluster(arguments).await;
    }
    let directory = arguments.place.directory()?;
    let workloads = arguments.workloads.as_ref().context("give the workloads with --workloads")?;
    let placement = PlacementFile::open(workloads, arguments.trust_domain.clone())?;
    let authenticator = NodeTokens::open(&directory)?;
    let store: Arc<dyn Store> = Arc::new(DirectoryStore::new(directory));
    let (authority, jwt_keys) = arguments.open(&store).await?;
    let outside = Outside { authenticator, residents: Arc::new(placement), names: Vec::new() };
    arguments.run(authority, jwt_keys, outside, JoinSet::new(), CancellationToken::new()).await
}

async fn serve_cluster(arguments: Serve) -> anyhow::Result<()> {
    let (namespace, domain) = (&arguments.place.namespace, &arguments.trust_domain);
    let parts = arguments.cluster.parts(namespace, domain).await?;
    let store = parts.store;
    let (authority, jwt_keys) = patiently(async || arguments.open(&store).await).await?;
    let outside = Outside {
        authenticator: parts.authenticator,
        residents: parts.residents,
        names: parts.names,
    };
    let cancel = CancellationToken::new();
    let beside = parts.tasks.start(&authority, &cancel);
    arguments.run(authority, jwt_keys, outside, beside, cancel).await
}

/// What tells who calls and who runs where, and the names that come with it.
struct Outside<A> {
    authenticator: A,
    residents: Arc<dyn Residents>,
    names: Vec<ServerName>,
}

impl Serve {
    /// Opens the authority and its other keys; may be tried again.
    async fn open(&self, store: &Arc<dyn Store>) -> anyhow::Result<(Arc<Authority>, Arc<JwtKeys>)> {
        let settings = Settings {
            trust_domain: self.trust_domain.clone(),
            largest_ttl: self.max_ttl,
            timing: self.roots.timing(),
            source: self.roots.source(),
        };
        let now = OffsetDateTime::now_utc();
        let jwt_keys = JwtKeys::open(store.clone(), self.jwt.times()?, now).await?;
        let authority = Authority::with(store.clone(), settings, now).await?;
        Ok((Arc::new(authority), Arc::new(jwt_keys)))
    }

    /// Serves until a signal; `beside` are tasks that end with `cancel`, and not before.
    async fn run<A: Authenticator>(
        self,
        authority: Arc<Authority>,
        jwt_keys: Arc<JwtKeys>,
        outside: Outside<A>,
        mut beside: JoinSet<()>,
        cancel: CancellationToken,
    ) -> anyhow::Result<()> {
        let listener = listen(self.listen).await?;
        let metrics = match self.metrics {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let mut names = self.names;
        names.extend(outside.names);
        let parts = Parts {
            authority,
            placement: outside.residents,
            authenticator: outside.authenticator,
            lifetimes: Lifetimes {
                default: self.default_ttl,
                least: self.min_ttl,
                most: self.max_ttl,
            },
            names,
            jwt_keys: Some(jwt_keys),
            metrics,
        };
        let mut terminate = signal(SignalKind::terminate()).context("cannot take SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot take SIGINT")?;
        let server = server::serve(listener, parts, cancel.clone());
        tokio::pin!(server);
        // Either signal stops, and whatever ends by itself was not asked to; order is no matter.
        let ended = tokio::select! {
            ended = &mut server => Some(ended),
            _ = terminate.recv() => { info!("SIGTERM: stopping"); None }
            _ = interrupt.recv() => { info!("SIGINT: stopping"); None }
            Some(ended) = beside.join_next() => {
                ended.context("a task beside the server panicked; its message stands above")?;
                anyhow::bail!("a task beside the server ended by itself; start it again");
            }
        };
        cancel.cancel();
        let ended = match ended {
            Some(ended) => ended,
            None => server.await,
        };
        while let Some(task) = beside.join_next().await {
            task.context("a task beside the server panicked; its message stands above")?;
        }
        Ok(ended?)
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = server::bind(address).await;
    bound.with_context(|| format!("cannot listen on {address}; is it taken?"))
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
        assert!(Program::try_parse_from(["ca", "serve", "--kubernetes"]).is_ok());
        assert!(Program::try_parse_from(["ca", "status", "--kubernetes"]).is_ok());
        for wrong in [
            "serve",
            "serve --dir d",
            "serve --kubernetes --dir d",
            "serve --kubernetes --workloads w",
            "status",
            "taint 1 --kubernetes --dir d",
        ] {
            let words = std::iter::once("ca").chain(wrong.split(' '));
            assert!(Program::try_parse_from(words).is_err(), "{wrong}");
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
