//! The cluster as a whole: brought up, used, and taken down.

use super::layout::{self, NodeNumber};
use super::{cgroup, component, control, images, machine, network, node, pki, programs};
use crate::run;
use anyhow::{Context, Result, bail, ensure};
use culvert_tests::until;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// Longest that nodes may take to be ready, on a machine that builds meanwhile.
const NODES_READY: Duration = Duration::from_mins(3);

/// A cluster that stands.
pub(crate) struct Cluster {
    kubeconfig: PathBuf,
    programs: PathBuf,
    /// None are known of a cluster that is not ours.
    nodes: u8,
}

/// What says that the cluster came up whole: how many nodes it has, and where its programs are.
fn mark() -> PathBuf {
    layout::directory().join("up")
}

impl Cluster {
    /// Whether anything of a cluster stands, be it half of one.
    pub(crate) fn exists() -> bool {
        layout::directory().exists()
    }

    /// The cluster that stands.
    pub(crate) fn open() -> Result<Self> {
        let text = fs::read_to_string(mark());
        let text = match text {
            Ok(text) => text,
            Err(_) if Self::exists() => {
                bail!("half a cluster stands; run `cargo xtask k8s down`, then `.. up`")
            }
            Err(_) => bail!("no cluster stands; run `cargo xtask k8s up`"),
        };
        let (nodes, programs) = text.split_once(' ').context("the cluster's mark is damaged")?;
        Ok(Self::ours(programs.into(), nodes.parse()?))
    }

    /// A cluster that somebody has.
    pub(crate) fn of(kubeconfig: PathBuf) -> Result<Self> {
        ensure!(kubeconfig.is_file(), "no kubeconfig {}", kubeconfig.display());
        Ok(Self { kubeconfig, programs: programs::ensure()?, nodes: 0 })
    }

    fn ours(programs: PathBuf, nodes: u8) -> Self {
        Self { kubeconfig: layout::kubeconfig(), programs, nodes }
    }

    /// Whether it is one that `cargo xtask k8s up` made: its nodes can be entered then, its API
    /// server stopped, and images brought in.
    pub(crate) fn is_ours(&self) -> bool {
        self.nodes > 0
    }

    /// Builds what it runs, then brings it up. What fails leaves the half for a look at its logs.
    pub(crate) fn start(nodes: u8) -> Result<Self> {
        ensure!(
            (1..=layout::MOST_NODES).contains(&nodes),
            "from 1 to {} nodes, not {nodes}",
            layout::MOST_NODES
        );
        ensure!(!Self::exists(), "a cluster stands already; run `cargo xtask k8s down` first");
        let cluster = Self::ours(programs::ensure()?, nodes);
        cluster.bring_up().with_context(|| {
            format!(
                "the cluster did not come up; its logs are in {}; `cargo xtask k8s down` removes it",
                layout::directory().display()
            )
        })?;
        Ok(cluster)
    }

    fn bring_up(&self) -> Result<()> {
        fs::create_dir(layout::directory()).context("could not make the cluster's folder")?;
        fs::create_dir(layout::logs())?;
        machine::remember()?;
        let authority = pki::control_plane()?;
        network::control()?;
        run::say("starting etcd and the API server");
        control::start_api(&self.programs)?;
        let settings = include_str!("../../../tests/k8s/system.yaml")
            .replace("@DNS@", &layout::DNS_SERVICE.to_string())
            .replace("@CONTROL@", &layout::CONTROL_ADDRESS.to_string());
        self.apply(&settings)?;
        run::say("starting controllers, scheduler and name server");
        control::start_rest(&self.programs)?;
        for node in self.numbers() {
            run::say(format!("starting {}", node.name()));
            node::start(node, self.nodes, &authority, &self.programs)?;
        }
        let images = [images::pause(&self.programs)?, images::applications()?];
        for node in self.numbers() {
            node::wait_runtime(node)?;
        }
        for image in &images {
            self.load(image)?;
        }
        control::wait_rest()?;
        self.wait_nodes()?;
        let text = format!("{} {}", self.nodes, self.programs.display());
        fs::write(mark(), text).context("could not mark the cluster as up")
    }

