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
    /// An agent took the question and did not answer it in time.
    Silent(io::Error),
    /// No agent took the question in time; what the last attempt met.
    Away(io::Error),
}

/// Asks the agent at `socket`. One that is not there is looked for during `away`; the answer of one
/// that is there is waited for during `limit`, also where several come and go one after the other.
///
/// A connection that breaks is made anew: the agent was replaced, and the next one is to be asked.
pub fn ask(socket: &Path, request: &Request, away: Duration, limit: Duration) -> Asked {
    // Since when nobody is there, and since when somebody was.
    let (mut alone, mut met) = (Instant::now(), None);
    loop {
        if off::is_set(socket) {
            return Asked::Off;
        }
        let error = match connect(socket, limit) {
            Ok(stream) => {
                let met = *met.get_or_insert_with(Instant::now);
                let left = limit.saturating_sub(met.elapsed()).max(Duration::from_millis(1));
                match exchange(stream, request, left) {
                    Ok(answer) => return Asked::Answered(answer),
                    Err(error) if is_late(&error) || met.elapsed() >= limit => {
                        return Asked::Silent(error);
                    }
                    Err(error) => {
                        alone = Instant::now();
                        error
                    }
                }
            }
            Err(error) => error,
        };
        if alone.elapsed() >= away {
            return Asked::Away(error);
        }
        thread::sleep(AGAIN);
    }
}

/// Whether the time for reading or writing was over.
fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn agent_that_takes_a_question_and_says_nothing_is_not_away() {
        let temp = tempfile::tempdir().unwrap();
        let socket = temp.path().join("s");
        let limit = Duration::from_millis(200);
        let asked = ask(&socket, &Request::Ping, Duration::ZERO, limit);
        assert!(matches!(asked, Asked::Away(_)), "{asked:?}");
        let _silent = UnixListener::bind(&socket).unwrap();
        for away in [Duration::ZERO, Duration::from_mins(1)] {
            let asked = ask(&socket, &Request::Ping, away, limit);
            assert!(matches!(asked, Asked::Silent(_)), "{asked:?}");
        }
    }
}
