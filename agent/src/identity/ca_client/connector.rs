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
use crate::identity::handshake::{self, HandshakeError};
use crate::identity::roots::{BundleInForce, TrustRoots};
use crate::identity::store::StartError;
use crate::identity::tls::{self, OutboundVerifier};

/// Longest a TCP or TLS handshake with the authority may take, each.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Why there is no connection to the authority.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
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
}

impl Connector {
    pub(super) fn new(settings: Settings, provider: Arc<CryptoProvider>) -> Self {
        let authority = SpiffeId::of_authority(&settings.trust_domain);
        Self { settings: Arc::new(settings), provider, authority }
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
        let address = self.settings.ca_address;
        // Read anew, so that a root replaced on disk needs no restart.
        let roots = read_roots(&self.settings).await.map_err(ConnectError::Roots)?;
        let roots = TrustRoots::new(BundleInForce::of_file(roots));
        let verifier = OutboundVerifier::new(roots, self.provider.clone(), self.authority.clone());
        let config = tls::client_config(&self.provider, None, Arc::new(verifier))
            .map_err(ConnectError::Profile)?;
        let tcp = timeout(CONNECT_DEADLINE, TcpStream::connect(address))
            .await
            .map_err(|_| ConnectError::TcpTimedOut { address })?
            .map_err(|source| ConnectError::Tcp { address, source })?;
        // A failure costs some latency, no correctness.
        let _ = tcp.set_nodelay(true);
        let connector = TlsConnector::from(Arc::new(config));
        timeout(CONNECT_DEADLINE, connector.connect(handshake::no_name(), tcp))
            .await
            .map_err(|_| ConnectError::TlsTimedOut { address })?
            .map_err(|error| ConnectError::Tls {
                address,
                source: handshake::classify(&self.authority, error),
            })
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
