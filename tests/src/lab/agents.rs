//! The CA and the agents of a lab: started, asked, stopped.

use super::{Lab, NodeId};
use crate::clock::Clock;
use crate::files::{self, AgentSettings};
use crate::http::{self, Scrape};
use crate::place::Place;
use crate::process::{self, Finished, Process, Signal};
use crate::{cgroup, paths, sweep, wait};
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Port of the CA, on node 1's host.
pub(crate) const CA_PORT: u16 = 15012;

/// Port of an agent's metrics.
const METRICS_PORT: u16 = 15020;

/// Port that tells whether an agent is ready.
const READINESS_PORT: u16 = 15021;

/// What an agent in a cluster may do; as `daemonset/` has it.
pub(super) const CAPABILITIES: [&str; 4] = ["bpf", "net_admin", "sys_admin", "sys_ptrace"];

/// Longest that an agent may take to be ready, or to end after it was asked to.
const AGENT_LIMIT: Duration = Duration::from_mins(1);

impl Lab {
    /// Starts the CA and waits until it listens.
    ///
    /// # Errors
    /// It does not come up; its last lines are in the text.
    pub fn start_ca(&mut self) -> Result<()> {
        self.ca = Some(self.spawn_ca(NodeId::Node1)?);
        Ok(())
    }

    /// Starts a CA on a node, on the one store of the lab: beside the lab's own, another replica.
    ///
    /// # Errors
    /// It does not come up; its last lines are in the text.
    pub fn spawn_ca(&self, on: NodeId) -> Result<Process> {
        let directory = self.ca_directory();
        let listen = format!("{}:{CA_PORT}", self.node(on).v4());
        let mut words = self.ca_clock.as_ref().map(Clock::words).unwrap_or_default();
        words.push(self.culvert()?.into());
        words.extend(["ca", "serve", "--dir"].map(OsString::from));
        words.push(directory.into());
        words.extend(
            ["--listen", &listen, "--trust-domain", &self.trust_domain, "--workloads"]
                .map(OsString::from),
        );
        words.push(self.directory.join("workloads.yaml").into());
        words.extend(self.ca_arguments.iter().map(OsString::from));
        let ca = self.node(on).host.spawn_as("culvert", &words)?;
        ca.wait_for("ca listening", AGENT_LIMIT)?;
        Ok(ca)
    }

    /// Ends the CA at once, as a crash would.
    pub fn kill_ca(&mut self) {
        if let Some(ca) = self.ca.take() {
            let _ = ca.signal(Signal::Kill); // gone already is as good
            ca.kill();
        }
    }

    /// Runs `culvert ca WORDS` on the lab's store.
    ///
    /// # Errors
    /// It could not be run, or did not end.
    pub fn ca_command(&self, words: &[&str]) -> Result<Finished> {
        let (culvert, directory) = (self.culvert()?, self.ca_directory());
        let mut all = vec![culvert.display().to_string(), "ca".to_owned()];
        all.extend(words.iter().map(|word| (*word).to_owned()));
        all.extend(["--dir".to_owned(), directory.display().to_string()]);
        self.node(NodeId::Node1).run(&all, AGENT_LIMIT)
    }

    /// The binary that CA and agents run.
    fn culvert(&self) -> Result<PathBuf> {
        self.culvert.clone().map_or_else(paths::culvert, Ok)
    }

    /// Stops the CA.
    ///
    /// # Errors
    /// It does not end when asked.
    pub fn stop_ca(&mut self) -> Result<()> {
        match self.ca.take() {
            Some(ca) => ca.terminate(AGENT_LIMIT).map(drop),
            None => Ok(()),
        }
    }

    /// Makes a token for a node and puts it where the node's agent reads it.
    pub(super) fn make_token(&self, id: NodeId) -> Result<()> {
        let culvert = self.culvert()?.display().to_string();
        let directory = self.ca_directory().display().to_string();
        let words = [culvert.as_str(), "ca", "token", "create", id.name(), "--dir", &directory];
        let token = self.node(NodeId::Node1).run(&words, AGENT_LIMIT)?.ok()?;
        let path = self.directory.join(format!("{}.token", id.name()));
        files::replace(&path, token.trim())
    }

