//! One TLS connection to the authority, which must prove its own SPIFFE ID.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use culvert_spiffe::{SpiffeId, TrustBundle};
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::crypto::CryptoProvider;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Settings;
use crate::config::HostPort;
use crate::identity::handshake::{self, HandshakeError};
use crate::identity::roots::{BundleInForce, TrustRoots};
use crate::identity::store::StartError;
use crate::identity::tls;
use crate::identity::verifier::OutboundVerifier;

/// Longest a TCP or TLS handshake with the authority may take, each.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Addresses of one name that are tried, in the resolver's order.
const MAX_ADDRESSES: usize = 4;

/// Why there is no connection to the authority.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("cannot resolve {address}")]
    Resolve { address: HostPort, source: io::Error },
    #[error("{address} was not resolved within {} s", CONNECT_DEADLINE.as_secs())]
    ResolveTimedOut { address: HostPort },
    #[error("{address} has no address")]
    NoAddress { address: HostPort },
    #[error("no TCP connection to {address}")]
    Tcp { address: SocketAddr, source: io::Error },
    #[error("{address} accepted no TCP connection within {} s", CONNECT_DEADLINE.as_secs())]
    TcpTimedOut { address: SocketAddr },
    #[error("{address} finished no TLS handshake within {} s", CONNECT_DEADLINE.as_secs())]
    TlsTimedOut { address: SocketAddr },
    #[error("no TLS connection to {address} as the authority")]
    Tls { address: SocketAddr, source: HandshakeError },
    #[error("no roots to verify the authority with")]
    Roots(#[source] StartError),
    #[error("TLS library refuses the mesh profile")]
    Profile(#[source] rustls::Error),
}

/// Dials the authority for the channel; cloned for each connection.
#[derive(Clone)]
pub(super) struct Connector {
    settings: Arc<Settings>,
    provider: Arc<CryptoProvider>,
    authority: SpiffeId,
    roots: TrustRoots,
}

impl Connector {
    pub(super) fn new(
        settings: Settings,
        provider: Arc<CryptoProvider>,
        roots: TrustRoots,
    ) -> Self {
        let authority = SpiffeId::of_authority(&settings.trust_domain);
        Self { settings: Arc::new(settings), provider, authority, roots }
    }

    /// What tonic's channel wants of a connector. The URI is not looked at.
    pub(super) fn into_service(
        self,
    ) -> impl tower::Service<
        Uri,
        Response = TokioIo<TlsStream<TcpStream>>,
        Error = Box<dyn std::error::Error + Send + Sync>,
        Future: Send,
    > + Send
    + 'static {
        tower::service_fn(move |_: Uri| {
            let connector = self.clone();
            async move { Ok(TokioIo::new(connector.connect().await?)) }
        })
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, ConnectError> {
        let roots = TrustRoots::new(BundleInForce::of_file(self.believed().await?));
        let verifier = OutboundVerifier::new(roots, self.provider.clone(), self.authority.clone());
        let verifier = Arc::new(verifier);
        let config = tls::client_config(&self.provider, None, verifier.clone())
            .map_err(ConnectError::Profile)?;
        let (tcp, address) = self.dial().await?;
        // A failure costs some latency, no correctness.
        let _ = tcp.set_nodelay(true);
        let connector = TlsConnector::from(Arc::new(config));
        timeout(CONNECT_DEADLINE, connector.connect(handshake::no_name(), tcp))
            .await
            .map_err(|_| ConnectError::TlsTimedOut { address })?
            .map_err(|error| ConnectError::Tls {
                address,
                source: handshake::classify(&self.authority, error, verifier.verdict()),
            })
    }

    /// The roots to verify the authority with. The file is read anew, so that a root replaced on
    /// disk needs no restart; without it the bundle that the authority pushed is enough.
    async fn believed(&self) -> Result<TrustBundle, ConnectError> {
        match read_roots(&self.settings).await {
            Ok(file) => Ok(self.roots.and(&file)),
            Err(error) if self.roots.load().sequence() > 0 => {
                tracing::warn!(%error, "root file is of no use; using the trust bundle in force");
                Ok(self.roots.load().bundle().clone())
            }
            Err(error) => Err(ConnectError::Roots(error)),
        }
    }

    /// Looks the name up, now and not once at the start, and takes the first address that answers.
    async fn dial(&self) -> Result<(TcpStream, SocketAddr), ConnectError> {
        let address = || self.settings.ca_address.clone();
        let (host, port) = (self.settings.ca_address.host(), self.settings.ca_address.port());
        let found = timeout(CONNECT_DEADLINE, tokio::net::lookup_host((host, port)))
            .await
            .map_err(|_| ConnectError::ResolveTimedOut { address: address() })?
            .map_err(|source| ConnectError::Resolve { address: address(), source })?;
        let mut failed = ConnectError::NoAddress { address: address() };
        for address in found.take(MAX_ADDRESSES) {
            match timeout(CONNECT_DEADLINE, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) => return Ok((tcp, address)),
                Ok(Err(source)) => failed = ConnectError::Tcp { address, source },
                Err(_) => failed = ConnectError::TcpTimedOut { address },
            }
        }
        Err(failed)
    }
}

/// Reads `ca.rootFile`.
pub(super) async fn read_roots(settings: &Settings) -> Result<TrustBundle, StartError> {
    let path = &settings.root_file;
    let pem = tokio::fs::read(path)
        .await
        .map_err(|source| StartError::ReadRoots { path: path.clone(), source })?;
    TrustBundle::from_pem(settings.trust_domain.clone(), &pem)
        .map_err(|source| StartError::Roots { path: path.clone(), source })
}
