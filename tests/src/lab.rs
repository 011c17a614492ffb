//! A lab: built, changed while it runs, and taken down.

mod agents;
mod build;
mod kernel;
mod nodes;

pub use build::Builder;
pub use kernel::KernelState;
pub use nodes::{Node, NodeId, Pod};

use crate::clock::Clock;
use crate::files::{self, AgentSettings, PodSpec};
use crate::place::Place;
use crate::process::{Process, Signal};
use crate::{cgroup, sweep};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A running lab; dropping it takes everything down.
#[derive(Debug)]
pub struct Lab {
    id: String,
    directory: PathBuf,
    trust_domain: String,
    nodes: [Node; 2],
    pods: Vec<Pod>,
    settings: AgentSettings,
    own_settings: [AgentSettings; 2],
    ca_arguments: Vec<String>,
    culvert: Option<PathBuf>,
    contained: bool,
    /// Of what contained agents may do.
    capabilities: Vec<&'static str>,
    /// Which of the node's two places its agent has.
    turns: [usize; 2],
    clocks: [Option<Clock>; 2],
    ca_clock: Option<Clock>,
    ca: Option<Process>,
    agents: [Option<Process>; 2],
    kept: bool,
}

impl Lab {
    /// Starts describing a lab.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// What stands in the name of everything that this lab made.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where its files and logs are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The CA's own folder.
    pub fn ca_directory(&self) -> PathBuf {
        self.directory.join("ca")
    }

    /// A pod by name.
    ///
    /// # Panics
    /// There is no such pod: a mistake of the test.
    #[expect(clippy::expect_used, reason = "a wrong name in a test must stop it there")]
    pub fn pod(&self, name: &str) -> &Pod {
        self.pods.iter().find(|pod| pod.name() == name).expect("a pod of this name")
    }

    /// All pods.
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// A node's agent.
    ///
    /// # Errors
    /// It was stopped.
    pub fn agent(&self, id: NodeId) -> Result<&Process> {
        self.agents[id.index()].as_ref().with_context(|| format!("{} has no agent", id.name()))
    }

    /// The CA.
    ///
    /// # Errors
    /// It was stopped.
    pub fn ca(&self) -> Result<&Process> {
        self.ca.as_ref().context("the CA was stopped")
    }

    /// Sets a value of the agents' configuration; counts from their next start.
    pub fn set(&mut self, section: &str, key: &str, value: &str) {
        self.settings.set(section, key, value);
    }

    /// Gives a node's agent a clock of its own, from its next start; the test moves it meanwhile.
    ///
    /// # Errors
    /// This machine has no libfaketime.
    pub fn give_clock(&mut self, id: NodeId) -> Result<Clock> {
        let clock = Clock::new(&self.directory.join(format!("{}.clock", id.name())))?;
        self.clocks[id.index()] = Some(clock.clone());
        Ok(clock)
    }

    /// Gives the CA a clock of its own, from its next start.
    ///
    /// # Errors
    /// As [`Lab::give_clock`].
    pub fn give_ca_clock(&mut self) -> Result<Clock> {
        let clock = Clock::new(&self.directory.join("ca.clock"))?;
        self.ca_clock = Some(clock.clone());
        Ok(clock)
    }

    /// Sets a value of one node's agent; counts from its next start.
    pub fn set_for(&mut self, id: NodeId, section: &str, key: &str, value: &str) {
        self.own_settings[id.index()].set(section, key, value);
    }

