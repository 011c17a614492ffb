//! A node: its own network, mounts, processes and cgroups, with containerd, kubelet, kube-proxy.

use super::cgroup;
use super::component::{self, Component};
use super::layout::{self, NodeNumber};
use super::network;
use super::pki::{self, Authority};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Longest that containerd may take to answer, on a machine that builds meanwhile.
const READY: Duration = Duration::from_mins(1);

/// Where a node finds programs: the cluster's own first.
const SEARCH: &str =
    "PATH=/opt/k8s/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Writes a node's settings and makes its namespaces, then starts its programs.
pub(super) fn start(
    node: NodeNumber,
    count: u8,
    authority: &Authority,
    programs: &Path,
) -> Result<()> {
    let place = node.directory();
    for folder in ["etc", "upper", "work", "root", "containerd", "kubelet", "log"] {
        fs::create_dir_all(place.join(folder))?;
    }
    settings(node, &place.join("etc"))?;
    pki::node(authority, node)?;
    network::node(node, count)?;

    let name = node.name();
    let script = place.join("node.sh");
    fs::write(&script, include_str!("../../../tests/k8s/node.sh"))?;
    let mut words: Vec<String> = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "--uts",
        "--ipc",
        "--pid",
        "--fork",
        "--kill-child",
        "bash",
    ]
    .map(str::to_owned)
    .into();
    words.extend([shown(&script), name.clone(), shown(&place), shown(programs)]);
    words.extend(cgroup::make(&format!("{name}/root"))?.iter().map(|path| shown(path)));
    Component(&name).start(Some(&node.netns()), &words)
}

/// Waits until a node's containerd takes images; the kubelet waits for that by itself.
pub(super) fn wait_runtime(node: NodeNumber) -> Result<()> {
    let answers = || {
        exec(node, &["ctr".into(), "version".into()])
            .is_ok_and(|mut ctr| ctr.output().is_ok_and(|output| output.status.success()))
    };
    Component(&node.name()).wait(READY, answers).with_context(|| logs(node))
}

/// Brings an image archive into a node's containerd.
pub(super) fn load(node: NodeNumber, archive: &Path) -> Result<()> {
    let words = ["ctr", "-n", "k8s.io", "images", "import", "--local", "-"].map(str::to_owned);
    let file = File::open(archive)
        .with_context(|| format!("could not open the image {}", archive.display()))?;
    let output = exec(node, &words)?.stdin(file).output().context("could not start `ctr`")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} did not take {}: {}", node.name(), archive.display(), said.trim());
    }
    Ok(())
}

/// A command that will run on a node: in its namespaces and in a cgroup of its own tree, where
/// programs attached to the node's root see it.
pub(super) fn exec(node: NodeNumber, words: &[String]) -> Result<Command> {
    let init = init(node)?;
    let cgroups = cgroup::make(&format!("{}/root/host", node.name()))?;
    let mut command = component::enter(&cgroups, None);
    command
        .args(["nsenter", "--target", &init, "--mount", "--net", "--uts", "--ipc", "--pid"])
        .args(["--cgroup", "--", "env", SEARCH])
        .args(words)
        .stdin(Stdio::null());
    Ok(command)
}

/// The last words of a node's programs.
pub(super) fn logs(node: NodeNumber) -> String {
    let log = node.directory().join("log");
    ["containerd", "kubelet", "kube-proxy"]
        .map(|name| {
            let said = component::tail(&log.join(format!("{name}.log")));
            format!("{name} on {} said last:\n{said}", node.name())
        })
        .join("\n")
}

/// The process that is number 1 on the node, by its number on this machine.
fn init(node: NodeNumber) -> Result<String> {
    let cgroup = cgroup::version2()?.join(node.name()).join(component::LEAF);
    let outer = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let outer = outer.lines().next().with_context(|| format!("{} does not run", node.name()))?;
    let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"))?;
    let init = children.split_whitespace().next();
    Ok(init.with_context(|| format!("{} is about to end", node.name()))?.to_owned())
}

fn settings(node: NodeNumber, etc: &Path) -> Result<()> {
    let dns = layout::DNS_SERVICE.to_string();
    let filled = |text: &str| {
        text.replace("@DNS@", &dns)
            .replace("@PODS@", layout::PODS)
            .replace("@NODE_PODS@", &node.pods())
    };
    let zone =
        format!("topology.kubernetes.io/region=lab,topology.kubernetes.io/zone=zone{}", node.0);
    for (name, text) in [
        ("containerd.toml", include_str!("../../../tests/k8s/containerd.toml")),
        ("kubelet.yaml", include_str!("../../../tests/k8s/kubelet.yaml")),
        ("proxy.yaml", include_str!("../../../tests/k8s/proxy.yaml")),
        ("cni.conflist", include_str!("../../../tests/k8s/cni.conflist")),
        ("resolv.conf", "nameserver @DNS@\n"),
        ("address", &node.address().to_string()),
        ("labels", &zone),
    ] {
        let path = etc.join(name);
        fs::write(&path, filled(text))
            .with_context(|| format!("could not write {}", path.display()))?;
    }
    Ok(())
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
