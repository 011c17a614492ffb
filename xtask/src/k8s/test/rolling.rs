//! A rolling update of the agent under load.

use super::load::Load;
use super::subject::{SYSTEM, Subject};
use crate::checks::{self, Checks};
use anyhow::{Context, Result, ensure};

/// Connections that each client keeps.
const KEPT: usize = 4;
/// Clients.
const CLIENTS: u64 = 2;
/// Agents that each of a client's connections passes through, at most.
const AGENTS: u64 = 2;

/// Restarts every agent, one after the other.
pub(crate) fn part(subject: &Subject, checks: &mut Checks) {
    checks::part("the agents are replaced under load");
    checks.add("no new connection fails", update(subject));
}

fn update(subject: &Subject) -> Result<String> {
    let load = Load::start(subject, "rolling", KEPT)?;
    let before: Vec<_> =
        subject.nodes().iter().map(|node| subject.agent_on(node)).collect::<Result<_>>()?;
    let restart = ["-n", SYSTEM, "rollout", "restart", "daemonset/culvert-agent"];
    subject.kubectl().ok(&restart)?;
    subject.kubectl().rolled_out(SYSTEM, "daemonset/culvert-agent")?;
    // The old ones drain after the new ones are ready; their end belongs to the update.
    for agent in &before {
        let pod = format!("pod/{agent}");
        let words = ["-n", SYSTEM, "wait", "--for=delete", &pod, "--timeout=180s"];
        subject.kubectl().ok(&words)?;
    }
    let told = load.news()?;
    let errors = load.errors()?;
    let told = told.whole().with_context(|| errors)?;
    // A connection breaks at most once for each agent that it went through and that is gone.
    let most = CLIENTS * u64::try_from(KEPT)? * AGENTS;
    ensure!(told.kept_broken <= most, "{told}: more broken than could be");
    Ok(told.to_string())
}
