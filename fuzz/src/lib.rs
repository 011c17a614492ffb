//! One target for each parser of outside bytes: a function that takes any bytes at all, and says
//! whether the parser took them.
//!
//! ```text
//!   corpus/TARGET/*  ──▶ cargo xtask test   each input once, as plain unit tests
//!                    ──▶ cargo xtask fuzz   the same as seeds of libFuzzer, with coverage
//! ```
//!
//! A parser may refuse, and must not panic, hang or take what it should not: each target also
//! looks at what was taken, by rules of its own that do not use the parser's code.
#![forbid(unsafe_code)]

mod authority;
mod bundle;
mod chain;
mod csr;
mod documents;
mod files;
mod http;
mod messages;
mod names;
mod token;

#[cfg(test)]
mod tests;

/// Whether a parser took an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It did, and what it made of it is right.
    Taken,
    /// It refused.
    Refused,
}

impl Verdict {
    fn of<T, E>(result: &Result<T, E>) -> Self {
        if result.is_ok() { Self::Taken } else { Self::Refused }
    }
}

/// A parser of outside bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: that of its corpus and of its program.
    pub name: &'static str,
    /// Gives it an input.
    ///
    /// # Panics
    /// What it took breaks a rule: a finding.
    pub run: fn(&[u8]) -> Verdict,
}

/// All of them.
pub const TARGETS: [Target; 12] = [
    Target { name: "authority", run: authority::run },
    Target { name: "bundle", run: bundle::run },
    Target { name: "chain", run: chain::run },
    Target { name: "csr", run: csr::run },
    Target { name: "documents", run: documents::run },
    Target { name: "http", run: http::run },
    Target { name: "istio_request", run: messages::istio_request },
    Target { name: "ca_messages", run: messages::ca_messages },
    Target { name: "policies", run: files::policies },
    Target { name: "spiffe_id", run: names::run },
    Target { name: "token", run: token::run },
    Target { name: "workloads", run: files::workloads },
];

/// Gives an input to the target of this name.
///
/// # Panics
/// A finding, or no target of this name: a mistake of the program.
#[expect(clippy::panic, reason = "a fuzzer takes findings as panics")]
pub fn run(name: &str, input: &[u8]) -> Verdict {
    match TARGETS.iter().find(|target| target.name == name) {
        Some(target) => (target.run)(input),
        None => panic!("no fuzz target {name}"),
    }
}

/// One block of PEM.
fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::prelude::BASE64_STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().copied().map(char::from));
        pem.push('\n');
    }
    pem + &format!("-----END {label}-----\n")
}
