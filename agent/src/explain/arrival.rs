//! The second half: whether the destination takes the connection.

use std::net::SocketAddr;
use std::sync::Arc;

use culvert_spiffe::SpiffeId;
use serde::{Deserialize, Serialize};

use super::Mesh;
use super::answer::{Outcome, Party, Step, Verdict};
use super::words::{because, described, enrol, party, permit, policy_of, told};
use crate::observe::Reason;
use crate::policy::{
    self, Acceptance, Authorization, Inbound, InboundFlow, Refusal, Rule, effective,
};
use crate::workload::offline::is_made_up;
use crate::workload::{AuthorizationPolicy, Workload};

/// A connection that arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// An address of the workload, and its own port.
    pub to: SocketAddr,
    /// Where it comes from.
    pub source: SocketAddr,
    /// Whom the handshake proves the source to be; none for plaintext.
    pub peer: Option<SpiffeId>,
    /// Whether it has not left its namespace.
    pub inside: bool,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Judged {
    /// Whether it may be.
    pub verdict: Verdict,
    /// The word of log and metrics.
    pub reason: String,
    /// The policy that decided.
    pub policy: Option<String>,
    /// What decided.
    pub rule: String,
    /// Where it arrives.
    pub destination: Party,
    /// What was looked at.
    pub steps: Vec<Step>,
    /// What is to be known beside.
    pub notes: Vec<String>,
}

/// Judges a connection that arrives, by what is known of the workload that has the address.
pub fn arrival(mesh: Mesh<'_>, asked: &Arrival) -> Judged {
    let to = asked.to;
    let Some(workload) = mesh.snapshot.by_address(to.ip()) else {
        let address = told(to.ip()).map(|_| to.to_string());
        let text = format!("{to} is no workload of the mesh: nobody asks who connects");
        let step = Step::new("destination", Outcome::Ok, text);
        let party = Party { address, ..Party::default() };
        return free("the destination is no workload of the mesh", party, vec![step]);
    };
    let address = told(to.ip()).map(|_| to.to_string());
    let party = party(workload, address);
    let who = described(workload, to.ip(), Some(to.port()));
    if asked.inside {
        let step = Step::new("destination", Outcome::Ok, format!("{who}: the source itself"));
        return free("the connection does not leave its pod", party, vec![step]);
    }
    if !workload.enrolled {
        let text = format!(
            "{who}: not in the mesh{}; nobody asks who connects, and nothing protects it",
            because(mesh, workload)
        );
        let step = Step::new("destination", Outcome::Ok, text).fix(enrol(mesh, workload));
        return free("the destination is not in the mesh", party, vec![step]);
    }
    let text = format!("{who}: in the mesh{}", because(mesh, workload));
    let steps = vec![Step::new("destination", Outcome::Ok, text)];
    in_mesh(mesh, asked, workload, party, steps)
}

/// Nobody has anything against it.
fn free(rule: &str, destination: Party, steps: Vec<Step>) -> Judged {
    Judged {
        verdict: Verdict::Allow,
        reason: Reason::Ok.label().to_owned(),
        policy: None,
        rule: rule.to_owned(),
        destination,
        steps,
        notes: Vec::new(),
    }
}

fn in_mesh(
    mesh: Mesh<'_>,
    asked: &Arrival,
    workload: &Arc<Workload>,
    destination: Party,
    mut steps: Vec<Step>,
) -> Judged {
    let flow = InboundFlow {
        destination: workload,
        to: asked.to,
        source: asked.source,
        peer: asked.peer.as_ref(),
        from_node: false,
    };
    let decision = policy::inbound(mesh.snapshot, &flow);
    let (verdict, reason, rule) = match &decision {
        Inbound::Allow(allowed) => (Verdict::Allow, Reason::Ok, allowed.rule()),
        Inbound::Refuse(Refusal { reason, rule }) => (Verdict::Deny, *reason, rule),
    };
    if let Rule::IllegalPort(port) = rule {
        let text = format!("port {port} is one that the mesh itself listens on");
        let fix = "take another port for the application; 15001, 15006 and 15008 are the mesh's";
        steps.push(Step::new("destination_port", Outcome::Fail, text).fix(fix));
    } else {
        let protected = reason != Reason::PlaintextRefused;
        steps.push(peer_authentication(mesh, &flow, protected));
        steps.push(authorization(mesh, &flow, protected));
    }
    Judged {
        verdict,
        reason: reason.label().to_owned(),
        policy: policy_of(rule),
        rule: rule.to_string(),
        destination,
        steps,
        notes: notes(mesh, &flow),
    }
}

