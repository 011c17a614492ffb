//! A small HTTP client for what the agents serve, and the reader of what they count.

use crate::netns::Netns;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for one answer.
const LIMIT: Duration = Duration::from_secs(10);

/// Asks for `path` at `address`, from inside `netns`; gives the status and the body.
///
/// # Errors
/// No connection, no answer in time, or an answer that is no HTTP.
pub fn get(netns: &Netns, address: SocketAddr, path: &str) -> Result<(u16, String)> {
    netns.enter(|| get_here(address, path))?
}

fn get_here(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let what = || format!("asking http://{address}{path}");
    let mut stream = TcpStream::connect_timeout(&address, LIMIT).with_context(what)?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")
        .with_context(what)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(what)?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("{}: the answer has no end of its head", what());
    };
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { joined(body) } else { body.to_owned() };
    Ok((status.with_context(what)?, body))
}

/// The body of an answer that came in chunks.
fn joined(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, data)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let Some(chunk) = data.get(..length).filter(|chunk| !chunk.is_empty()) else { break };
        body.push_str(chunk);
        rest = data.get(length + 2..).unwrap_or_default();
    }
    body
}

/// The counters of an agent at one moment.
#[derive(Debug, Clone, Default)]
pub struct Scrape {
    /// The text as it was served.
    pub text: String,
    samples: Vec<Sample>,
}

#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Scrape {
    /// Reads the text form of Prometheus.
    pub fn parse(text: &str) -> Self {
        let samples = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
            .filter_map(sample)
            .collect();
        Self { text: text.to_owned(), samples }
    }

    /// The sum of all samples of a name whose labels hold all of the given ones.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.samples
            .iter()
            .filter(|sample| sample.name == name)
            .filter(|sample| {
                labels
                    .iter()
                    .all(|(key, value)| sample.labels.get(*key).is_some_and(|found| found == value))
            })
            .map(|sample| sample.value)
            .sum()
    }

    /// Whether there is a sample of this name.
    pub fn has(&self, name: &str) -> bool {
        self.samples.iter().any(|sample| sample.name == name)
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (head, rest) = match line.find('{') {
        Some(open) => (&line[..open], &line[open..]),
        None => line.split_once(' ')?,
    };
    let (labels, value) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    let value = value.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: head.to_owned(), labels, value })
}

/// The labels up to the closing brace, and what follows it.
fn labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (key, quoted) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut letters = quoted.char_indices();
        let end = loop {
            match letters.next()? {
                (at, '"') => break at + 1,
                (_, '\\') => value.push(match letters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, letter) => value.push(letter),
            }
        };
        labels.insert(key.to_owned(), value);
        rest = &quoted[end..];
    }
}

#[cfg(test)]
mod tests {
    use super::{Scrape, joined};

    #[test]
    fn samples_are_summed_by_their_labels() {
        let scrape = Scrape::parse(
            "# HELP a b\n# TYPE a counter\na{way=\"in\",who=\"x \\\"}\\\"\"} 2\n\
             a{way=\"in\",who=\"y\"} 3\na{way=\"out\",who=\"y\"} 5\nb 7.5 1000\n",
        );
        assert!((scrape.sum("a", &[("way", "in")]) - 5.0).abs() < 1e-9);
        assert!((scrape.sum("a", &[]) - 10.0).abs() < 1e-9);
        assert!((scrape.sum("a", &[("who", "x \"}\"")]) - 2.0).abs() < 1e-9);
        assert!((scrape.sum("b", &[]) - 7.5).abs() < 1e-9);
        assert!(!scrape.has("c"));
    }

    #[test]
    fn chunks_are_joined() {
        assert_eq!(joined("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), "abcde");
    }
}
