//! [`Connection`]: what tonic is given of a caller, and who is at its other end.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::limits::Place;

/// Longest that the other end may leave unread what we write.
const WRITE_DEADLINE: Duration = Duration::from_secs(20);

/// The other end of a connection, put into each request. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    address: SocketAddr,
    chain: Option<Arc<[CertificateDer<'static>]>>,
}

impl Peer {
    /// Where it calls from.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificates that it presented, leaf first. TLS has proved that it holds the leaf's key
    /// and nothing else.
    pub(crate) fn chain(&self) -> Option<&[CertificateDer<'static>]> {
        self.chain.as_deref()
    }
}

/// A connection whose handshake is over. Holds its place until it is dropped.
pub(super) struct Connection {
    tls: TlsStream<TcpStream>,
    peer: Peer,
    stall: Stall,
    _place: Place<IpAddr>,
}

impl Connection {
    pub(super) fn new(
        tls: TlsStream<TcpStream>,
        address: SocketAddr,
        place: Place<IpAddr>,
    ) -> Self {
        let chain = tls.get_ref().1.peer_certificates();
        let chain = chain.map(|chain| chain.iter().cloned().map(CertificateDer::into_owned));
        let peer = Peer { address, chain: chain.map(Iterator::collect) };
        Self { tls, peer, stall: Stall::default(), _place: place }
    }
}

/// The time for which nothing could be written, because the other end does not read.
#[derive(Default)]
struct Stall {
    /// Set while nothing can be written.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    /// Passes on what became of a write; ends a wait that lasts too long.
    fn watch<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.deadline = None;
            return written;
        }
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(WRITE_DEADLINE)));
        match deadline.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tls).poll_write(context, bytes);
        self.stall.watch(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.tls).poll_flush(context);
        self.stall.watch(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.tls).poll_shutdown(context);
        self.stall.watch(context, shut)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::{Instant, advance};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn wait_for_a_reader_ends_and_any_progress_begins_it_anew() {
        let nearly = WRITE_DEADLINE.saturating_sub(Duration::from_secs(1));
        let mut stall = Stall::default();
        let mut once = async |written: Poll<io::Result<()>>| {
            let mut written = Some(written);
            poll_fn(|context| {
                Poll::Ready(stall.watch(context, written.take().unwrap_or(Poll::Pending)))
            })
            .await
        };
        assert!(once(Poll::Pending).await.is_pending());
        advance(nearly).await;
        assert!(once(Poll::Ready(Ok(()))).await.is_ready());
        assert!(once(Poll::Pending).await.is_pending());
        advance(nearly).await;
        assert!(once(Poll::Pending).await.is_pending());
        let began = Instant::now();
        let ended: io::Result<()> = poll_fn(|context| stall.watch(context, Poll::Pending)).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed(), Duration::from_secs(1));
    }
}
