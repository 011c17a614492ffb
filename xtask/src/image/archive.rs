//! Writes tar archives (POSIX ustar) whose bytes depend on nothing but what is put in.

use anyhow::{Result, bail};

/// Size of a header, and what contents are padded to.
const BLOCK: usize = 512;

/// Contents larger than the eleven octal digits of a header are refused; no image has them.
const LARGEST: usize = 0o77_777_777_777;

/// What an entry is.
pub(super) enum Kind<'a> {
    /// A folder.
    Directory,
    /// A file with these bytes.
    File(&'a [u8]),
    /// A symbolic link to this path.
    Link(&'a str),
}

/// An archive that grows entry by entry.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
}

impl Archive {
    /// Adds an entry that belongs to root and is as old as time.
    pub(super) fn add(&mut self, path: &str, mode: u32, kind: &Kind<'_>) -> Result<()> {
        let (letter, contents, target, path) = match kind {
            Kind::Directory => (b'5', &[][..], "", format!("{path}/")),
            Kind::File(bytes) => (b'0', *bytes, "", path.to_owned()),
            Kind::Link(target) => (b'2', &[][..], *target, path.to_owned()),
        };
        if target.len() > 100 {
            bail!("{path}: {target} is too long a target for a tar header");
        }
        if contents.len() > LARGEST {
            bail!("{path} is too large for a tar header");
        }
        let (prefix, name) = split(&path)?;
        let mut header = [0_u8; BLOCK];
        put(&mut header, 0, name.as_bytes());
        put(&mut header, 100, format!("{mode:07o}").as_bytes());
        put(&mut header, 108, b"0000000");
        put(&mut header, 116, b"0000000");
        put(&mut header, 124, format!("{:011o}", contents.len()).as_bytes());
        put(&mut header, 136, b"00000000000");
        // The sum is taken with spaces in its own place.
        put(&mut header, 148, b"        ");
        header[156] = letter;
        put(&mut header, 157, target.as_bytes());
        put(&mut header, 257, b"ustar\x0000");
        put(&mut header, 345, prefix.as_bytes());
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        put(&mut header, 148, format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(contents);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        Ok(())
    }

    /// Ends the archive and gives its bytes.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }
}

/// Divides a path over the two fields of the header.
fn split(path: &str) -> Result<(&str, &str)> {
    if path.len() <= 100 {
        return Ok(("", path));
    }
    // The last character may be the slash of a folder, which stays with the name.
    let body = path.trim_end_matches('/');
    body.rmatch_indices('/')
        .map(|(at, _)| (&path[..at], &path[at + 1..]))
        .find(|(prefix, name)| prefix.len() <= 155 && name.len() <= 100)
        .ok_or_else(|| anyhow::anyhow!("{path} is too long a path for a tar header"))
}

fn put(header: &mut [u8; BLOCK], at: usize, bytes: &[u8]) {
    header[at..at + bytes.len()].copy_from_slice(bytes);
}
