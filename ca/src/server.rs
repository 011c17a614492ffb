//! The authority's server: TLS 1.3 with a certificate of its own making, and the tasks beside it.
//!
//! TLS is accepted here and not by tonic, because the certificate is replaced while the server
//! runs, and because handshakes and connections are bounded apart from calls.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use culvert_proto::culvert::ca::authority_server::AuthorityServer;
use culvert_proto::istio::ca::istio_certificate_service_server::IstioCertificateServiceServer;
use futures_util::stream;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::attest::{Authenticator, Residents};
use crate::authority::{Authority, AuthorityError, Lifetimes};
use crate::jwt::JwtKeys;
use crate::metrics::CaMetrics;
use crate::profile::ServerName;
use crate::service::Service;
use crate::service::admit::Admission;
use crate::service::bundle::Bundles;
use crate::service::jwt::JwtSigner;

mod accept;
mod care;
mod certificate;
mod client_certificate;
mod connection;
mod exposition;
mod gate;
mod health;
pub(crate) mod limits;

use care::Care;
use certificate::ServerCertificate;
pub(crate) use connection::Peer;
pub(crate) use gate::Decided;
use gate::GateLayer;
use health::Health;

/// Longest message read.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// Bytes that a caller may send before we read them: a message, and some of them at a time.
const STREAM_WINDOW: u32 = 64 * 1024;
/// The same of a whole connection.
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// Longest a call may take, its body included.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Calls of one connection at a time; an agent keeps one connection. Not under the 100 that clients
/// assume until they have read our settings, or a burst on a new connection would be refused.
const CALLS_OF_A_CONNECTION: u32 = 128;
/// Age at which a connection is asked to go, so that a replaced certificate is seen.
const CONNECTION_AGE: Duration = Duration::from_hours(12);
/// Longest that calls under way are waited for at a stop.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// Accepted connections that wait for tonic to take them.
const ACCEPTED_WAITING: usize = 64;

/// What a server is made of.
pub struct Parts<A> {
    /// Keys and signing.
    pub authority: Arc<Authority>,
    /// Who runs where.
    pub placement: Arc<dyn Residents>,
    /// Who calls.
    pub authenticator: A,
    /// How long certificates live; the server's own too.
    pub lifetimes: Lifetimes,
    /// Names of the server for clients that know no SPIFFE ID.
    pub names: Vec<ServerName>,
    /// Keys of JWT-SVIDs; without them none are signed.
    pub jwt_keys: Option<Arc<JwtKeys>>,
    /// Where metrics are asked for, if anywhere.
    pub metrics: Option<TcpListener>,
}

/// Why the server does not run, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Its own certificate could not be made.
    #[error("cannot make the authority's own server certificate")]
    Certificate(#[from] AuthorityError),
    /// A TLS configuration was refused by the library.
    #[error("TLS library refuses the authority's profile; this build is broken, rebuild it")]
    Tls(#[from] rustls::Error),
    /// Metrics are registered twice.
    #[error("cannot register the authority's metrics")]
    Metrics(#[from] prometheus::Error),
    /// The gRPC server failed.
    #[error("gRPC server failed; start it again")]
    Grpc(#[from] tonic::transport::Error),
    /// The listener has no address.
    #[error("cannot tell the address listened on")]
    Address(#[source] io::Error),
    /// A task beside the server panicked.
    #[error("a task of the authority panicked; its message stands above, start it again")]
    Panicked(#[source] tokio::task::JoinError),
}

/// Serves until `cancel`, then lets calls under way end for at most five seconds.
pub async fn serve<A: Authenticator>(
    listener: TcpListener,
    parts: Parts<A>,
    cancel: CancellationToken,
) -> Result<(), ServeError> {
    let Parts { authority, placement, authenticator, lifetimes, names, jwt_keys, metrics } = parts;
    let registry = prometheus::Registry::new();
    let collectors = CaMetrics::register(&registry)?;
    collectors.ends(&authority);
    let certificate = Arc::new(ServerCertificate::new(&authority, names, lifetimes)?);
    let tls = certificate::config(certificate.clone())?;
    let address = listener.local_addr().map_err(ServeError::Address)?;

    let mut tasks = JoinSet::new();
    let (accepted, mut incoming) = mpsc::channel(ACCEPTED_WAITING);
    tasks.spawn(accept::run(listener, tls, accepted, collectors.clone(), cancel.clone()));
    let health = Arc::new(Health::new(authority.clone()));
    let (roots, who) = (authority.clone(), placement.clone());
    let care = Care::new(roots, who, certificate, collectors.clone(), health.clone());
    tasks.spawn(care.run(cancel.clone()));
    if let Some(listener) = metrics {
        tasks.spawn(exposition::run(listener, registry, health, cancel.clone()));
    }

    let admission = Arc::new(Admission::new(authority.clone(), placement, authenticator));
    // Without keys of JWT-SVIDs followers wait for ever for them to change.
    let jwks = jwt_keys.as_ref().map_or_else(|| watch::channel(Arc::default()).1, |k| k.jwks());
    let mut bundles = Bundles::new(
        authority.clone(),
        admission.clone(),
        jwks,
        collectors.clone(),
        cancel.clone(),
    );
    if let Some(keys) = jwt_keys {
        bundles =
            bundles.signing(JwtSigner::new(admission.clone(), keys.clone(), collectors.clone()));
        tasks.spawn(keys.run(cancel.clone()));
    }
    let gate = GateLayer::new(collectors.clone());
    let service = Service::new(authority, admission, lifetimes, collectors);
    let service =
        IstioCertificateServiceServer::new(service).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let server = tonic::transport::Server::builder()
        .timeout(CALL_DEADLINE)
        .max_concurrent_streams(CALLS_OF_A_CONNECTION)
        .max_connection_age(CONNECTION_AGE)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .http2_max_header_list_size(16 * 1024)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .layer(gate)
        .add_service(service)
        .add_service(AuthorityServer::new(bundles).max_decoding_message_size(MAX_MESSAGE_BYTES))
        .serve_with_incoming_shutdown(
            stream::poll_fn(move |context| {
                incoming.poll_recv(context).map(|c| c.map(Ok::<_, io::Error>))
            }),
            cancel.clone().cancelled_owned(),
        );
    info!(%address, "ca listening");
    let stopped = tokio::select! {
        ended = server => ended.map_err(ServeError::from),
        () = overdue(&cancel) => Ok(()),
        Some(Err(panicked)) = tasks.join_next() => Err(ServeError::Panicked(panicked)),
    };
    cancel.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(ServeError::Panicked)?;
    }
    info!("ca stopped");
    stopped
}

/// Ends [`STOP_DEADLINE`] after the stop: what has not ended by then is cut.
async fn overdue(cancel: &CancellationToken) {
    cancel.cancelled().await;
    tokio::time::sleep(STOP_DEADLINE).await;
}

/// Binds a listener, saying which address when it fails.
pub(crate) async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}
