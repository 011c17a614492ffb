//! One question to the agent, within a time.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::{
    off,
    protocol::{Answer, MOST_BYTES, Request},
};

/// How soon an agent that is not there is looked for again.
const AGAIN: Duration = Duration::from_millis(100);

/// What came of a question.
#[derive(Debug)]
pub enum Asked {
    /// The agent answered.
    Answered(Answer),
    /// The agent has left this node for good.
    Off,
    /// No agent answered in time; what the last attempt met.
    Away(io::Error),
}

/// Asks the agent at `socket`. One that is not there is looked for during `away`; an answer is
/// waited for until `limit` is over, all in all.
///
/// A connection that breaks is made anew: the agent was replaced, and the next one is to be asked.
pub fn ask(socket: &Path, request: &Request, away: Duration, limit: Duration) -> Asked {
    let started = Instant::now();
    // Since when nobody was there.
    let mut alone = started;
    loop {
        if off::is_set(socket) {
            return Asked::Off;
        }
        let left = limit.saturating_sub(started.elapsed()).max(Duration::from_millis(1));
        let error = match connect(socket, left) {
            Ok(stream) => match exchange(stream, request, left) {
                Ok(answer) => return Asked::Answered(answer),
                Err(error) => {
                    alone = Instant::now();
                    error
                }
            },
            Err(error) => error,
        };
        if alone.elapsed() >= away || started.elapsed() >= limit {
            return Asked::Away(error);
        }
        thread::sleep(AGAIN);
    }
}

/// Connects within a time: the kernel bounds the wait for a full queue by the time for writing.
fn connect(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(limit))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket.into())
}

fn exchange(mut stream: UnixStream, request: &Request, limit: Duration) -> io::Result<Answer> {
    stream.set_read_timeout(Some(limit))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream.take(MOST_BYTES)).read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&answer)?)
}
