//! The cluster's network: a switch in the control plane's namespace, and a namespace a node.
//!
//! ```text
//!  ck-control                ck-node1                 ck-node2
//!  switch 10.44.0.1/24 ───┬─ eth0 10.44.0.11     ┌─ eth0 10.44.0.12
//!                         └──────────────────────┘
//!                            cni0 10.45.1.0/24        cni0 10.45.2.0/24   (made by containerd)
//! ```
//!
//! Nothing leads out of it: a pod reaches pods, services and the control plane.

use super::layout::{self, NodeNumber};
use crate::run;
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Makes the control plane's namespace with its switch.
pub(super) fn control() -> Result<()> {
    let netns = &layout::control();
    run::read(Command::new("ip").args(["netns", "add", netns]))?;
    let address = layout::CONTROL_ADDRESS;
    ip(
        netns,
        &format!(
            "link set lo up\n\
         link add switch type bridge\n\
         addr add {address}/24 dev switch\n\
         link set switch up\n"
        ),
    )?;
    sysctl(netns, "net.ipv4.ip_forward=1")
}

/// Makes a node's namespace, hangs it on the switch, and tells it where the others' pods are.
pub(super) fn node(node: NodeNumber, count: u8) -> Result<()> {
    let (netns, port, address) = (node.netns(), format!("to-{}", node.name()), node.address());
    run::read(Command::new("ip").args(["netns", "add", &netns]))?;
    ip(
        &layout::control(),
        &format!(
            "link add {port} type veth peer name eth0 netns {netns}\n\
         link set {port} master switch up\n\
         route replace {pods} via {address}\n",
            pods = node.pods(),
        ),
    )?;
    let mut lines = format!(
        "link set lo up\n\
         addr add {address}/24 dev eth0\n\
         link set eth0 up\n\
         route add default via {control}\n\
         route add unreachable 169.254.0.0/16\n", // a cloud's own services: refused, not waited for
        control = layout::CONTROL_ADDRESS,
    );
    for other in NodeNumber::first(count).filter(|other| *other != node) {
        let _ = writeln!(lines, "route add {} via {}", other.pods(), other.address()); // a String
    }
    ip(&netns, &lines)?;
    sysctl(&netns, "net.ipv4.ip_forward=1")?;
    // A pod may ask for a service whose endpoint hangs on the same bridge.
    sysctl(&netns, "net.bridge.bridge-nf-call-iptables=1")
        .context("the kernel has no bridge netfilter; run `modprobe br_netfilter`")
}

/// Removes every namespace of the cluster that stands.
pub(super) fn remove() -> Result<()> {
    let prefix = layout::netns("");
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        if let Some(name) = entry.file_name().to_str().filter(|name| name.starts_with(&prefix)) {
            run::read(Command::new("ip").args(["netns", "del", name]))?;
        }
    }
    Ok(())
}

fn sysctl(netns: &str, setting: &str) -> Result<()> {
    let place = format!("--net=/run/netns/{netns}");
    run::read(Command::new("nsenter").args([&place, "--", "sysctl", "-qw", setting])).map(drop)
}

/// Runs lines of `ip` commands in a namespace.
fn ip(netns: &str, lines: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-n", netns, "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("could not start `ip`")?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that fails early does not read it all; its own words tell more.
        let _ = stdin.write_all(lines.as_bytes());
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("`ip` in {netns}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
