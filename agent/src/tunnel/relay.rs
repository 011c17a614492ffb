//! Bytes between an application's socket and a stream of the tunnel, or between two sockets.
//!
//! Half-close is carried through: the end of one direction ends that direction only. What is cut
//! short never looks complete: a reset on one side becomes a reset on the other.
//!
//! A flow keeps no buffer of its own. What was read from a socket goes on at once, and a socket is
//! read only when the other side has room.

use std::{cell::RefCell, future::poll_fn, io, net::Shutdown, pin::pin};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures_util::future::{Either, select};
use h2::{RecvStream, SendStream};
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream};

use super::StreamError;
use crate::observe::OpenFlow;

/// Bytes read from a socket at a time.
const CHUNK: usize = 128 << 10;
/// Reads shorter than this are copied out of the shared buffer, so that a few bytes that wait for
/// a slow reader do not keep the whole buffer alive.
const SMALL: usize = 16 << 10;

thread_local! {
    /// One buffer for all flows of the worker: each read takes its part off it.
    static SCRATCH: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// Which way bytes go, seen from the local workload.
#[derive(Clone, Copy)]
enum Direction {
    Sent,
    Received,
}

impl Direction {
    fn count(self, flow: &OpenFlow, bytes: &[u8]) {
        match self {
            Self::Sent => flow.sent(bytes),
            Self::Received => flow.received(bytes),
        }
    }
}

/// Carries bytes between the local application's socket and another until both directions ended.
///
/// Not cancel safe: dropped halfway, bytes that were read may be lost; both sockets must then be
/// reset.
///
/// # Errors
/// [`StreamError::ApplicationReset`] or [`StreamError::PeerReset`]; both sockets must be reset.
pub async fn sockets(
    application: &TcpStream,
    other: &TcpStream,
    flow: &OpenFlow,
) -> Result<(), StreamError> {
    use StreamError::{ApplicationReset, PeerReset};
    let sent = pump(application, other, Direction::Sent, flow, (ApplicationReset, PeerReset));
    let received =
        pump(other, application, Direction::Received, flow, (PeerReset, ApplicationReset));
    // Both are polled on each wake-up, whichever caused it: one task, no hand-over.
    tokio::try_join!(sent, received)?;
    Ok(())
}

async fn pump(
    from: &TcpStream,
    to: &TcpStream,
    direction: Direction,
    flow: &OpenFlow,
    (read_failed, write_failed): (StreamError, StreamError),
) -> Result<(), StreamError> {
    loop {
        let Some(chunk) = read(from).await.map_err(|_| read_failed.clone())? else {
            return finish(to).map_err(|_| write_failed);
        };
        direction.count(flow, &chunk);
        // A reader that stands still must not hide that its writer is gone.
        match select(pin!(write(to, chunk)), pin!(failure(from))).await {
            Either::Left((written, _)) => written.map_err(|_| write_failed.clone())?,
            Either::Right(((), _)) => return Err(read_failed),
        }
    }
}

/// Carries bytes between a local application's socket and a stream of the tunnel until both
/// directions ended.
///
/// Not cancel safe: dropped halfway, the stream is reset, and the socket must be as well.
///
/// # Errors
/// [`StreamError::ApplicationReset`]: the application's socket failed, the stream was reset.
/// [`StreamError::PeerReset`]: the stream failed, the socket must be reset.
pub async fn stream(
    application: &TcpStream,
    mut send: SendStream<Bytes>,
    receive: RecvStream,
    flow: &OpenFlow,
) -> Result<(), StreamError> {
    let done = both(application, &mut send, receive, flow).await;
    if done.is_err() {
        send.send_reset(h2::Reason::CANCEL);
    }
    done
}

async fn both(
    application: &TcpStream,
    send: &mut SendStream<Bytes>,
    receive: RecvStream,
    flow: &OpenFlow,
) -> Result<(), StreamError> {
    let mut down = pin!(from_stream(receive, application, flow));
    {
        let up = pin!(to_stream(application, send, flow));
        match select(up, &mut down).await {
            Either::Left((ended, _)) => ended?,
            Either::Right((ended, up)) => {
                ended?;
                return up.await;
            }
        }
    }
    // Our direction has ended; the other one may wait long for an application that does not read.
    // A reset must end that wait.
    match select(down, pin!(reset_of(send))).await {
        Either::Left((ended, _)) => ended,
        Either::Right((error, _)) => Err(error),
    }
}

async fn to_stream(
    application: &TcpStream,
    send: &mut SendStream<Bytes>,
    flow: &OpenFlow,
) -> Result<(), StreamError> {
    loop {
        let chunk = match select(pin!(read(application)), pin!(reset_of(send))).await {
            Either::Left((read, _)) => read.map_err(|_| StreamError::ApplicationReset)?,
            Either::Right((error, _)) => return Err(error),
        };
        let Some(mut chunk) = chunk else {
            return send.send_data(Bytes::new(), true).map_err(|_| StreamError::PeerReset);
        };
        Direction::Sent.count(flow, &chunk);
        while chunk.has_remaining() {
            send.reserve_capacity(chunk.len());
            let room = match select(pin!(capacity(send)), pin!(failure(application))).await {
                Either::Left((room, _)) => room?.min(chunk.len()),
                Either::Right(((), _)) => return Err(StreamError::ApplicationReset),
            };
            send.send_data(chunk.split_to(room), false).map_err(|_| StreamError::PeerReset)?;
        }
    }
}

async fn from_stream(
    mut receive: RecvStream,
    application: &TcpStream,
    flow: &OpenFlow,
) -> Result<(), StreamError> {
    while let Some(chunk) = receive.data().await {
        let chunk = chunk.map_err(|_| StreamError::PeerReset)?;
        let length = chunk.len();
        Direction::Received.count(flow, &chunk);
        write(application, chunk).await.map_err(|_| StreamError::ApplicationReset)?;
        // Only now may the other end send more: a reader that stands still stops its writer.
        receive.flow_control().release_capacity(length).map_err(|_| StreamError::PeerReset)?;
    }
    // A connection that ends without END_STREAM is an error above, never the end of the data.
    finish(application).map_err(|_| StreamError::ApplicationReset)
}

/// Waits until the stream takes some bytes; how many.
async fn capacity(send: &mut SendStream<Bytes>) -> Result<usize, StreamError> {
    loop {
        match poll_fn(|cx| send.poll_capacity(cx)).await {
            Some(Ok(0)) => {}
            Some(Ok(room)) => return Ok(room),
            Some(Err(_)) | None => return Err(StreamError::PeerReset),
        }
    }
}

/// Waits until the other end resets the stream, or its connection ends.
async fn reset_of(send: &mut SendStream<Bytes>) -> StreamError {
    // Reset with NO_ERROR (RFC 9113 section 8.1) or otherwise, or the connection failed: in each
    // case nothing more can be carried.
    let _ = poll_fn(|cx| send.poll_reset(cx)).await; // reason: see above
    StreamError::PeerReset
}

/// Waits until the socket has failed (a reset arrived), without reading from it. Cancel safe.
pub async fn failure(socket: &TcpStream) {
    // An error of the reactor itself counts as a failure too.
    let _ = socket.ready(Interest::ERROR).await; // reason: see above
}

/// The next bytes of a socket; `None` at its end.
async fn read(socket: &TcpStream) -> io::Result<Option<Bytes>> {
    loop {
        socket.readable().await?;
        let mut taken = None;
        let emptied = socket.try_io(Interest::READABLE, || {
            let bytes = SCRATCH.with_borrow_mut(|scratch| take(socket, scratch))?;
            let all = bytes.len() < CHUNK;
            taken = Some(bytes);
            // A read that came back short has emptied the socket. Said now, the next round waits
            // for news instead of asking the kernel once more; what arrives meanwhile is news.
            if all { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match (taken, emptied) {
            (Some(bytes), _) => return Ok((!bytes.is_empty()).then_some(bytes)),
            (None, Err(error)) if !would_block(&error) => return Err(error),
            (None, _) => {}
        }
    }
}

/// Reads once.
fn take(socket: &TcpStream, scratch: &mut BytesMut) -> io::Result<Bytes> {
    scratch.reserve(CHUNK);
    let length = socket.try_read_buf(&mut scratch.limit(CHUNK))?;
    Ok(if length < SMALL {
        let bytes = Bytes::copy_from_slice(scratch);
        scratch.clear();
        bytes
    } else {
        scratch.split().freeze()
    })
}

async fn write(socket: &TcpStream, mut bytes: Bytes) -> io::Result<()> {
    while bytes.has_remaining() {
        match socket.try_write(&bytes) {
            Ok(written) => bytes.advance(written),
            Err(error) if would_block(&error) => socket.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// Ends our direction of a socket in order. That the other end is gone already is no error of this
/// direction: all its bytes were taken.
fn finish(socket: &TcpStream) -> io::Result<()> {
    match SockRef::from(socket).shutdown(Shutdown::Write) {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, time::Duration};

    use tokio::{io::AsyncWriteExt as _, net::TcpListener, time::timeout};

    use super::*;
    use crate::observe::{FlowLabels, Metrics, Reporter};

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connect = TcpStream::connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(connect, listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    fn flow() -> OpenFlow {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        let labels = FlowLabels::unknown(Reporter::Source, nowhere, nowhere);
        Metrics::new().unwrap().open(labels)
    }

    #[tokio::test]
    async fn reset_is_seen_while_the_other_side_does_not_read() {
        let ((mut writer, application), (other, _reader)) = (pair().await, pair().await);
        let flow = flow();
        let relayed = sockets(&application, &other, &flow);
        let stalled = async {
            let piece = vec![0; 1 << 20];
            // Until nothing goes any more: every buffer between the two is full.
            while timeout(Duration::from_secs(1), writer.write_all(&piece)).await.is_ok() {}
            SockRef::from(&writer).set_linger(Some(Duration::ZERO)).unwrap();
            drop(writer);
        };
        let both = async { tokio::join!(relayed, stalled).0 };
        let ended = timeout(Duration::from_secs(20), both).await.expect("it ends");
        assert!(matches!(ended, Err(StreamError::ApplicationReset)), "{ended:?}");
    }
}
