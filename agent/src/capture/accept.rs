//! Accepted connections, with where they came from and where they meant to go.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use culvert_common::{Addr, FlowKey, SocketState};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

use super::{Kind, Listener, Pod, listeners::BACKLOG};

/// How long to wait after the kernel refused to hand out a connection for want of descriptors or
/// memory; the connection waits in the backlog meanwhile.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// A connection taken from an enrolled workload, or on its behalf.
#[derive(Debug)]
pub struct Captured {
    /// Our end of the connection.
    pub stream: TcpStream,
    /// The workload that opened it (outbound) or that it is for (inbound).
    pub pod: Arc<Pod>,
    /// Address and port of the end that opened the connection.
    pub source: SocketAddr,
    /// Where the opener wanted to go.
    pub original_dst: SocketAddr,
    /// Whether the node's own network namespace opened it (the kubelet's probes do).
    pub from_node: bool,
}

/// A connection whose original destination is not known; to be reset, never guessed.
#[derive(Debug)]
pub struct Lost {
    /// Our end of the connection.
    pub stream: TcpStream,
    /// Address and port of the end that opened the connection.
    pub source: SocketAddr,
}

/// Accepts from one listener of one workload.
pub struct Acceptor {
    kind: Kind,
    pod: Arc<Pod>,
    listener: TcpListener,
}

impl Acceptor {
    /// Takes over a listener; to be called on the runtime that will accept.
    ///
    /// # Errors
    /// The runtime could not take the descriptor.
    pub fn new(pod: Arc<Pod>, listener: Listener) -> io::Result<Self> {
        Ok(Self { kind: listener.kind, pod, listener: TcpListener::from_std(listener.socket)? })
    }

    /// What arrives here.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whose connections arrive here.
    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    /// Waits for the next connection.
    ///
    /// Cancel safe: a connection is handed out or stays in the backlog.
    pub async fn next(&self) -> Result<Captured, Lost> {
        loop {
            match self.listener.accept().await {
                Ok((stream, source)) => return self.recover(stream, canonical(source)),
                // The opener gave up between SYN and accept.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(pod = ?self.pod, %error, "cannot accept for now; raise the limit of open files if this stays");
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
    }

    /// Stops listening, and hands out what is in the backlog: in the eyes of their openers those
    /// connections have been accepted, and an agent that takes over does not get them.
    pub fn close(self) -> Vec<Result<Captured, Lost>> {
        let mut rest = Vec::new();
        // Not by way of the runtime, which may not have heard of the last ones yet.
        while rest.len() < BACKLOG
            && let Ok((socket, source)) = SockRef::from(&self.listener).accept()
        {
            let stream =
                socket.set_nonblocking(true).and_then(|()| TcpStream::from_std(socket.into()));
            if let (Ok(stream), Some(source)) = (stream, source.as_socket()) {
                rest.push(self.recover(stream, canonical(source)));
            }
        }
        rest
    }

    fn recover(&self, stream: TcpStream, source: SocketAddr) -> Result<Captured, Lost> {
        let original_dst = match self.kind {
            Kind::Outbound => self.pod.tables().socket_state(&stream).and_then(original),
            // The kernel kept the packet's own destination as our local address.
            Kind::Plaintext | Kind::Hbone => stream.local_addr().ok().map(canonical),
        };
        let Some(original_dst) = original_dst else {
            return Err(Lost { stream, source });
        };
        let from_node = self.kind == Kind::Plaintext
            && self.pod.tables().opened_by_node(&FlowKey {
                source: Addr::from(source.ip()),
                destination: Addr::from(original_dst.ip()),
                source_port_be: source.port().to_be(),
                destination_port_be: original_dst.port().to_be(),
            });
        Ok(Captured { stream, pod: Arc::clone(&self.pod), source, original_dst, from_node })
    }
}

/// Ends a connection with a reset: the other end must not take this for an orderly close.
pub fn reset(stream: TcpStream) {
    // All are made so, see `pod::tune`; only here that is what is wanted.
    drop(stream);
}

/// Lets a connection end with a FIN once it is closed. To be called when both directions have
/// ended, or when what the connection carries tells by itself whether it is whole.
pub fn close_in_order(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(None); // fails on no open socket
}

fn original(state: SocketState) -> Option<SocketAddr> {
    (state.kind == SocketState::CAPTURED)
        .then(|| SocketAddr::new(state.addr.into(), u16::from_be(state.port_be)))
}

/// IPv4 as IPv4, also where the socket is an IPv6 one.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
