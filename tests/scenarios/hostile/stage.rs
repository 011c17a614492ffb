//! The lab that is attacked: who is the victim, who is honest, and what must be as before.

use super::mint::Mint;
use super::tls::{Credentials, Tls};
use anyhow::{Context, Result, bail, ensure};
use culvert_tests::{Lab, NodeId, Process, SOON, Scrape, until};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// The HBONE port.
const HBONE: u16 = 15008;

/// The port of the victim's application.
pub(super) const PORT: u16 = 80;

/// Longest that an honest flow may take while an attack goes on, with all the programs that it
/// starts, on two cores that the attacker shares.
const HONEST: Duration = Duration::from_secs(5);

/// Most memory that an attack may cost the agent, in bytes.
const MEMORY: u64 = 96 << 20;

/// A lab with an application in pod `b1`, the attacker in `x1` and an honest client in `a1`.
pub(super) struct Stage {
    pub(super) lab: Lab,
    pub(super) mint: Mint,
    application: Process,
    agent: u32,
    descriptors: usize,
    memory: u64,
    before: Scrape,
}

impl Stage {
    /// Builds it, and looks at the victim's agent once an honest flow has gone through.
    pub(super) fn build() -> Result<Self> {
        // One worker: whom the attacker keeps busy is whom the honest flow needs.
        Self::build_with(|lab| lab)
    }

    /// The same with settings of the test's own.
    pub(super) fn build_with(
        more: impl FnOnce(culvert_tests::Builder) -> culvert_tests::Builder,
    ) -> Result<Self> {
        let lab = more(Lab::builder().standard().set("tunnel", "workers", "1")).start()?;
        let mint = Mint::of_lab(&lab)?;
        let application = lab.pod("b1").app(&["serve", "--listen", &format!("[::]:{PORT}")])?;
        application.wait_for("listening", SOON)?;
        let agent = lab.agent(NodeId::Node2)?.pid();
        let before = lab.metrics(NodeId::Node2)?;
        let mut stage = Self { lab, mint, application, agent, descriptors: 0, memory: 0, before };
        stage.honest()?;
        stage.descriptors = stage.settled_descriptors()?;
        stage.memory = stage.lab.agent_memory(NodeId::Node2)?;
        stage.before = stage.lab.metrics(NodeId::Node2)?;
        Ok(stage)
    }

    /// Where the victim takes HBONE.
    pub(super) fn victim(&self) -> SocketAddr {
        self.lab.pod("b1").at(HBONE)
    }

    /// The authority that an honest request would have.
    pub(super) fn authority(&self) -> String {
        self.lab.pod("b1").at(PORT).to_string()
    }

