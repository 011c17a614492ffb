//! [`Transport`]: how a command reaches the agents that it asks.
//!
//! ```text
//!  culvert status                       /run/culvert/admin.sock        the agent of this node
//!  culvert status --address 127.0.0.1:15000                            one agent, forwarded
//!  culvert status --cluster  ─┐
//!  kubectl culvert status    ─┴▶ API server ─ port-forward ─▶ 15000 of each agent's pod
//! ```
//!
//! Many agents are asked at once, a bounded number at a time. One that cannot be asked hides none
//! of the others: see [`Answers`].

mod cluster;
mod error;
mod exchange;
mod place;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use self::cluster::Cluster;
pub use self::error::{AgentError, TransportError};
pub use self::exchange::Ask;
use self::place::Place;
use super::exit::Exit;
use crate::config::{Config, DEFAULT_ADMIN_SOCKET};

/// Agents that are asked at the same time.
const AT_ONCE: usize = 32;

/// Which agents to ask. Flattened into every command that asks.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Which agents")]
pub struct Connect {
    /// The agent's admin socket [default: that of --config, or /run/culvert/admin.sock].
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The agent's configuration, to read the place of its socket from.
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "socket")]
    config: Option<PathBuf>,
    /// An agent's admin address, such as 127.0.0.1:15000.
    #[arg(long, global = true, value_name = "ADDRESS", conflicts_with_all = ["socket", "config"])]
    address: Option<SocketAddr>,
    /// Every agent of the cluster; what `kubectl culvert` does when nothing else is said.
    #[arg(long, global = true, conflicts_with_all = ["socket", "config", "address"])]
    cluster: bool,
    /// The kubeconfig of the cluster [default: as kubectl finds it]; implies --cluster.
    #[arg(long, global = true, value_name = "FILE", conflicts_with_all = ["socket", "config", "address"])]
    kubeconfig: Option<PathBuf>,
    /// The context in the kubeconfig; implies --cluster.
    #[arg(long, global = true, value_name = "NAME", conflicts_with_all = ["socket", "config", "address"])]
    context: Option<String>,
    /// Only the agent of this node; implies --cluster.
    #[arg(long, global = true, value_name = "NAME", conflicts_with_all = ["socket", "config", "address"])]
    node: Option<String>,
    /// The namespace that agents run in.
    #[arg(long, global = true, value_name = "NAME", default_value = "culvert-system")]
    culvert_namespace: String,
}

/// A way to one or many agents.
pub struct Transport {
    runtime: tokio::runtime::Runtime,
    agents: Agents,
}

/// The agents themselves, for what asks them from a runtime of its own. Cloning shares them.
#[derive(Clone)]
pub struct Agents {
    places: Arc<[Place]>,
    fleet: bool,
}

/// What agents said.
#[derive(Debug)]
pub struct Answers<T> {
    /// By node.
    pub good: Vec<Answer<T>>,
    /// Of those who did not answer, or refused.
    pub faults: Vec<Fault>,
    /// Whether all agents of a cluster were asked, and not one that was named.
    pub fleet: bool,
}

/// What one agent said.
#[derive(Clone, Debug)]
pub struct Answer<T> {
    /// The node, where it was known before the answer.
    pub node: Option<String>,
    /// What it said.
    pub answer: T,
}

/// Why one agent said nothing.
#[derive(Debug)]
pub struct Fault {
    /// The node, where it is known.
    pub node: Option<String>,
    /// Why.
    pub error: AgentError,
}

impl Transport {
    /// Finds the agents. `plugin` says that the command was called as a plugin of kubectl, which
    /// asks the cluster when nothing else is said.
    ///
    /// # Errors
    /// There is no configuration, no cluster, or no agent in it.
    pub fn open(connect: &Connect, plugin: bool) -> Result<Self, TransportError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(TransportError::Runtime)?;
        let fleet = connect.wants_cluster(plugin);
        let places = if fleet {
            let cluster = Cluster {
                kubeconfig: connect.kubeconfig.clone(),
                context: connect.context.clone(),
                namespace: connect.culvert_namespace.clone(),
                node: connect.node.clone(),
            };
            runtime.block_on(cluster.agents())?
        } else {
            vec![connect.one()?]
        };
        Ok(Self { runtime, agents: Agents { places: places.into(), fleet } })
    }

    /// What every agent answers.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Answers<T> {
        self.ask(&Ask::get(path))
    }

    /// What every agent answers to a question.
    pub fn ask<T: DeserializeOwned>(&self, ask: &Ask) -> Answers<T> {
        self.runtime.block_on(self.agents.ask(ask))
    }

    /// What the agent of one node answers; of an agent that was named, whatever its node is.
    pub fn of_node<T: DeserializeOwned>(&self, node: &str, ask: &Ask) -> Answers<T> {
        self.runtime.block_on(self.agents.of_node(node).ask(ask))
    }

    /// What every agent answers, word by word.
    pub fn text(&self, ask: &Ask) -> Answers<Zeroizing<String>> {
        self.runtime.block_on(self.agents.text(ask))
    }

    /// Runs a future on the command's runtime: for a command that asks again and again, or serves.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// The agents that were found.
    pub fn agents(&self) -> Agents {
        self.agents.clone()
    }
}

