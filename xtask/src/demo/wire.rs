//! What was on the wire between the nodes, and what was not.

use super::applications::Applications;
use crate::checks::{self, Checks};
use crate::pcap::{self, Segment};
use anyhow::{Context, Result, ensure};
use culvert_tests::{Lab, NodeId, Process, SOON};
use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

/// Port of the HBONE tunnel.
const HBONE_PORT: u16 = 15008;

/// tcpdump on the wire, and one inside a pod that shows what the search would find.
pub(crate) struct Capture {
    wire: Process,
    wire_file: PathBuf,
    inside: Process,
    inside_file: PathBuf,
}

impl Capture {
    /// Starts both, and waits until they see.
    pub(crate) fn start(lab: &Lab) -> Result<Self> {
        let wire_file = lab.directory().join("wire.pcap");
        let inside_file = lab.directory().join("inside-b1.pcap");
        let file = wire_file.display().to_string();
        let words = ["tcpdump", "-n", "-U", "-B", "65536", "-i", "wire", "-w", &file];
        let wire = lab.node(NodeId::Node1).spawn(&words)?;
        let file = inside_file.display().to_string();
        let words = ["tcpdump", "-n", "-U", "-i", "lo", "-w", &file, "tcp port 80"];
        let inside = lab.pod("b1").spawn(&words)?;
        for process in [&wire, &inside] {
            process.wait_for("listening on", SOON)?;
        }
        Ok(Self { wire, wire_file, inside, inside_file })
    }

    /// Stops both and looks at what they caught.
    pub(crate) fn judge(self, lab: &Lab, applications: &Applications, checks: &mut Checks) {
        checks::part("the wire between the nodes, as tcpdump saw it during all of this");
        let bytes = match self.stop() {
            Ok(bytes) => bytes,
            Err(error) => return checks.add("the wire was captured without a gap", Err(error)),
        };
        let (wire, inside) = bytes;
        let needles = [applications.secret.as_str(), applications.question.as_str()];
        checks.add("the wire holds no byte of the plaintext", absent(&wire, &needles));
        checks.add("the same search finds it inside the pod (control)", present(&inside, &needles));
        let segments = pcap::segments(&wire);
        checks.add("enrolled pods use only the tunnel's port", only_tunnel(lab, &segments));
        let refused = reset_without_data(lab, &segments);
        checks.add("the refused pod got a reset and no byte", refused);
        checks.add("every tunnel connection chose TLS 1.3", tls13(&segments));
    }

    fn stop(&self) -> Result<(Vec<u8>, Vec<u8>)> {
        for process in [&self.wire, &self.inside] {
            process.terminate(SOON)?;
        }
        let told = self.wire.stderr();
        let summary: Vec<_> = told.lines().filter(|line| line.contains("packets")).collect();
        checks::note(&summary.join(", "));
        let dropped = summary
            .iter()
            .any(|line| line.contains("dropped by kernel") && !line.starts_with("0 packets"));
        ensure!(!dropped, "tcpdump missed some: {}", summary.join(", "));
        let read = |path: &PathBuf| {
            fs::read(path).with_context(|| format!("no capture at {}", path.display()))
        };
        Ok((read(&self.wire_file)?, read(&self.inside_file)?))
    }
}

fn absent(capture: &[u8], needles: &[&str]) -> Result<String> {
    ensure!(capture.len() > 1 << 20, "only {} bytes were captured", capture.len());
    for needle in needles {
        ensure!(!pcap::holds(capture, needle.as_bytes()), "`{needle}` is on the wire");
    }
    Ok(format!("searched {} MiB for {} texts: none", capture.len() >> 20, needles.len()))
}

fn present(capture: &[u8], needles: &[&str]) -> Result<String> {
    for needle in needles {
        ensure!(pcap::holds(capture, needle.as_bytes()), "`{needle}` was not seen there either");
    }
    Ok("found between agent and nginx, on the pod's loopback".to_owned())
}

/// Data between two enrolled pods, or of one with anything but the pod that was refused.
fn only_tunnel(lab: &Lab, segments: &[Segment<'_>]) -> Result<String> {
    let addresses = |names: [&str; 4]| -> BTreeSet<IpAddr> {
        let pods = names.map(|name| lab.pod(name));
        pods.iter().flat_map(|pod| [IpAddr::V4(pod.v4()), IpAddr::V6(pod.v6())]).collect()
    };
    let enrolled = addresses(["a1", "a2", "b1", "b2"]);
    let others = addresses(["x1", "y1", "x1", "y1"]);
    let mut data = 0_usize;
    for segment in segments.iter().filter(|segment| !segment.payload.is_empty()) {
        let ends = [segment.source, segment.destination];
        let ours = ends.iter().any(|end| enrolled.contains(&end.ip()));
        let refused = ends.iter().any(|end| others.contains(&end.ip()));
        if !ours || refused {
            continue;
        }
        let tunnel = ends.iter().any(|end| end.port() == HBONE_PORT);
        ensure!(tunnel, "{} → {} carried data", segment.source, segment.destination);
        data += segment.payload.len();
    }
    ensure!(data > 0, "no data of enrolled pods was seen");
    Ok(format!("{} MiB of data, all to or from port {HBONE_PORT}", data >> 20))
}

/// What b1's port 80 sent to the pod that is not enrolled.
fn reset_without_data(lab: &Lab, segments: &[Segment<'_>]) -> Result<String> {
    let (from, to) = (lab.pod("b1").at(80), lab.pod("x1").at(0).ip());
    let mut answers = segments
        .iter()
        .filter(|segment| segment.source == from && segment.destination.ip() == to)
        .peekable();
    ensure!(answers.peek().is_some(), "nothing was sent from {from} to {to}");
    let (mut resets, mut bytes) = (0, 0);
    for answer in answers {
        resets += usize::from(answer.reset);
        bytes += answer.payload.len();
    }
    ensure!(resets > 0 && bytes == 0, "{resets} resets and {bytes} bytes of data");
    Ok(format!("{from} → {to}: RST, 0 bytes of data"))
}

fn tls13(segments: &[Segment<'_>]) -> Result<String> {
    let mut connections = 0;
    for segment in segments.iter().filter(|segment| segment.source.port() == HBONE_PORT) {
        let Some(version) = pcap::server_version(segment.payload) else { continue };
        ensure!(version == pcap::TLS13, "{} chose {version:#06x}", segment.source);
        connections += 1;
    }
    ensure!(connections > 0, "no ServerHello was seen");
    Ok(format!("{connections} ServerHello with supported_versions 0x0304"))
}
