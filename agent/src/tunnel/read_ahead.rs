//! Large reads under TLS.
//!
//! rustls asks its transport for a few kilobytes at a time: about fourteen reads for each write of
//! the other end. A buffer below it turns them into one system call and cheap copies.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes read at a time: four records of TLS (RFC 8446 section 5.1) with room for their frames.
const CHUNK: usize = 68 << 10;

/// A transport whose reads are made in large pieces. The buffer is there only while it holds
/// something: an idle connection keeps none.
pub(super) struct ReadAhead<IO> {
    inner: IO,
    buffer: Vec<u8>,
    start: usize,
}

impl<IO> ReadAhead<IO> {
    pub(super) fn new(inner: IO) -> Self {
        Self { inner, buffer: Vec::new(), start: 0 }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for ReadAhead<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.start == this.buffer.len() {
            if out.remaining() >= CHUNK {
                return Pin::new(&mut this.inner).poll_read(cx, out);
            }
            match ready!(this.fill(cx)) {
                Ok(0) => return Poll::Ready(Ok(())),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        let held = &this.buffer[this.start..];
        let taken = held.len().min(out.remaining());
        out.put_slice(&held[..taken]);
        this.start += taken;
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + Unpin> ReadAhead<IO> {
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.start = 0;
        self.buffer.resize(CHUNK, 0);
        let mut space = ReadBuf::new(&mut self.buffer);
        let read = Pin::new(&mut self.inner).poll_read(cx, &mut space);
        let length = space.filled().len();
        match read {
            Poll::Ready(Ok(())) => {
                self.buffer.truncate(length);
                Poll::Ready(Ok(length))
            }
            Poll::Ready(Err(error)) => {
                self.buffer = Vec::new();
                Poll::Ready(Err(error))
            }
            Poll::Pending => {
                self.buffer = Vec::new();
                Poll::Pending
            }
        }
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
