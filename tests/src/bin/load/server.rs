//! The server: a fixed crowd of threads, so that a new connection costs no new thread.

use crate::http;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

/// Connections served at a time at each address; a test holds at most a few dozen.
const THREADS: usize = 256;

/// All buffers are on the heap.
const STACK: usize = 128 << 10;

/// Bytes read at a time by the sink.
const BULK: usize = 256 << 10;

/// Bytes read at a time by the echo; no request is longer.
const REQUEST: usize = 64 << 10;

/// Serves until it is ended; prints `listening` once every address takes connections.
pub(crate) fn run(echo: SocketAddr, sink: SocketAddr, web: Option<SocketAddr>) -> io::Result<()> {
    let echoes = TcpListener::bind(echo)?;
    let sinks = TcpListener::bind(sink)?;
    let web = web.map(TcpListener::bind).transpose()?;
    println!("listening {} {}", echoes.local_addr()?, sinks.local_addr()?);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            thread::Builder::new()
                .stack_size(STACK)
                .spawn_scoped(scope, || serve(&echoes, REQUEST, answer))?;
            thread::Builder::new()
                .stack_size(STACK)
                .spawn_scoped(scope, || serve(&sinks, BULK, take))?;
            if let Some(web) = &web {
                thread::Builder::new()
                    .stack_size(STACK)
                    .spawn_scoped(scope, || serve(web, 0, http::serve))?;
            }
        }
        Ok(())
    })
}

fn serve(
    listener: &TcpListener,
    bytes: usize,
    handle: fn(&mut TcpStream, &mut [u8]) -> io::Result<()>,
) {
    let mut buffer = vec![0; bytes];
    loop {
        let served = listener.accept().and_then(|(mut stream, _)| {
            stream.set_nodelay(true)?;
            handle(&mut stream, &mut buffer)
        });
        if let Err(error) = served {
            // The client of a cut connection fails and tells; this is only for its reader.
            eprintln!("{error}");
        }
    }
}

fn answer(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    loop {
        let length = stream.read(buffer)?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length])?;
    }
}

/// Reads to the end, then says how much it was.
fn take(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    let mut total = 0_u64;
    loop {
        let length = stream.read(buffer)?;
        if length == 0 {
            return stream.write_all(&total.to_be_bytes());
        }
        total += length as u64; // a usize is at most 64 bits wide
    }
}