    fn wait_nodes(&self) -> Result<()> {
        for node in self.numbers() {
            let name = node.name();
            until(&format!("{name} to register"), NODES_READY, || {
                self.kubectl(&["get", "node", &name]).ok()
            })
            .with_context(|| node::logs(node))?;
            let pods = node.pods();
            let patch = serde_json::json!({"spec": {"podCIDR": pods, "podCIDRs": [pods]}});
            self.kubectl(&["patch", "node", &name, "-p", &patch.to_string()])?;
        }
        let limit = format!("--timeout={}s", NODES_READY.as_secs());
        for node in self.numbers() {
            self.kubectl(&["wait", "--for=condition=Ready", &limit, "node", &node.name()])
                .with_context(|| node::logs(node))?;
        }
        until("the default service account", NODES_READY, || {
            self.kubectl(&["get", "serviceaccount", "default"]).ok()
        })
        .map(drop)
    }

    /// The kubeconfig file of its administrator.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The folder of its programs, `kubectl` among them.
    pub(crate) fn programs(&self) -> &Path {
        &self.programs
    }

    /// The names of its nodes.
    pub(crate) fn nodes(&self) -> Vec<String> {
        self.numbers().map(NodeNumber::name).collect()
    }

    /// What `kubectl` prints; its own words when it fails.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        run::read(self.kubectl_command().args(arguments))
    }

    /// The same with text for its standard input, where `-f -` reads it.
    pub(crate) fn kubectl_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        let output = self.try_kubectl(arguments, input)?;
        ensure!(
            output.status.success(),
            "`kubectl {}`: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// How `kubectl` ended and what it said, for what may fail.
    pub(crate) fn try_kubectl(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let mut child = self
            .kubectl_command()
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("could not start `kubectl`")?;
        if let Some(mut stdin) = child.stdin.take() {
            let _ = stdin.write_all(input.as_bytes()); // one that ends early says why itself
        }
        child.wait_with_output().context("`kubectl` was lost")
    }

    /// `kubectl` on this cluster, for what runs beside the caller.
    pub(crate) fn kubectl_command(&self) -> Command {
        let mut command = Command::new(self.programs.join("kubectl"));
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// Applies objects.
    pub(crate) fn apply(&self, yaml: &str) -> Result<()> {
        self.kubectl_with(&["apply", "-f", "-"], yaml).map(drop)
    }

    /// Brings an image archive into every node.
    pub(crate) fn load(&self, archive: &Path) -> Result<()> {
        self.numbers().try_for_each(|node| node::load(node, archive))
    }

    /// A command that will run in a node's network, and else on this machine.
    pub(crate) fn in_network(&self, node: &str, words: &[&str]) -> Result<Command> {
        let place = format!("--net=/run/netns/{}", self.number(node)?.netns());
        let mut command = Command::new("nsenter");
        command.args([&*place, "--"]).args(words);
        Ok(command)
    }

    /// A command that will run on a node, in all of its namespaces; or as `control`, which is in
    /// the nodes' network and no part of the cluster.
    pub(crate) fn node_exec(&self, node: &str, words: &[String]) -> Result<Command> {
        if node == "control" {
            let mut command = component::enter(&[], Some(&layout::control()));
            command.args(words);
            return Ok(command);
        }
        node::exec(self.number(node)?, words)
    }

    fn number(&self, node: &str) -> Result<NodeNumber> {
        let names = || self.nodes().join(" ");
        self.numbers()
            .find(|number| number.name() == node)
            .with_context(|| format!("no node `{node}`; there are: {}", names()))
    }

    /// Ends the API server: an outage, until it is started again.
    pub(crate) fn stop_api_server(&self) -> Result<()> {
        ensure!(self.nodes > 0, "only of a cluster of the lab is the API server stopped");
        control::API_SERVER.kill()
    }

    /// Starts the API server again, and waits until it is ready.
    pub(crate) fn start_api_server(&self) -> Result<()> {
        control::start_api_server(&self.programs)?;
        control::wait_api_server(&self.programs)
    }

    fn numbers(&self) -> impl Iterator<Item = NodeNumber> + use<> {
        NodeNumber::first(self.nodes)
    }
}

/// Takes down all that stands of a cluster: programs, namespaces, cgroups, files. Every part is
/// tried; the first that would not go is told.
pub(crate) fn remove() -> Result<()> {
    let parts: [fn() -> Result<()>; 5] = [
        || cgroup::kill(&cgroup::version2()?),
        network::remove,
        cgroup::remove,
        machine::restore,
        remove_files,
    ];
    parts.map(|part| part()).into_iter().collect()
}

fn remove_files() -> Result<()> {
    let directory = layout::directory();
    if !directory.exists() {
        return Ok(());
    }
    fs::remove_dir_all(&directory)
        .with_context(|| format!("could not remove {}", directory.display()))
}
