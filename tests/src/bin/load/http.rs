//! As little of HTTP/1.1 as a parser takes for it: requests and answers of a fixed form.

use std::io::{self, Read, Write};
use std::net::TcpStream;

/// Digits of a length, so that every head of a kind is as long as the others.
const DIGITS: usize = 8;

/// What stands before the length in a request.
const ASKED: &str = "GET /";

/// A request for a body of `size` bytes.
pub(crate) fn request(size: usize) -> Vec<u8> {
    format!("{ASKED}{size:0DIGITS$} HTTP/1.1\r\nhost: bench\r\n\r\n").into_bytes()
}

/// The answer with a body of `size` bytes.
pub(crate) fn answer(size: usize) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {size:0DIGITS$}\r\n\r\n");
    let mut answer = head.into_bytes();
    answer.resize(answer.len() + size, b'z');
    answer
}

/// Answers requests until there are no more.
pub(crate) fn serve(stream: &mut TcpStream, _buffer: &mut [u8]) -> io::Result<()> {
    let mut asked = request(0);
    let mut answered = (0, answer(0));
    loop {
        match stream.read_exact(&mut asked) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        let digits = asked.get(ASKED.len()..ASKED.len() + DIGITS).unwrap_or_default();
        let size = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
        let size = size.ok_or_else(|| io::Error::other("not a request of this load"))?;
        if answered.0 != size {
            answered = (size, answer(size));
        }
        stream.write_all(&answered.1)?;
    }
}
