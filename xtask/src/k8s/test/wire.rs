//! What is on the wire between the nodes while something is done.

use crate::k8s::cluster::Cluster;
use crate::pcap;
use anyhow::{Context, Result, ensure};
use culvert_tests::{Process, SOON};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

/// A node's device on the network between the nodes.
const UPLINK: &str = "eth0";

/// tcpdump on the way from one node to the others.
pub(crate) struct Capture {
    process: Process,
    file: PathBuf,
    _directory: TempDir,
}

/// What it caught.
pub(crate) struct Caught(Vec<u8>);

impl Capture {
    /// Starts it, and waits until it sees.
    pub(crate) fn start(cluster: &Cluster, node: &str) -> Result<Self> {
        let directory = tempfile::tempdir().context("no place for the capture")?;
        let file = directory.path().join("wire.pcap");
        let path = file.to_str().context("a path that is text")?;
        let words = [
            "tcpdump",
            "-n",
            "-U",
            "--immediate-mode",
            "-B",
            "32768",
            "-i",
            UPLINK,
            "-w",
            path,
            "tcp",
        ];
        let command = cluster.in_network(node, &words)?;
        let process = Process::start("tcpdump", command, directory.path())?;
        process.wait_for("listening on", SOON)?;
        Ok(Self { process, file, _directory: directory })
    }

    /// Stops it.
    pub(crate) fn stop(self) -> Result<Caught> {
        self.process.terminate(SOON)?;
        fs::read(&self.file).context("tcpdump left no file").map(Caught)
    }
}

impl Caught {
    /// Whether these bytes were seen.
    pub(crate) fn holds(&self, text: &str) -> bool {
        pcap::holds(&self.0, text.as_bytes())
    }

    /// How many servers chose TLS 1.3 on the tunnel's port; fails if one chose something else.
    pub(crate) fn tunnels(&self) -> Result<usize> {
        let mut seen = 0;
        for segment in pcap::segments(&self.0) {
            if segment.source.port() != super::HBONE {
                continue;
            }
            let Some(version) = pcap::server_version(segment.payload) else { continue };
            ensure!(version == pcap::TLS13, "{} chose {version:#06x}", segment.source);
            seen += 1;
        }
        Ok(seen)
    }

    /// Bytes of data that went to or from a port.
    pub(crate) fn bytes(&self, port: u16) -> usize {
        pcap::segments(&self.0)
            .iter()
            .filter(|segment| segment.source.port() == port || segment.destination.port() == port)
            .map(|segment| segment.payload.len())
            .sum()
    }
}
