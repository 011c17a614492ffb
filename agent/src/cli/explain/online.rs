//! `culvert explain` by asking agents: the source's says where the connection goes, those of the
//! destinations whether they take it.

use super::super::transport::{Answer, Answers, Ask, Transport};
use super::super::{CliError, Exit};
use super::Explain;
use crate::explain::{Arriving, Departing, Explanation, Judged, Way, percent};

/// The answer of the agents.
pub(super) fn ask(
    command: &Explain,
    transport: &Transport,
) -> Result<(Explanation, Exit), CliError> {
    let mut path = format!(
        "/explain?source={}&destination={}&plaintext={}",
        percent(&command.source),
        percent(&command.destination),
        command.plaintext
    );
    if let Some(namespace) = &command.namespace {
        path.extend(["&namespace=", &percent(namespace)]);
    }
    let mut answers: Answers<Departing> = transport.get(&path);
    let Some(best) = best(&mut answers) else {
        // All have said why.
        return match answers.faults.into_iter().next() {
            Some(fault) => Err(fault.error.into()),
            None => Err(CliError::NoAnswer),
        };
    };
    if best.complete || !answers.fleet {
        let mut explanation = best.explanation;
        if !best.complete {
            explanation.notes.push(second_hand(&best.node));
        }
        return Ok((explanation, Exit::Done));
    }
    let mut missing = Vec::new();
    let judged = best.departure.ways.iter().map(|way| {
        let judged = arrival(transport, &best, way);
        if judged.is_none() && way.refused.is_none() {
            missing.extend(way.node.clone());
        }
        judged
    });
    let judged: Vec<_> = judged.collect();
    if !missing.is_empty() {
        let mut explanation = best.explanation;
        explanation.notes.push(second_hand(&best.node));
        explanation.notes.push(format!("no agent of {} answers", missing.join(", ")));
        return Ok((explanation, Exit::Incomplete));
    }
    Ok((best.departure.explanation(judged), Exit::Done))
}

/// The answer of the source's own agent, else any.
fn best(answers: &mut Answers<Departing>) -> Option<Departing> {
    let own = answers.good.iter().position(|good| good.answer.first_hand).unwrap_or(0);
    (own < answers.good.len()).then(|| answers.good.swap_remove(own).answer)
}

/// What the agent of the destination's node says; none if it says nothing.
fn arrival(transport: &Transport, best: &Departing, way: &Way) -> Option<Judged> {
    if way.refused.is_some() {
        return None;
    }
    let mut path = format!(
        "/explain/arrival?to={}&source={}&inside={}",
        percent(&way.to.to_string()),
        percent(&best.departure.client.to_string()),
        way.inside
    );
    if let Some(peer) = &way.peer {
        path.extend(["&peer=", &percent(peer.as_str())]);
    }
    let node = way.node.as_deref().unwrap_or(&best.node);
    let answers: Answers<Arriving> = transport.of_node(node, &Ask::get(path));
    answers.good.into_iter().next().map(|Answer { answer, .. }| answer.judged)
}

fn second_hand(node: &str) -> String {
    format!(
        "the agent of {node} does not know every label of the destination, whose own agent \
         decides: ask all with --cluster"
    )
}