    /// Replaces the policies: a stream of Istio documents.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn set_policies(&self, text: &str) -> Result<()> {
        files::replace(&self.directory.join("policies.yaml"), text)
    }

    /// Adds a pod and writes the workloads anew.
    ///
    /// # Errors
    /// Its namespace could not be made.
    pub fn add_pod(&mut self, spec: PodSpec) -> Result<()> {
        self.make_pod(spec)?;
        self.write_workloads()
    }

    /// Adds many pods with one edit of the workloads.
    ///
    /// # Errors
    /// As [`Lab::add_pod`].
    pub fn add_pods(&mut self, specs: impl IntoIterator<Item = PodSpec>) -> Result<()> {
        for spec in specs {
            self.make_pod(spec)?;
        }
        self.write_workloads()
    }

    /// Makes a pod's namespace anew under the same name and addresses, as a restart of the pod does;
    /// the workloads stay as they are.
    ///
    /// # Errors
    /// There is no such pod, or a step failed.
    pub fn remake_pod(&mut self, name: &str) -> Result<()> {
        let at = self.pods.iter().position(|pod| pod.name() == name).context("no such pod")?;
        let pod = self.pods.remove(at);
        cgroup::remove(pod.cgroup())?;
        // The agent holds the namespace open, so its wire does not go with its name.
        self.node(pod.node()).netns().ip(&format!("link del v-{}\n", pod.number))?;
        pod.netns().delete()?;
        self.make_pod(pod.spec)
    }

    /// Takes pods out of the workloads, then removes their namespaces and ends their programs.
    /// `settled` is run between the two: where it waits until the agents have let go of them.
    ///
    /// # Errors
    /// A step failed.
    pub fn remove_pods(
        &mut self,
        names: &[&str],
        settled: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<()> {
        let (gone, kept) = self.pods.drain(..).partition(|pod: &Pod| names.contains(&pod.name()));
        self.pods = kept;
        self.write_workloads()?;
        settled(self)?;
        for pod in &gone as &Vec<Pod> {
            cgroup::remove(pod.cgroup())?;
            pod.netns().delete()?;
        }
        Ok(())
    }

    /// Enrols a pod or takes it out, and writes the workloads anew.
    ///
    /// # Errors
    /// There is no such pod, or the file could not be written.
    pub fn set_enrolled(&mut self, name: &str, enrolled: bool) -> Result<()> {
        let pod = self
            .pods
            .iter_mut()
            .find(|pod| pod.name() == name)
            .with_context(|| format!("no pod {name}"))?;
        pod.spec.enrolled = enrolled;
        pod.spec.listed |= enrolled;
        self.write_workloads()
    }

    /// Writes the workloads as the pods are now.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn write_workloads(&self) -> Result<()> {
        let paths: Vec<_> = self.pods.iter().map(|pod| pod.netns().path()).collect();
        let entries = self.pods.iter().zip(&paths).map(|(pod, netns)| files::Entry {
            spec: &pod.spec,
            addresses: [pod.v4().into(), pod.v6().into()],
            netns,
        });
        self.write_workloads_text(&files::workloads(entries))
    }

    /// Writes a text of the test's own as the workloads.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn write_workloads_text(&self, text: &str) -> Result<()> {
        files::replace(&self.directory.join("workloads.yaml"), text)
    }

    /// Leaves everything running; `cargo xtask lab down`, or [`sweep::remove`], ends it.
    pub fn keep(mut self) {
        self.kept = true;
        sweep::disown(&self.id);
        for process in self.agents.iter_mut().flatten().chain(self.ca.as_mut()) {
            process.stay();
        }
    }

    /// Where programs of a node's host run; the same as the node itself.
    pub fn host(&self, id: NodeId) -> &Place {
        self.node(id)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // In order: agents that end on their own leave nothing to be swept.
        for agent in self.agents.iter().flatten() {
            let _ = agent.signal(Signal::Terminate); // gone already is as good
        }
        for agent in self.agents.iter().flatten() {
            let _ = agent.wait(Duration::from_secs(3)); // the sweep ends what does not listen
        }
        let _ = sweep::keep_logs(&self.id); // only a failing scenario would look for them
        if let Err(error) = sweep::remove(&self.id) {
            eprintln!("warning: lab {} was not taken down as a whole: {error:#}", self.id);
        }
    }
}