    /// Starts a node's agent and waits until it is ready.
    ///
    /// # Errors
    /// It does not come up; its last lines are in the text.
    pub fn start_agent(&mut self, id: NodeId) -> Result<()> {
        self.launch_agent(id)?;
        self.wait_ready(id)
    }

    /// Starts a node's agent without waiting.
    ///
    /// # Errors
    /// It could not be started, or one runs already.
    pub fn launch_agent(&mut self, id: NodeId) -> Result<()> {
        if self.agents[id.index()].as_ref().is_some_and(|agent| agent.try_status().is_none()) {
            bail!("{} has an agent already", id.name());
        }
        files::replace(&self.agent_file(id), &self.agent_settings(id)?.text())?;
        let mut words = self.container()?;
        words.extend(self.clocks[id.index()].as_ref().map(Clock::words).unwrap_or_default());
        words.extend([
            self.culvert()?.into_os_string(),
            "agent".into(),
            "--config".into(),
            self.agent_file(id).into_os_string(),
        ]);
        self.agents[id.index()] = Some(self.agent_place(id).spawn_as("culvert", &words)?);
        Ok(())
    }

    /// Where a node's agent runs, or will.
    pub fn agent_place(&self, id: NodeId) -> &Place {
        &self.node(id).agents[self.turns[id.index()]]
    }

    /// Where the agents find what plays a host's `/proc`.
    pub(super) fn host_proc(&self, id: NodeId) -> PathBuf {
        self.directory.join(format!("{}.proc", id.name()))
    }

    /// Takes a capability from contained agents, from their next start.
    pub fn take_capability(&mut self, name: &str) {
        self.capabilities.retain(|has| *has != name);
    }

    /// What stands before an agent's own words so that it runs as in a container; nothing where it
    /// is not to.
    fn container(&self) -> Result<Vec<OsString>> {
        if !self.contained {
            return Ok(Vec::new());
        }
        let script = format!(
            "mount --bind {lab} {lab} && mount -o remount,bind,ro / && \
             mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && \
             exec setpriv --bounding-set=-all,+{capabilities} --inh-caps=-all -- \"$@\"",
            lab = self.directory.display(),
            capabilities = self.capabilities.join(",+"),
        );
        let unshare = process::find("unshare").context("there is no `unshare`")?;
        let words = ["--mount", "--propagation", "slave", "sh", "-ec", &script, "container"];
        Ok(std::iter::once(unshare.into_os_string()).chain(words.map(OsString::from)).collect())
    }

