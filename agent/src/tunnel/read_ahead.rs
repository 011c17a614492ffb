//! Large reads under TLS.
//!
//! rustls asks its transport for a few kilobytes at a time: about fourteen reads for each write of
//! the other end. A buffer below it turns them into one system call and cheap copies.
//!
//! Most polls find nothing to read, so the buffer must cost nothing then: it is one of the worker's
//! own, never zeroed, and a connection takes its part off it only once there are bytes.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

/// Bytes read at a time: four records of TLS (RFC 8446 section 5.1) with room for their frames.
const CHUNK: usize = 68 << 10;
/// Reads shorter than this are copied out of the shared buffer, so that a few bytes of half a
/// record do not keep the whole buffer alive.
const SMALL: usize = 16 << 10;

thread_local! {
    /// One buffer for all connections of the worker.
    static SCRATCH: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// A transport whose reads are made in large pieces. An idle connection keeps no buffer.
pub(super) struct ReadAhead<IO> {
    inner: IO,
    held: Bytes,
}

impl<IO> ReadAhead<IO> {
    pub(super) fn new(inner: IO) -> Self {
        Self { inner, held: Bytes::new() }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for ReadAhead<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.held.is_empty() {
            if out.remaining() >= CHUNK {
                return Pin::new(&mut this.inner).poll_read(cx, out);
            }
            this.held = ready!(this.fill(cx))?;
        }
        let taken = this.held.len().min(out.remaining());
        out.put_slice(&this.held[..taken]);
        this.held.advance(taken);
        if this.held.is_empty() {
            // Also an empty part would keep the shared buffer from being used again.
            this.held = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + Unpin> ReadAhead<IO> {
    /// The next bytes; none at the end.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.reserve(CHUNK);
            let inner = Pin::new(&mut self.inner);
            let length = ready!(poll_read_buf(inner, cx, &mut scratch.limit(CHUNK)))?;
            Poll::Ready(Ok(if length < SMALL {
                let bytes = Bytes::copy_from_slice(scratch);
                scratch.clear();
                bytes
            } else {
                scratch.split().freeze()
            }))
        })
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for ReadAhead<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn small_reads_see_every_byte_in_order() {
        let (mut far, near) = tokio::io::duplex(300_000);
        let sent: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        far.write_all(&sent).await.unwrap();
        drop(far);
        let mut near = ReadAhead::new(near);
        let mut got = Vec::new();
        let mut piece = [0; 1000];
        loop {
            let read = near.read(&mut piece).await.unwrap();
            if read == 0 {
                break;
            }
            got.extend_from_slice(&piece[..read]);
        }
        assert_eq!(got, sent);
    }
}