    /// A TCP connection from the attacker to the victim.
    pub(super) fn dial(&self) -> Result<TcpStream> {
        let to = self.victim();
        let socket = self
            .lab
            .pod("x1")
            .netns()
            .enter(|| TcpStream::connect_timeout(&to, SOON))?
            .with_context(|| format!("could not connect to {to}"))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(SOON))?;
        socket.set_write_timeout(Some(SOON))?;
        Ok(socket)
    }

    /// Many of them at once.
    pub(super) fn dial_many(&self, count: usize) -> Result<Vec<TcpStream>> {
        let to = self.victim();
        let dialled = self.lab.pod("x1").netns().enter(|| {
            (0..count).map(|_| TcpStream::connect_timeout(&to, SOON)).collect::<Result<Vec<_>, _>>()
        })?;
        dialled.context("could not connect so often")
    }

    /// TLS to the victim, past the client's side of the handshake, as a peer that it believes.
    pub(super) fn believed(&self) -> Result<Tls> {
        let mut tls = Tls::client(self.dial()?, &Credentials::of(self.mint.svid("x1")?))?;
        match tls.handshake() {
            Ok(()) => Ok(tls),
            Err(end) => bail!("a good certificate was refused: {end:?}"),
        }
    }

    /// One honest flow, from connect to echo, on the connection that is there already.
    pub(super) fn honest(&self) -> Result<()> {
        self.honest_from("a1")
    }

    /// The same from a workload that has had no flow yet: with a handshake of its own. Its
    /// connection stays open, and counts as there from the beginning.
    pub(super) fn newcomer(&mut self) -> Result<()> {
        self.descriptors += 1;
        self.honest_from("a2")
    }

    fn honest_from(&self, pod: &str) -> Result<()> {
        let to = self.authority();
        let said = self
            .lab
            .pod(pod)
            .run_app(&["talk", "--line", "--to", &to], SOON)
            .and_then(culvert_tests::Finished::json)
            .context("the honest flow failed")?;
        ensure!(said["peer"] == to && said["echoed"] == true, "the honest flow: {said}");
        Ok(())
    }

    /// Runs an attack on a thread of its own while honest flows go on: each of them must get
    /// through in time. At least one begins while the attack runs.
    pub(super) fn while_honest<T: Send>(
        &self,
        attack: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        thread::scope(|scope| {
            let attacking = scope.spawn(attack);
            loop {
                let begun = Instant::now();
                self.honest()?;
                let took = begun.elapsed();
                ensure!(took < HONEST, "an honest flow took {took:?} during the attack");
                if attacking.is_finished() {
                    break;
                }
            }
            attacking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Waits until the victim's agent has counted the reason at least `times` more than at the
    /// beginning and logged it, with the attacker's address and, in the same line, `words`.
    pub(super) fn counted(&self, reason: &str, times: u32, words: &str) -> Result<()> {
        let labels = [("direction", "inbound"), ("reason", reason)];
        let name = "culvert_flow_failures_total";
        let wanted = self.before.sum(name, &labels) + f64::from(times);
        let mut last = 0.0;
        until(&format!("{wanted} failures for reason {reason}"), SOON, || {
            last = self.lab.metrics(NodeId::Node2).ok()?.sum(name, &labels);
            (last >= wanted).then_some(())
        })
        .with_context(|| format!("there are {last}"))?;
        let source = format!("src.addr={}:", self.lab.pod("x1").v4());
        let label = format!("reason=\"{reason}\"");
        self.lab
            .agent(NodeId::Node2)?
            .wait_for_line(&format!("a line with {source} {label} {words:?}"), SOON, |line| {
                line.contains(&source) && line.contains(&label) && line.contains(words)
            })
            .map(drop)
    }

    /// That no application saw the attacker, that the next honest flow gets through, and that the
    /// agent is as it was.
    pub(super) fn unharmed(&self) -> Result<()> {
        ensure!(
            !self.saw_attacker(),
            "the application saw the attacker: {}",
            self.application.log()
        );
        self.still_serves()
    }

    /// The same where the attacker was allowed to reach the application.
    pub(super) fn still_serves(&self) -> Result<()> {
        let agent = self.lab.agent(NodeId::Node2)?;
        let status = agent.try_status();
        ensure!(status.is_none() && agent.pid() == self.agent, "the agent ended: {status:?}");
        self.honest()?;
        self.memory_is_bounded()?;
        let mut last = 0;
        until("the agent's descriptors to be as before", SOON, || {
            last = self.lab.agent_descriptors(NodeId::Node2).ok()?;
            (last <= self.descriptors).then_some(())
        })
        .with_context(|| format!("there were {}, now there are {last}", self.descriptors))
    }

    /// That the agent has not grown beyond what an attack may cost.
    pub(super) fn memory_is_bounded(&self) -> Result<()> {
        let now = self.lab.agent_memory(NodeId::Node2)?;
        ensure!(
            now < self.memory + MEMORY,
            "the agent grew from {} to {} MiB",
            self.memory >> 20,
            now >> 20
        );
        Ok(())
    }

    /// Whether the application has taken a connection that shows the attacker's address.
    pub(super) fn saw_attacker(&self) -> bool {
        self.mentions_attacker(&self.application.stdout())
    }

    /// Whether a program's words name the attacker's address as a peer.
    pub(super) fn mentions_attacker(&self, words: &str) -> bool {
        let address = self.lab.pod("x1").v4();
        words.lines().any(|line| {
            line.contains(&format!("\"{address}:")) || line.contains(&format!("ffff:{address}]"))
        })
    }

    /// Waits until no socket of the victim's pod at `port` is connected any more.
    pub(super) fn application_is_let_go(&self, port: u16, limit: Duration) -> Result<()> {
        let filter = format!("( sport = :{port} )");
        let pod = self.lab.pod("b1");
        let mut last = String::new();
        until("the application's connection to end", limit, || {
            let words = ["ss", "-Htn", "state", "connected", &filter];
            last = pod.run(&words, SOON).ok()?.ok().ok()?;
            last.trim().is_empty().then_some(())
        })
        .with_context(|| format!("still there: {last}"))
    }

    /// The descriptors once they no longer change: honest flows close a moment after their client.
    fn settled_descriptors(&self) -> Result<usize> {
        let mut last = (0, Instant::now());
        until("the agent's descriptors to settle", SOON, || {
            let now = self.lab.agent_descriptors(NodeId::Node2).ok()?;
            if now != last.0 {
                last = (now, Instant::now());
            }
            (last.1.elapsed() > Duration::from_millis(300)).then_some(now)
        })
    }
}