fn peer_authentication(mesh: Mesh<'_>, flow: &InboundFlow<'_>, protected: bool) -> Step {
    let port = flow.to.port();
    let effective = effective(mesh.snapshot, flow.destination, Some(port));
    let (rule, name) = (&effective.rule, "peer_authentication");
    match (effective.acceptance, flow.peer) {
        (Acceptance::MutualTlsOnly, Some(_)) => {
            let text =
                format!("port {port} takes mutual TLS only, and this is: {rule} says STRICT");
            Step::new(name, Outcome::Ok, text)
        }
        (Acceptance::PlaintextToo, Some(_)) => {
            let text = format!("port {port} takes mutual TLS, and plaintext too: {rule}");
            Step::new(name, Outcome::Ok, text)
        }
        (Acceptance::PlaintextToo, None) => {
            let text = format!("port {port} takes plaintext too: {rule}");
            Step::new(name, Outcome::Ok, text)
        }
        (Acceptance::MutualTlsOnly, None) => {
            debug_assert!(!protected, "inbound decides by the same function");
            let text = format!(
                "port {port} takes mutual TLS only, and this is plaintext: {rule} says STRICT"
            );
            Step::new(name, Outcome::Fail, text).fix(format!(
                "bring the source into the mesh; or, to take plaintext on this port, a \
                 PeerAuthentication that selects {} and says PERMISSIVE for it",
                flow.destination.key()
            ))
        }
    }
}

fn authorization(mesh: Mesh<'_>, flow: &InboundFlow<'_>, protected: bool) -> Step {
    let name = "authorization_policy";
    if !protected {
        return Step::new(name, Outcome::Skipped, "not asked: it is refused before");
    }
    let who = flow.peer.map_or_else(
        || format!("{}, which proves no identity,", shown_source(flow)),
        ToString::to_string,
    );
    match policy::authorization(mesh.snapshot, flow) {
        Authorization::NotAsked => {
            let denies = applying(mesh, flow.destination).any(|policy| !policy.dry_run);
            let text = if denies {
                format!("no rule that denies matches {who} on port {}", flow.to.port())
            } else {
                format!("no AuthorizationPolicy is about {}", flow.destination.key())
            };
            Step::new(name, Outcome::Ok, text)
        }
        Authorization::Allow(rule) => {
            let text = format!("{rule} allows {who} on port {}", flow.to.port());
            Step::new(name, Outcome::Ok, text)
        }
        Authorization::Refuse(rule) => {
            let text = match &rule {
                Rule::AuthorizationPolicy { .. } => {
                    format!("{rule} denies {who} on port {}", flow.to.port())
                }
                _ => format!("{who} on port {}: {rule}", flow.to.port()),
            };
            Step::new(name, Outcome::Fail, text).fix(permit(&rule, flow.peer, flow.to))
        }
    }
}

fn shown_source(flow: &InboundFlow<'_>) -> String {
    told(flow.source.ip()).unwrap_or_else(|| "the source".to_owned())
}

/// Policies that are about the workload, in force or not.
fn applying<'a>(
    mesh: Mesh<'a>,
    workload: &'a Workload,
) -> impl Iterator<Item = &'a AuthorizationPolicy> {
    let (all, root) = (mesh.snapshot.policies(), mesh.snapshot.root_namespace());
    all.authorization_policies().iter().filter(move |policy| policy.applies_to(workload, root))
}

fn notes(mesh: Mesh<'_>, flow: &InboundFlow<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(rule) = policy::would_refuse(mesh.snapshot, flow) {
        notes.push(format!("a policy in a dry run would refuse it: {rule}"));
    }
    let asks = |policy: &&AuthorizationPolicy| {
        let clauses = policy.rules.iter().flat_map(|rule| &rule.clauses);
        clauses.flat_map(|clause| &clause.0).any(|each| {
            (is_made_up(flow.source.ip()) && !each.source_ips.is_empty())
                || (is_made_up(flow.to.ip()) && !each.destination_ips.is_empty())
        })
    };
    if let Some(policy) = applying(mesh, flow.destination).find(asks) {
        notes.push(format!(
            "AuthorizationPolicy {}/{} asks for addresses, and the files do not say them: a block \
             of addresses was taken not to hold any; give `status.podIP`",
            policy.namespace, policy.name
        ));
    }
    notes
}
