//! The tests and their names.

use anyhow::{Context, Error, Result, bail};
use std::fmt;
use std::str::FromStr;

/// A piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Test {
    /// Streams that send as fast as they can, from the first pod to the second.
    Bulk {
        /// At a time.
        streams: u32,
    },
    /// Requests and answers in a closed loop on kept connections.
    PingPong {
        /// Bytes of a request and of its answer.
        size: u32,
        /// Connections at a time.
        connections: u32,
    },
    /// Requests and answers of HTTP/1.1 in a closed loop on kept connections.
    Http {
        /// Bytes of an answer's body.
        size: u32,
        /// Connections at a time.
        connections: u32,
    },
    /// Connect, one request, one answer, close.
    Connect {
        /// Clients at a time.
        clients: u32,
    },
}

/// A test, and whether the CPUs are kept awake in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Case {
    /// The test.
    pub(crate) test: Test,
    /// Whether a spinner of lowest priority keeps every core from sleeping.
    pub(crate) awake: bool,
}

/// What rate and CPU time are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// 10^9 bytes of the application.
    Gigabyte,
    /// A thousand requests.
    Thousand,
}

impl Case {
    /// How a test is run: awake if everything is; a single connection that mostly waits, both ways.
    pub(crate) fn of(test: Test, awake: bool) -> Vec<Self> {
        match test {
            Test::PingPong { connections: 1, .. } | Test::Http { connections: 1, .. } if !awake => {
                vec![Self { test, awake: false }, Self { test, awake: true }]
            }
            _ => vec![Self { test, awake }],
        }
    }

    /// Its name in files.
    pub(crate) fn key(self) -> String {
        self.to_string().replace(' ', "_")
    }
}

impl Test {
    /// What its work is counted by.
    pub(crate) fn unit(self) -> Unit {
        match self {
            Self::Bulk { .. } => Unit::Gigabyte,
            Self::PingPong { .. } | Self::Http { .. } | Self::Connect { .. } => Unit::Thousand,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let awake = if self.awake { " awake" } else { "" };
        write!(f, "{}{awake}", self.test)
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bulk { streams } => write!(f, "bulk{streams}"),
            Self::PingPong { size, connections } if size % 1024 == 0 => {
                write!(f, "pp{}kx{connections}", size / 1024)
            }
            Self::PingPong { size, connections } => write!(f, "pp{size}x{connections}"),
            Self::Http { size, connections } if size % 1024 == 0 => {
                write!(f, "http{}kx{connections}", size / 1024)
            }
            Self::Http { size, connections } => write!(f, "http{size}x{connections}"),
            Self::Connect { clients } => write!(f, "conn{clients}"),
        }
    }
}

impl FromStr for Test {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        parse(name).with_context(|| {
            format!("`{name}` is neither bulkN, nor ppSIZExN, nor httpSIZExN, nor connN")
        })
    }
}

fn parse(name: &str) -> Result<Test> {
    if let Some(rest) = name.strip_prefix("bulk") {
        Ok(Test::Bulk { streams: count(rest)? })
    } else if let Some(rest) = name.strip_prefix("conn") {
        Ok(Test::Connect { clients: count(rest)? })
    } else if let Some((size, rest)) = name.strip_prefix("pp").and_then(|rest| rest.split_once('x'))
    {
        Ok(Test::PingPong { size: bytes(size)?, connections: count(rest)? })
    } else if let Some((size, rest)) =
        name.strip_prefix("http").and_then(|rest| rest.split_once('x'))
    {
        Ok(Test::Http { size: bytes(size)?, connections: count(rest)? })
    } else {
        bail!("unknown")
    }
}

/// As many as the load's server takes at a time.
fn count(text: &str) -> Result<u32> {
    match text.parse()? {
        count @ 1..=200 => Ok(count),
        _ => bail!("at least 1 and at most 200 at a time"),
    }
}

fn bytes(text: &str) -> Result<u32> {
    let (number, times) = text.strip_suffix('k').map_or((text, 1), |number| (number, 1024));
    match number.parse::<u32>()?.checked_mul(times) {
        Some(size @ 1..=65_536) => Ok(size),
        _ => bail!("a request has at least 1 byte and at most 64k"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Case, Test};

    #[test]
    fn names_read_back() {
        for name in ["bulk1", "bulk8", "pp64x1", "pp1kx64", "http2kx8", "conn32"] {
            assert_eq!(name.parse::<Test>().unwrap().to_string(), name);
        }
        let size = "pp1kx64".parse::<Test>().unwrap();
        assert_eq!(size, Test::PingPong { size: 1024, connections: 64 });
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["", "bulk", "bulk0", "bulkx", "pp64", "pp0x1", "pp65kx1", "conn201", "http"] {
            assert!(name.parse::<Test>().is_err(), "{name}");
        }
    }

    #[test]
    fn one_connection_is_measured_asleep_and_awake() {
        let keys = |name: &str, awake| {
            let test = name.parse().unwrap();
            Case::of(test, awake).into_iter().map(Case::key).collect::<Vec<_>>()
        };
        assert_eq!(keys("pp64x1", false), ["pp64x1", "pp64x1_awake"]);
        assert_eq!(keys("pp64x1", true), ["pp64x1_awake"]);
        assert_eq!(keys("bulk1", false), ["bulk1"]);
    }
}
