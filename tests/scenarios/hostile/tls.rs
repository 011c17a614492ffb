//! A TLS client that presents what it is told to and believes everybody.

use super::mint::Svid;
use anyhow::Result;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme,
    version,
};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;

/// What a client shows of itself.
pub(super) struct Credentials {
    svid: Option<Svid>,
    alpn: Vec<Vec<u8>>,
}

impl Credentials {
    /// A certificate, and the protocol that is right.
    pub(super) fn of(svid: Svid) -> Self {
        Self { svid: Some(svid), alpn: vec![b"h2".to_vec()] }
    }

    /// No certificate.
    pub(super) fn none() -> Self {
        Self { svid: None, alpn: vec![b"h2".to_vec()] }
    }

    /// Other protocols; none at all when empty.
    pub(super) fn alpn(mut self, protocols: &[&str]) -> Self {
        self.alpn = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        self
    }
}

/// How a connection ended, seen from the attacker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The victim sent this alert.
    Alert(AlertDescription),
    /// It closed in order.
    Closed,
    /// It reset.
    Reset,
    /// Nothing came in the time given.
    Silent,
}

impl End {
    /// What an error of the connection means.
    pub(super) fn of(error: &io::Error) -> Self {
        if let Some(rustls::Error::AlertReceived(alert)) =
            error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            return Self::Alert(*alert);
        }
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Silent,
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Reset,
        }
    }

    /// Whether the connection is over, whichever way.
    pub(super) fn is_over(&self) -> bool {
        *self != Self::Silent
    }
}

/// A TLS connection over a blocking socket with time limits.
pub(super) struct Tls {
    connection: ClientConnection,
    pub(super) socket: TcpStream,
}

impl Tls {
    /// Wraps a socket; nothing is sent yet.
    pub(super) fn client(socket: TcpStream, credentials: &Credentials) -> Result<Self> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(Arc::clone(&provider))));
        let mut config = match &credentials.svid {
            Some(svid) => {
                let key = provider.key_provider.load_private_key(svid.key.clone_key())?;
                // Straight to the resolver: rustls would look at the certificate first.
                let certified = CertifiedKey::new(svid.chain.clone(), key);
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&credentials.alpn);
        config.enable_sni = false;
        let name = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
        Ok(Self { connection: ClientConnection::new(Arc::new(config), name)?, socket })
    }

    /// The client's side of the handshake: over before the victim has judged the certificate.
    pub(super) fn handshake(&mut self) -> Result<(), End> {
        while self.connection.is_handshaking() || self.connection.wants_write() {
            self.connection.complete_io(&mut self.socket).map_err(|error| End::of(&error))?;
        }
        Ok(())
    }

    /// The chain that the victim presented, leaf first; empty before the handshake.
    pub(super) fn presented(&self) -> Vec<CertificateDer<'static>> {
        let chain = self.connection.peer_certificates().unwrap_or_default();
        chain.iter().map(|certificate| certificate.clone().into_owned()).collect()
    }

    /// Says nothing more and waits for the victim's last word; bytes before it are returned.
    pub(super) fn last_word(&mut self) -> (Vec<u8>, End) {
        let mut said = Vec::new();
        let mut piece = [0; 4096];
        loop {
            match self.read(&mut piece) {
                Ok(0) => return (said, End::Closed),
                Ok(length) => said.extend_from_slice(&piece[..length]),
                Err(error) => return (said, End::of(&error)),
            }
        }
    }

    /// Sends; fails with what the victim said if it has ended the connection.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), End> {
        let mut stream = rustls::Stream::new(&mut self.connection, &mut self.socket);
        match stream.write_all(bytes).and_then(|()| stream.flush()) {
            Ok(()) => Ok(()),
            // Its last word may still be there to be read.
            Err(error) => match self.last_word().1 {
                End::Reset | End::Silent => Err(End::of(&error)),
                end => Err(end),
            },
        }
    }

    /// Reads what is there; `WouldBlock` or `TimedOut` after the socket's time.
    pub(super) fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        rustls::Stream::new(&mut self.connection, &mut self.socket).read(piece)
    }
}

/// Believes every server: it is the server that is tested.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
