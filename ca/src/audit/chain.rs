//! The hash chain of the audit: each line says the SHA-256 of the one before it, so that a line
//! that was changed or taken out shows.
//!
//! It holds against whoever comes later and edits a part. Whoever can write the whole file can make
//! a whole new chain; against that, keep the last hash elsewhere from time to time, as
//! `culvert ca audit verify` prints it.

use std::fmt::Write as _;
use std::io::{self, BufRead, Write};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use tracing_subscriber::fmt::MakeWriter;

/// What the first line of a process has in place of a hash.
const START: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// The field, as it ends each line.
const FIELD: &str = ",\"previous\":\"";
/// Longest line read; ours have under 1 KiB.
const MAX_LINE_BYTES: u64 = 64 * 1024;

/// Adds the hash of the line before to each JSON line that is written.
///
/// Made for a log that writes a line at a time, in one piece. Cloning shares the chain.
#[derive(Clone)]
pub struct Chained<W> {
    state: Arc<Mutex<State<W>>>,
}

struct State<W> {
    out: W,
    previous: String,
}

impl<W: Write> Chained<W> {
    /// Begins a chain on `out`.
    pub fn new(out: W) -> Self {
        Self { state: Arc::new(Mutex::new(State { out, previous: START.to_owned() })) }
    }
}

impl<W: Write> Write for Chained<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let Some(open) = text.strip_suffix(b"}") else {
            // Not a record: nothing to chain, and nothing to lose.
            return state.out.write_all(bytes).map(|()| bytes.len());
        };
        let mut line = Vec::with_capacity(bytes.len() + FIELD.len() + START.len() + 3);
        line.extend_from_slice(open);
        line.extend_from_slice(FIELD.as_bytes());
        line.extend_from_slice(state.previous.as_bytes());
        line.extend_from_slice(b"\"}");
        state.previous = hash(&line);
        line.push(b'\n');
        state.out.write_all(&line)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).out.flush()
    }
}

impl<'a, W: Write + 'a> MakeWriter<'a> for Chained<W> {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self { state: self.state.clone() }
    }
}

/// What a whole chain was found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Lines read.
    pub lines: u64,
    /// Numbers of the lines at which a process began its chain, from 1. More of them than starts
    /// of the authority: something is missing before one.
    pub starts: Vec<u64>,
    /// Hash of the last line: keep it elsewhere.
    pub last: String,
}

/// Why a file is not a whole chain.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// It cannot be read.
    #[error("cannot read the audit; give the file that the authority's output was written to")]
    Read(#[from] io::Error),
    /// A line has no hash.
    #[error(
        "line {line} has no hash of the line before it; was the authority run with --audit-chain?"
    )]
    Unchained {
        /// Which, from 1.
        line: u64,
    },
    /// A line has another hash than the line before it.
    #[error(
        "line {line} does not follow the line before it; one of the two was changed, or lines between them were taken out"
    )]
    Broken {
        /// Which, from 1.
        line: u64,
    },
    /// There is no line.
    #[error("audit is empty; nothing to verify")]
    Empty,
}

/// Verifies a file of chained lines. Reads a line at a time.
pub fn verify(mut file: impl BufRead) -> Result<Verified, ChainError> {
    let mut found = Verified { lines: 0, starts: Vec::new(), last: String::new() };
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = io::Read::take(&mut file, MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        found.lines += 1;
        let number = found.lines;
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let previous = previous(text).ok_or(ChainError::Unchained { line: number })?;
        if previous == START.as_bytes() {
            found.starts.push(number);
        } else if number == 1 || previous != found.last.as_bytes() {
            return Err(ChainError::Broken { line: number });
        }
        found.last = hash(text);
    }
    if found.lines == 0 { Err(ChainError::Empty) } else { Ok(found) }
}

/// The hash that a line ends with.
fn previous(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_suffix(b"\"}")?;
    let at = rest.len().checked_sub(START.len())?;
    let (head, hash) = rest.split_at(at);
    head.ends_with(FIELD.as_bytes()).then_some(hash)
}

fn hash(line: &[u8]) -> String {
    digest(&SHA256, line).as_ref().iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(lines: &[&str]) -> String {
        let mut bytes = Vec::new();
        let mut chained = Chained::new(&mut bytes);
        for line in lines {
            chained.write_all(format!("{line}\n").as_bytes()).unwrap();
        }
        drop(chained);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn chain_holds_and_lines_stay_json() {
        let text = chain(&[r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":3}"#]);
        let found = verify(text.as_bytes()).unwrap();
        assert_eq!((found.lines, found.starts.as_slice()), (3, [1].as_slice()));
        for (line, number) in text.lines().zip(1..) {
            let read: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(read["a"], number);
        }
        assert_eq!(found.last, hash(text.lines().last().unwrap().as_bytes()));
        // A second process appends to the same file.
        let both = format!("{text}{}", chain(&[r#"{"b":1}"#]));
        assert_eq!(verify(both.as_bytes()).unwrap().starts, [1, 4]);
    }

    #[test]
    fn a_changed_missing_or_moved_line_shows() {
        let text = chain(&[r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":3}"#]);
        let lines: Vec<_> = text.lines().collect();
        let broken = |lines: &[&str]| {
            let error = verify(lines.join("\n").as_bytes()).unwrap_err();
            let ChainError::Broken { line } = error else { panic!("{error}") };
            line
        };
        assert_eq!(broken(&[&lines[0].replace('1', "7"), lines[1], lines[2]]), 2);
        assert_eq!(broken(&[lines[0], lines[2]]), 2);
        assert_eq!(broken(&[lines[0], lines[2], lines[1]]), 2);
        assert_eq!(broken(&[lines[1], lines[2]]), 1, "the beginning is gone");
        let cut = &text[..text.len() - 10];
        assert!(matches!(verify(cut.as_bytes()), Err(ChainError::Unchained { line: 3 })));
        assert!(matches!(verify(&b""[..]), Err(ChainError::Empty)));
        assert!(matches!(verify(&b"{}\n"[..]), Err(ChainError::Unchained { line: 1 })));
    }
}
