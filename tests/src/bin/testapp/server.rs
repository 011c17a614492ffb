//! The servers: one thread a connection, as simple as can be.

use crate::pattern::{self, Received};
use crate::{report, socket};
use serde_json::json;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;

/// Accepts for ever; an error of one connection is printed and ends that one only.
pub(crate) fn run(
    address: SocketAddr,
    handle: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
) -> io::Result<bool> {
    let listener = socket::listen(address)?;
    let handle = Arc::new(handle);
    report::listening(listener.local_addr()?);
    loop {
        let (stream, peer) = listener.accept()?;
        let handle = Arc::clone(&handle);
        // Small stacks: thousands of connections are held at once.
        thread::Builder::new().stack_size(128 * 1024).spawn(move || {
            if let Err(error) = handle(stream) {
                let mut line = report::error(&error);
                line["peer"] = json!(peer.to_string());
                report::line(&line);
            }
        })?;
    }
}

/// Sends back what comes.
pub(crate) fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return stream.shutdown(Shutdown::Write);
        }
        stream.write_all(&buffer[..length])?;
    }
}

/// Tells the client who it seems to be, then echoes.
pub(crate) fn serve(mut stream: TcpStream) -> io::Result<()> {
    let seen = json!({ "peer": stream.peer_addr()?.to_string(),
                       "local": stream.local_addr()?.to_string() });
    report::line(&seen);
    writeln!(stream, "{seen}")?;
    echo(stream)
}

/// Reads to the end and tells what came.
pub(crate) fn sink(mut stream: TcpStream, rate: Option<u64>) -> io::Result<()> {
    let peer = stream.peer_addr()?;
    tell(peer, &pattern::receive(&mut stream, rate, None));
    Ok(())
}

/// Sends, closes its side, then reads to the end.
pub(crate) fn source(mut stream: TcpStream, bytes: u64) -> io::Result<()> {
    let peer = stream.peer_addr()?;
    pattern::send(&mut stream, bytes)?;
    stream.shutdown(Shutdown::Write)?;
    tell(peer, &pattern::receive(&mut stream, None, None));
    Ok(())
}

/// Sends and reads at once.
pub(crate) fn exchange(mut stream: TcpStream, bytes: u64) -> io::Result<()> {
    let peer = stream.peer_addr()?;
    let mut writing = stream.try_clone()?;
    thread::scope(|scope| {
        let writer = scope.spawn(move || {
            pattern::send(&mut writing, bytes)?;
            writing.shutdown(Shutdown::Write)
        });
        tell(peer, &pattern::receive(&mut stream, None, None));
        writer.join().unwrap_or_else(|_| Err(io::Error::other("the writing thread panicked")))
    })
}

/// Reads to the end, then sends.
pub(crate) fn answer(mut stream: TcpStream, bytes: u64) -> io::Result<()> {
    let peer = stream.peer_addr()?;
    tell(peer, &pattern::receive(&mut stream, None, None));
    pattern::send(&mut stream, bytes)?;
    stream.shutdown(Shutdown::Write)
}

/// Reads, sends as much, and resets.
pub(crate) fn resetting(mut stream: TcpStream, bytes: u64) -> io::Result<()> {
    let peer = stream.peer_addr()?;
    tell(peer, &pattern::receive(&mut stream, None, Some(bytes)));
    pattern::send(&mut stream, bytes)?;
    socket::reset(stream)
}

/// Accepts and holds on, reading nothing.
pub(crate) fn never_read(address: SocketAddr) -> io::Result<bool> {
    let listener = socket::listen(address)?;
    report::listening(listener.local_addr()?);
    let mut held = Vec::new();
    loop {
        held.push(listener.accept()?);
        report::line(&json!({ "held": held.len() }));
    }
}

fn tell(peer: SocketAddr, received: &Received) {
    report::line(&json!({
        "peer": peer.to_string(),
        "bytes": received.bytes,
        "matches": received.matches,
        "end": report::end(&received.end),
    }));
}
