//! Building a lab: namespaces, wires, cgroups, files, the CA and the agents.

use super::agents::CAPABILITIES;
use super::nodes::{AGENT_NUMBERS, pod4, pod6, wire4, wire6};
use super::{Lab, Node, NodeId, Pod};
use crate::files::{AgentSettings, PodSpec};
use crate::netns::Netns;
use crate::place::Place;
use crate::wait::{SOON, until};
use crate::{cgroup, guard, sweep};
use anyhow::{Context, Result};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// What a lab is to be; [`Builder::start`] makes it.
#[derive(Debug, Clone)]
pub struct Builder {
    id: Option<String>,
    trust_domain: String,
    pods: Vec<PodSpec>,
    policies: String,
    settings: AgentSettings,
    ca_arguments: Vec<String>,
    culvert: Option<PathBuf>,
    agents: bool,
    contained: bool,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            id: None,
            trust_domain: "cluster.local".to_owned(),
            pods: Vec::new(),
            policies: String::new(),
            settings: AgentSettings::default(),
            ca_arguments: Vec::new(),
            culvert: None,
            agents: true,
            contained: false,
        }
    }
}

impl Builder {
    /// The usual pods: `a1` (service account `frontend`) and `a2` on node 1, `b1` (`backend`) and
    /// `b2` on node 2, all enrolled, and `x1` and `y1`, one on each node, which are not.
    #[must_use]
    pub fn standard(self) -> Self {
        self.pod(PodSpec::new("a1", NodeId::Node1).service_account("frontend"))
            .pod(PodSpec::new("a2", NodeId::Node1))
            .pod(PodSpec::new("x1", NodeId::Node1).not_enrolled())
            .pod(PodSpec::new("b1", NodeId::Node2).service_account("backend"))
            .pod(PodSpec::new("b2", NodeId::Node2))
            .pod(PodSpec::new("y1", NodeId::Node2).not_enrolled())
    }

    /// Adds a pod.
    #[must_use]
    pub fn pod(mut self, spec: PodSpec) -> Self {
        self.pods.push(spec);
        self
    }

    /// Policies from the start: a stream of Istio documents.
    #[must_use]
    pub fn policies(mut self, text: &str) -> Self {
        text.clone_into(&mut self.policies);
        self
    }

    /// STRICT for the whole mesh.
    #[must_use]
    pub fn strict(self) -> Self {
        self.policies(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  \
             name: default\n  namespace: istio-system\nspec:\n  mtls:\n    mode: STRICT\n",
        )
    }

    /// A value of the agents' configuration, as YAML has it; the empty section is the top.
    #[must_use]
    pub fn set(mut self, section: &str, key: &str, value: &str) -> Self {
        self.settings.set(section, key, value);
        self
    }

    /// A further argument of `culvert ca serve`.
    #[must_use]
    pub fn ca_argument(mut self, word: &str) -> Self {
        self.ca_arguments.push(word.to_owned());
        self
    }

    /// A trust domain other than `cluster.local`.
    #[must_use]
    pub fn trust_domain(mut self, name: &str) -> Self {
        name.clone_into(&mut self.trust_domain);
        self
    }

    /// Another `culvert` binary than the usual one ([`crate::culvert`]).
    #[must_use]
    pub fn culvert(mut self, binary: PathBuf) -> Self {
        self.culvert = Some(binary);
        self
    }

    /// Neither CA nor agents: only the namespaces, as a cluster without a mesh is.
    #[must_use]
    pub fn without_agents(mut self) -> Self {
        self.agents = false;
        self
    }

    /// Agents as they are in a cluster: each in a network namespace of its own and with a mount
    /// namespace whose root and `/proc/sys` are read-only, with no other capabilities than those
    /// of the manifests, and told of its node by `capture.hostProc`.
    #[must_use]
    pub fn contained(mut self) -> Self {
        self.contained = true;
        self
    }

    /// A name of the caller's own instead of one made from the process.
    #[must_use]
    pub fn named(mut self, id: &str) -> Self {
        self.id = Some(id.to_owned());
        self
    }

    /// Builds the lab and waits until both agents are ready.
    ///
    /// # Errors
    /// The machine lacks something, or a part does not come up.
    pub fn start(self) -> Result<Lab> {
        if self.culvert.is_some() {
            guard::machine()?;
        } else {
            guard::check()?;
        }
        sweep::stale();
        let id = self.id.clone().unwrap_or_else(own_id);
        let directory = sweep::claim(&id)?;
        let nodes = NodeId::ALL.map(|node| place_node(&id, node, &directory, self.contained));
        let mut lab = Lab {
            id,
            directory,
            trust_domain: self.trust_domain,
            nodes,
            pods: Vec::new(),
            settings: self.settings,
            own_settings: [AgentSettings::default(), AgentSettings::default()],
            ca_arguments: self.ca_arguments,
            culvert: self.culvert,
            contained: self.contained,
            capabilities: CAPABILITIES.to_vec(),
            turns: [0, 0],
            clocks: [None, None],
            ca_clock: None,
            ca: None,
            agents: [None, None],
            kept: false,
        };
        lab.make_nodes().context("could not make the nodes")?;
        if lab.contained {
            lab.make_containers().context("could not make the agents' containers")?;
        }
        for spec in self.pods {
            lab.make_pod(spec)?;
        }
        lab.write_workloads()?;
        lab.set_policies(&self.policies)?;
        if self.agents {
            lab.start_ca().context("the CA does not come up")?;
            for node in NodeId::ALL {
                lab.make_token(node).context("the CA gives no token")?;
                lab.launch_agent(node)?;
            }
            for node in NodeId::ALL {
                lab.wait_ready(node)?;
            }
        }
        Ok(lab)
    }
}