impl Agents {
    /// Those of one node; an agent that was named, whatever its node is.
    fn of_node(&self, node: &str) -> Self {
        let own = |place: &&Place| place.node().is_none_or(|own| own == node);
        let places = self.places.iter().filter(own).cloned().collect();
        Self { places, fleet: self.fleet }
    }

    /// As [`Transport::ask`].
    pub async fn ask<T: DeserializeOwned>(&self, ask: &Ask) -> Answers<T> {
        let mut answers = Answers { good: Vec::new(), faults: Vec::new(), fleet: self.fleet };
        for (place, answer) in self.each(ask).await {
            let node = place.node().map(str::to_owned);
            let parsed = answer.and_then(|text| {
                serde_json::from_str(&text).map_err(|source| AgentError::Answer {
                    place: place.to_string(),
                    source: Some(source),
                })
            });
            match parsed {
                Ok(answer) => answers.good.push(Answer { node, answer }),
                Err(error) => answers.faults.push(Fault { node, error }),
            }
        }
        answers
    }

    /// As [`Transport::text`].
    pub async fn text(&self, ask: &Ask) -> Answers<Zeroizing<String>> {
        let mut answers = Answers { good: Vec::new(), faults: Vec::new(), fleet: self.fleet };
        for (place, answer) in self.each(ask).await {
            let node = place.node().map(str::to_owned);
            match answer {
                Ok(answer) => answers.good.push(Answer { node, answer }),
                Err(error) => answers.faults.push(Fault { node, error }),
            }
        }
        answers
    }

    /// Asks all at once, in the order of their nodes.
    async fn each(&self, ask: &Ask) -> Vec<(Place, Result<Zeroizing<String>, AgentError>)> {
        stream::iter(self.places.to_vec())
            .map(|place| async move {
                let answer = ask.of(&place).await;
                (place, answer)
            })
            .buffered(AT_ONCE)
            .collect()
            .await
    }
}

impl Connect {
    fn wants_cluster(&self, plugin: bool) -> bool {
        let named = self.socket.is_some() || self.config.is_some() || self.address.is_some();
        let of_cluster = self.cluster
            || self.kubeconfig.is_some()
            || self.context.is_some()
            || self.node.is_some();
        of_cluster || (plugin && !named)
    }

    fn one(&self) -> Result<Place, TransportError> {
        if let Some(address) = self.address {
            return Ok(Place::Address(address));
        }
        Ok(Place::Socket(match (&self.socket, &self.config) {
            (Some(socket), _) => socket.clone(),
            (None, Some(config)) => Config::load(config)?.admin.socket,
            (None, None) => DEFAULT_ADMIN_SOCKET.into(),
        }))
    }
}

impl<T> Answers<T> {
    /// With what a command ends that had these answers; says on standard error which agents could
    /// not be asked. One agent alone that does not answer is an error.
    ///
    /// # Errors
    /// Nobody answered.
    pub fn complete(&mut self) -> Result<Exit, AgentError> {
        if self.good.is_empty() && self.faults.len() == 1 {
            return match self.faults.pop() {
                Some(fault) => Err(fault.error),
                None => Ok(Exit::Done),
            };
        }
        for fault in &self.faults {
            eprintln!("culvert: {}", fault.line());
        }
        Ok(if self.faults.is_empty() { Exit::Done } else { Exit::Incomplete })
    }

    /// The same answers, each turned into something else.
    pub fn map<U>(self, mut turn: impl FnMut(T) -> U) -> Answers<U> {
        let good = self.good.into_iter();
        let good = good.map(|Answer { node, answer }| Answer { node, answer: turn(answer) });
        Answers { good: good.collect(), faults: self.faults, fleet: self.fleet }
    }

    /// Only what was said.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.good.iter().map(|good| &good.answer)
    }
}

impl<T: Serialize> Answers<T> {
    /// The one answer as it is, or those of a cluster as `{items: [{node, answer | error}]}`.
    pub fn document(&self) -> serde_json::Value {
        // Answers were JSON once, so they become JSON again.
        let value = |answer: &T| serde_json::to_value(answer).unwrap_or_default();
        match (&self.good[..], self.fleet) {
            ([one], false) => value(&one.answer),
            (good, _) => {
                let good = good.iter().map(
                    |good| serde_json::json!({"node": good.node, "answer": value(&good.answer)}),
                );
                let faults = self.faults.iter().map(|fault| {
                    serde_json::json!({"node": fault.node, "error": with_causes(&fault.error)})
                });
                serde_json::json!({"items": good.chain(faults).collect::<Vec<_>>()})
            }
        }
    }
}

impl Fault {
    /// One line that names the node and every cause.
    pub fn line(&self) -> String {
        let text = with_causes(&self.error);
        match &self.node {
            Some(node) => format!("{node}: {text}"),
            None => text,
        }
    }
}

/// An error with what caused it, on one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.extend([": ", &error.to_string()]);
        cause = error.source();
    }
    text
}