    /// Waits until a node's agent says that it is ready.
    ///
    /// # Errors
    /// It does not in time, or ended.
    pub fn wait_ready(&self, id: NodeId) -> Result<()> {
        let agent = self.agent(id)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, READINESS_PORT));
        let ready = wait::until(&format!("{} to be ready", id.name()), AGENT_LIMIT, || {
            if let Some(status) = agent.try_status() {
                return Some(Err(status));
            }
            let answer = http::get(self.agent_place(id).netns(), address, "/healthz/ready");
            answer.is_ok_and(|(status, _)| status == 200).then_some(Ok(()))
        });
        match ready {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => {
                bail!("the agent of {} ended with {status}:\n{}", id.name(), agent.tail(30))
            }
            Err(error) => Err(error.context(format!("it said:\n{}", agent.tail(30)))),
        }
    }

    /// Asks a node's agent for a clean end and waits for it.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn stop_agent(&mut self, id: NodeId) -> Result<()> {
        match self.agents[id.index()].take() {
            Some(agent) => agent.terminate(AGENT_LIMIT).map(drop),
            None => Ok(()),
        }
    }

    /// Starts a second agent beside the one that runs, which is handed out; the new one is the
    /// node's agent from now on. Returns once the new one has taken over.
    ///
    /// # Errors
    /// There was none, or the new one does not come up.
    pub fn take_over_agent(&mut self, id: NodeId) -> Result<Process> {
        let old = self.launch_second_agent(id)?;
        // Not the readiness port: the old one may be it that answers.
        self.agent(id)?.wait_for("first workloads enrolled", AGENT_LIMIT)?;
        Ok(old)
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// There was none, or the new one could not be started.
    pub fn launch_second_agent(&mut self, id: NodeId) -> Result<Process> {
        let old = self.agents[id.index()].take();
        let old = old.with_context(|| format!("{} has no agent", id.name()))?;
        self.turns[id.index()] ^= 1;
        self.launch_agent(id)?;
        Ok(old)
    }

    /// Ends a node's agent at once, as a crash would.
    pub fn kill_agent(&mut self, id: NodeId) {
        if let Some(agent) = self.agents[id.index()].take() {
            let _ = agent.signal(Signal::Kill); // gone already is as good
            agent.kill();
        }
    }

    /// Waits until each agent that runs has enrolled as many workloads as its node has.
    ///
    /// # Errors
    /// It has not in time.
    pub fn wait_enrolled(&self) -> Result<()> {
        for id in NodeId::ALL.into_iter().filter(|id| self.agents[id.index()].is_some()) {
            let pods = self.pods.iter().filter(|pod| pod.node() == id && pod.spec.enrolled);
            let wanted = pods.count().to_string();
            wait::until(
                &format!("{} to enrol {wanted} workloads", id.name()),
                AGENT_LIMIT,
                || {
                    let scrape = self.metrics(id).ok()?;
                    let enrolled = scrape.sum("culvert_capture_enrolled_workloads", &[]);
                    (enrolled.to_string() == wanted).then_some(())
                },
            )?;
        }
        Ok(())
    }

    /// What a node's agent counts now.
    ///
    /// # Errors
    /// It does not answer.
    pub fn metrics(&self, id: NodeId) -> Result<Scrape> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS_PORT));
        let (status, text) = http::get(self.agent_place(id).netns(), address, "/metrics")?;
        if status != 200 {
            bail!("the metrics of {} answered {status}", id.name());
        }
        Ok(Scrape::parse(&text))
    }

    /// How many descriptors a node's agent has open.
    ///
    /// # Errors
    /// It does not run.
    pub fn agent_descriptors(&self, id: NodeId) -> Result<usize> {
        let path = format!("/proc/{}/fd", self.agent(id)?.pid());
        Ok(fs::read_dir(&path).with_context(|| format!("could not list {path}"))?.count())
    }

    /// Resident memory of a node's agent, in bytes.
    ///
    /// # Errors
    /// It does not run.
    pub fn agent_memory(&self, id: NodeId) -> Result<u64> {
        let path = format!("/proc/{}/status", self.agent(id)?.pid());
        let text = fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
        let kibibytes: u64 = text
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .context("no VmRSS there")?;
        Ok(kibibytes * 1024)
    }

    /// Where workloads of a node find the Workload API.
    pub fn workload_socket(&self, id: NodeId) -> PathBuf {
        self.directory.join(format!("{}-api", id.name())).join("api.sock")
    }

    fn agent_file(&self, id: NodeId) -> PathBuf {
        self.directory.join(format!("{}.yaml", id.name()))
    }

    fn agent_settings(&self, id: NodeId) -> Result<AgentSettings> {
        let mut own = AgentSettings::default();
        own.set("", "node", id.name());
        own.set("", "trustDomain", &self.trust_domain);
        own.set("", "workloads", "workloads.yaml");
        own.set("", "policies", "policies.yaml");
        own.set("ca", "address", format!("{}:{CA_PORT}", self.node(NodeId::Node1).v4()));
        own.set("ca", "rootFile", "ca/root-cert.pem");
        own.set("ca", "tokenFile", format!("{}.token", id.name()));
        let cgroup = cgroup::of_lab(&self.id)?.join(id.name());
        own.set("capture", "cgroup", cgroup.display().to_string());
        own.set("capture", "pinDirectory", sweep::pins(&self.id, id.name()).display().to_string());
        own.set("admin", "socket", format!("{}.sock", id.name()));
        own.set("workloadApi", "socket", self.workload_socket(id).display().to_string());
        if self.contained {
            own.set("capture", "hostProc", self.host_proc(id).display().to_string());
        }
        own.set("observe", "metrics", format!("\"0.0.0.0:{METRICS_PORT}\""));
        own.set("observe", "readiness", format!("\"0.0.0.0:{READINESS_PORT}\""));
        own.set("observe", "log", "info");
        Ok(own.over(&self.settings).over(&self.own_settings[id.index()]))
    }
}