impl Lab {
    fn make_nodes(&self) -> Result<()> {
        for node in &self.nodes {
            cgroup::create(node.host.cgroup())?;
            cgroup::create(node.agents[0].cgroup())?;
            let netns = Netns::create(node.netns().name().to_owned())?;
            netns.sysctl("net/ipv4/ip_forward", "1")?;
            netns.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        }
        let [first, second] = &self.nodes;
        first.netns().ip(&format!(
            "link add wire type veth peer name wire netns {}\n",
            second.netns().name()
        ))?;
        for (node, other) in [(first, second), (second, first)] {
            let pods = format!("10.11.{}.0/24", other.id.number());
            let pods6 = format!("fd00:11:{}::/64", other.id.number());
            node.netns().ip(&format!(
                "link set wire up\naddr add {}/24 dev wire\naddr add {}/64 dev wire nodad\n\
                 route add {pods} via {}\nroute add {pods6} via {}\n",
                wire4(node.id),
                wire6(node.id),
                wire4(other.id),
                wire6(other.id),
            ))?;
        }
        Ok(())
    }

    /// Makes the namespaces of the agents, and what plays the hosts' `/proc`.
    fn make_containers(&self) -> Result<()> {
        for node in &self.nodes {
            for (place, number) in node.agents.iter().zip(AGENT_NUMBERS) {
                let netns = Netns::create(place.netns().name().to_owned())?;
                wire(node, &netns, number)?;
            }
            // As in a cluster, the way to the node's namespace leads through a process that has
            // more rights than the agent.
            let first = node.host.spawn(&["sleep", "infinity"])?;
            let inode = |path: &std::path::Path| Some(std::fs::metadata(path).ok()?.ino());
            let process = PathBuf::from(format!("/proc/{}", first.pid()));
            until("the first process to be in its namespace", SOON, || {
                let there = inode(&process.join("ns/net"))?;
                (Some(there) == inode(&node.netns().path())).then_some(())
            })?;
            first.keep();
            std::fs::create_dir_all(self.host_proc(node.id))?;
            std::os::unix::fs::symlink(&process, self.host_proc(node.id).join("1"))?;
        }
        Ok(())
    }

    /// Makes a pod's namespace and cgroup and connects it to its node.
    pub(super) fn make_pod(&mut self, spec: PodSpec) -> Result<()> {
        let node = &self.nodes[spec.node.index()];
        let number = self.free_number(spec.node).context("no address left on the node")?;
        let netns = Netns::create(format!("cv-{}-{}", self.id, spec.name))
            .with_context(|| format!("could not make pod {}", spec.name))?;
        let cgroup = cgroup::of_lab(&self.id)?.join(spec.node.name()).join("pods").join(&spec.name);
        cgroup::create(&cgroup)?;
        let name = &spec.name;
        wire(node, &netns, number)?;
        let place = Place::new(name, netns, cgroup, &self.directory.join("logs"));
        self.pods.push(Pod { spec, place, number });
        Ok(())
    }

    /// The lowest number on a node that no pod has; 1 is the node's own.
    fn free_number(&self, node: NodeId) -> Option<u8> {
        (2..AGENT_NUMBERS[0]).find(|number| {
            !self.pods.iter().any(|pod| pod.spec.node == node && pod.number == *number)
        })
    }
}

/// As a cluster's network does it: one wire to each pod, one route to each address.
fn wire(node: &Node, netns: &Netns, number: u8) -> Result<()> {
    let (gateway, gateway6) = (pod4(node.id, 1), pod6(node.id, 1));
    let (own, own6) = (pod4(node.id, number), pod6(node.id, number));
    node.netns().ip(&format!(
        "link add v-{number} type veth peer name eth0 netns {}\nlink set v-{number} up\n\
         addr add {gateway}/32 dev v-{number}\naddr add {gateway6}/128 dev v-{number} nodad\n\
         route add {own} dev v-{number}\nroute add {own6} dev v-{number}\n",
        netns.name()
    ))?;
    netns.ip(&format!(
        "link set eth0 up\naddr add {own}/32 dev eth0\naddr add {own6}/128 dev eth0 nodad\n\
         route add {gateway} dev eth0\nroute add default via {gateway}\n\
         route add {gateway6} dev eth0\nroute add default via {gateway6}\n"
    ))
}

fn place_node(id: &str, node: NodeId, directory: &std::path::Path, contained: bool) -> Node {
    let netns = Netns::named(format!("cv-{id}-{}", node.name()));
    let logs = directory.join("logs");
    let cgroup = cgroup::of_lab(id).unwrap_or_else(|_| PathBuf::from("/nowhere")).join(node.name());
    Node {
        id: node,
        host: Place::new(node.name(), netns.clone(), cgroup.join("host"), &logs),
        agents: ["agent", "agent2"].map(|name| {
            let netns = if contained {
                Netns::named(format!("cv-{id}-{}-{name}", node.name()))
            } else {
                netns.clone()
            };
            Place::new(&format!("{}.{name}", node.name()), netns, cgroup.join("agent"), &logs)
        }),
    }
}

/// A name that no other process's lab has, and no other lab of this process.
fn own_id() -> String {
    static LABS: AtomicU32 = AtomicU32::new(0);
    format!("{:x}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed))
}
