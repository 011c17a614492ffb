//! What must be known of a program before it goes into an image: for which machine it is, and
//! whether it loads libraries.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;

/// Program header of the loader's name; a program without one is static.
const INTERPRETER: u32 = 3;

/// A 64-bit little-endian Linux program.
pub(super) struct Elf {
    machine: u16,
    interpreted: bool,
}

impl Elf {
    /// Whether the program loads no library.
    pub(super) fn is_static(&self) -> bool {
        !self.interpreted
    }

    /// The machine's name as images have it.
    pub(super) fn architecture(&self) -> Result<String> {
        match self.machine {
            62 => Ok("amd64".to_owned()),
            183 => Ok("arm64".to_owned()),
            other => bail!("program for ELF machine {other}; known are 62 (amd64), 183 (arm64)"),
        }
    }
}

/// Reads the headers of a program.
pub(super) fn inspect(path: &Path) -> Result<Elf> {
    let bytes = fs::read(path).with_context(|| format!("could not read {}", path.display()))?;
    parse(&bytes)
        .with_context(|| format!("{} is no 64-bit little-endian ELF program", path.display()))
}

fn parse(bytes: &[u8]) -> Option<Elf> {
    if bytes.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let machine = u16::from_le_bytes(array(bytes, 18)?);
    let offset = usize::try_from(u64::from_le_bytes(array(bytes, 32)?)).ok()?;
    let size = usize::from(u16::from_le_bytes(array(bytes, 54)?));
    let count = usize::from(u16::from_le_bytes(array(bytes, 56)?));
    let mut interpreted = false;
    for index in 0..count {
        let at = offset.checked_add(index.checked_mul(size)?)?;
        interpreted |= u32::from_le_bytes(array(bytes, at)?) == INTERPRETER;
    }
    Some(Elf { machine, interpreted })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}
