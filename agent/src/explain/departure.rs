//! The first half: where a connection goes, and how.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use culvert_spiffe::SpiffeId;
use serde::{Deserialize, Serialize};

use super::answer::{Explanation, Other, Outcome, Party, Path, Protection, Step, Verdict};
use super::arrival::Judged;
use super::place::{Destination, Source};
use super::words::{because, described, enrol, party, policy_of, told};
use super::{Mesh, Question, shown};
use crate::observe::Reason;
use crate::policy::{self, Outbound, OutboundFlow, PassthroughReason, Refusal, Rule};
use crate::workload::{Distance, Endpoint, Service, Workload};

/// Endpoints of a Service that are looked at, at most.
const MOST_WAYS: usize = 64;

/// Where a connection goes, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Departure {
    /// Who connects.
    pub source: Party,
    /// The address that the destination sees.
    pub client: IpAddr,
    /// The Service that was asked for, if it is one.
    pub service: Option<String>,
    /// Each place that it may get to.
    pub ways: Vec<Way>,
    /// What was looked at.
    pub steps: Vec<Step>,
    /// What brings the source into the mesh, where it is not.
    pub enrol: Option<String>,
}

/// One place that a connection may get to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Way {
    /// The workload's own address and port, or what was dialled.
    pub to: SocketAddr,
    /// The node of the workload there, if there is one.
    pub node: Option<String>,
    /// Whom the source proves to be; none in plaintext.
    pub peer: Option<SpiffeId>,
    /// Whom the other end must prove to be; none in plaintext.
    pub expected: Option<SpiffeId>,
    /// How it goes.
    pub path: Path,
    /// Whether it does not leave its namespace.
    pub inside: bool,
    /// Why it does not even leave.
    pub refused: Option<Refused>,
    /// In words.
    pub text: String,
}

/// Why a connection does not leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// The word of log and metrics.
    pub reason: String,
    /// What decided.
    pub rule: String,
    /// The policy that decided.
    pub policy: Option<String>,
    /// What to do.
    pub fix: String,
}

/// Follows a connection to each place that it may get to.
pub(super) fn departure(
    mesh: Mesh<'_>,
    question: &Question,
    source: &Source,
    destination: &Destination,
) -> Departure {
    let dialled = match destination {
        Destination::Service { dialled, .. } | Destination::Address(dialled) => *dialled,
        Destination::Workloads(all) => all.first().map_or_else(nowhere, |(_, address)| *address),
    };
    let own = source.workload().and_then(|workload| workload.addresses.first().copied());
    let unknown = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let client = source.client(dialled.ip()).or(own).unwrap_or(unknown);
    let leaving = Leaving { mesh, source, client, plaintext: question.plaintext };
    let mut ways = match destination {
        Destination::Service { dialled, service } => leaving.to_service(*dialled, service),
        Destination::Workloads(all) => {
            let to = all.iter().take(MOST_WAYS);
            to.map(|(_, address)| leaving.to_address(*address)).collect()
        }
        Destination::Address(address) => vec![leaving.to_address(*address)],
    };
    for way in &mut ways {
        let there = mesh.snapshot.by_address(way.to.ip());
        way.node = there.map(|workload| workload.node.clone()).filter(|node| !node.is_empty());
    }
    let service = match destination {
        Destination::Service { dialled, service } => {
            Some(format!("{}/{}:{}", service.namespace, service.name, dialled.port()))
        }
        _ => None,
    };
    let enrolled = source.workload().is_some_and(|workload| workload.enrolled);
    Departure {
        source: match source {
            Source::Workload(workload, _) => party(workload, told(client)),
            Source::Outside { .. } => Party { address: told(client), ..Party::default() },
        },
        client,
        service,
        ways,
        steps: leaving.steps(),
        enrol: source.workload().filter(|_| !enrolled).map(|workload| enrol(mesh, workload)),
    }
}

fn nowhere() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)
}

/// A connection about to leave.
struct Leaving<'a> {
    mesh: Mesh<'a>,
    source: &'a Source,
    client: IpAddr,
    /// Whether it goes round the mesh.
    plaintext: bool,
}

impl Leaving<'_> {
    /// Who connects, and whether the mesh has it in hands.
    fn steps(&self) -> Vec<Step> {
        let (workload, more) = match self.source {
            Source::Workload(workload, more) => (workload, *more),
            Source::Outside { name, what, .. } => {
                let text = format!("{name}: {what}");
                let enrolled = "not in the mesh: what it sends is plaintext";
                return vec![
                    Step::new("source", Outcome::Ok, text),
                    Step::new("enrolled", Outcome::Ok, enrolled),
                ];
            }
        };
        let mut text = described(workload, self.client, None);
        if more > 0 {
            text.push_str(&format!(" (the name fits {more} more)"));
        }
        let because = because(self.mesh, workload);
        let enrolled = match (workload.enrolled, self.plaintext) {
            (true, false) => format!("in the mesh{because}"),
            (true, true) => {
                format!("in the mesh{because}; but the question is about plaintext from it")
            }
            (false, _) => format!("not in the mesh{because}; what it sends is plaintext"),
        };
        vec![Step::new("source", Outcome::Ok, text), Step::new("enrolled", Outcome::Ok, enrolled)]
    }

    /// The workload, if the mesh has its connections in hands.
    fn steered(&self) -> Option<&Arc<Workload>> {
        let workload = self.source.workload()?;
        (workload.enrolled && !self.plaintext).then_some(workload)
    }

    fn to_address(&self, to: SocketAddr) -> Way {
        match self.steered() {
            Some(source) => self.decided(source, to, 0),
            None => self.untouched(to),
        }
    }

    fn to_service(&self, dialled: SocketAddr, service: &Service) -> Vec<Way> {
        let all = service.ports.get(&dialled.port()).map(Vec::as_slice).unwrap_or_default();
        let Some(source) = self.steered() else {
            return self.left_to_the_cluster(dialled, all, service);
        };
        // Each draw is another endpoint, as long as there are some.
        let draws = (0..u64::MAX).zip(0..all.len().clamp(1, MOST_WAYS)).map(|(draw, _)| draw);
        let mut ways: Vec<Way> = Vec::new();
        for way in draws.map(|draw| self.decided(source, dialled, draw)) {
            if way.to == dialled && way.refused.is_none() {
                return self.left_to_the_cluster(dialled, all, service);
            }
            if ways.iter().all(|known| known.to != way.to) {
                ways.push(way);
            }
        }
        ways
    }

    /// What the data path does.
    fn decided(&self, source: &Workload, to: SocketAddr, draw: u64) -> Way {
        let flow = OutboundFlow { source, client: self.client, destination: to, draw };
        let way = |to, path, text: String| Way {
            to,
            node: None,
            peer: None,
            expected: None,
            path,
            inside: false,
            refused: None,
            text,
        };
        let inside = |to: SocketAddr| {
            let text = format!("{} is the source itself: it does not leave its pod", shown(to));
            Way { inside: true, ..way(to, Path::Kernel, text) }
        };
        match policy::outbound(self.mesh.snapshot, &flow) {
            Outbound::Tunnel { to, .. } if source.addresses.contains(&to.ip()) => inside(to),
            Outbound::Tunnel { destination, to } => {
                let text = format!(
                    "tunnel: mutual TLS to the agent in front of {}, which must prove to be {}",
                    destination.key(),
                    destination.identity
                );
                Way {
                    peer: Some(source.identity.clone()),
                    expected: Some(destination.identity.clone()),
                    ..way(to, Path::Tunnel, text)
                }
            }
            Outbound::Passthrough { to, reason: PassthroughReason::Itself } => inside(to),
            Outbound::Passthrough { to, reason } => {
                let (path, why) = match reason {
                    PassthroughReason::NotEnrolled => (
                        Path::Kernel,
                        "the destination is not in the mesh, so the kernel lets it go",
                    ),
                    PassthroughReason::UnknownDestination => {
                        (Path::Direct, "nobody in the mesh has the address")
                    }
                    PassthroughReason::UnknownPort => {
                        (Path::Direct, "the Service has no such port")
                    }
                    PassthroughReason::Itself => (Path::Kernel, "it does not leave its pod"),
                };
                way(to, path, format!("unprotected: {why}"))
            }
            Outbound::Refuse(refusal) => Way {
                refused: Some(refused(&refusal)),
                ..way(to, Path::Direct, refusal.to_string())
            },
        }
    }

    /// What becomes of a connection that no agent of the source's has in hands.
    fn untouched(&self, to: SocketAddr) -> Way {
        let itself = self.source.workload().is_some_and(|own| own.addresses.contains(&to.ip()));
        let text = if self.plaintext {
            "plaintext, as the question says".to_owned()
        } else {
            "plaintext: the source is not in the mesh, so the kernel lets it go".to_owned()
        };
        Way {
            to,
            node: None,
            peer: None,
            expected: None,
            path: Path::Kernel,
            inside: itself,
            refused: None,
            text,
        }
    }

    /// What the cluster makes of a Service's address: any endpoint that is ready.
    fn left_to_the_cluster(
        &self,
        dialled: SocketAddr,
        all: &[Endpoint],
        service: &Service,
    ) -> Vec<Way> {
        let usable =
            |endpoint: &&Endpoint| !service.local_only || endpoint.distance == Distance::Node;
        let best = all.iter().filter(usable).map(|endpoint| endpoint.condition).min();
        let to = all.iter().filter(usable).filter(|endpoint| Some(endpoint.condition) == best);
        let mut ways: Vec<_> =
            to.take(MOST_WAYS).map(|endpoint| self.untouched(endpoint.address)).collect();
        if let (Some(source), false) = (self.source.workload(), self.plaintext)
            && source.enrolled
        {
            for way in &mut ways {
                "unprotected: no endpoint of the Service is in the mesh".clone_into(&mut way.text);
            }
        }
        if ways.is_empty() {
            let refusal = Refusal {
                reason: Reason::NoEndpoint,
                rule: Rule::NoEndpoint {
                    namespace: service.namespace.clone(),
                    name: service.name.clone(),
                    port: dialled.port(),
                },
            };
            let way = self.untouched(dialled);
            let text = refusal.to_string();
            ways.push(Way { refused: Some(refused(&refusal)), text, ..way });
        }
        ways
    }
}

fn refused(refusal: &Refusal) -> Refused {
    let fix = match refusal.rule {
        Rule::NoEndpoint { .. } => {
            "look whether the Service's selector fits a pod, and whether one is ready (`kubectl \
             get endpointslices`)"
        }
        Rule::IllegalPort(_) => {
            "take another port for the application; 15001, 15006 and 15008 are the mesh's"
        }
        _ => "look at the policy that the step names",
    };
    Refused {
        reason: refusal.reason.label().to_owned(),
        rule: refusal.rule.to_string(),
        policy: policy_of(&refusal.rule),
        fix: fix.to_owned(),
    }
}

impl Departure {
    /// The whole answer, from what became of each way; none for one that was refused before.
    #[must_use]
    pub fn explanation(self, judged: Vec<Option<Judged>>) -> Explanation {
        let mut ends: Vec<_> = self
            .ways
            .iter()
            .cloned()
            .zip(judged)
            .map(|(way, judged)| End::new(way, judged))
            .collect();
        let denied = ends.iter().position(|end| end.judged.verdict == Verdict::Deny);
        let chosen = ends.swap_remove(denied.unwrap_or(0));
        let mut steps = self.steps;
        if let Some(service) = &self.service {
            steps.push(service_step(service, &chosen, &ends));
        }
        let End { way, judged } = chosen;
        let outcome = if way.refused.is_some() { Outcome::Fail } else { Outcome::Ok };
        let mut path = Step::new("path", outcome, way.text.clone());
        path.fix = way.refused.as_ref().map(|refused| refused.fix.clone());
        steps.push(path);
        if let (Some(peer), Some(expected)) = (&way.peer, &way.expected) {
            let text = format!("the source proves to be {peer}, the other end {expected}");
            steps.push(Step::new("identity", Outcome::Ok, text));
        }
        steps.extend(judged.steps);
        if judged.reason == Reason::PlaintextRefused.label() {
            blame_source(&mut steps, self.enrol);
        }
        Explanation {
            verdict: judged.verdict,
            reason: judged.reason,
            policy: judged.policy,
            rule: judged.rule,
            path: way.path,
            security: match (&way.peer, way.inside) {
                (_, true) => Protection::Local,
                (Some(_), _) => Protection::MutualTls,
                (None, _) => Protection::Plaintext,
            },
            source: self.source,
            destination: judged.destination,
            service: self.service,
            steps,
            others: ends.into_iter().map(End::other).collect(),
            notes: judged.notes,
        }
    }
}

/// Plaintext was refused: what is to be mended stands where it comes from.
fn blame_source(steps: &mut [Step], enrol: Option<String>) {
    if let (Some(step), Some(enrol)) =
        (steps.iter_mut().find(|step| step.name == "enrolled"), enrol)
    {
        step.outcome = Outcome::Fail;
        step.fix = Some(enrol);
    }
}

/// Where a way ends.
struct End {
    way: Way,
    judged: Judged,
}

impl End {
    fn new(way: Way, judged: Option<Judged>) -> Self {
        let (verdict, reason, rule, policy) = match &way.refused {
            Some(refused) => {
                let Refused { reason, rule, policy, .. } = refused.clone();
                (Verdict::Deny, reason, rule, policy)
            }
            None => (Verdict::Allow, Reason::Ok.label().to_owned(), String::new(), None),
        };
        let judged = judged.unwrap_or_else(|| Judged {
            verdict,
            reason,
            policy,
            rule,
            destination: Party {
                address: told(way.to.ip()).map(|_| way.to.to_string()),
                ..Party::default()
            },
            steps: Vec::new(),
            notes: Vec::new(),
        });
        Self { way, judged }
    }

    fn other(self) -> Other {
        let Judged { destination, verdict, reason, policy, .. } = self.judged;
        Other { destination, verdict, reason, policy }
    }
}

fn service_step(service: &str, chosen: &End, others: &[End]) -> Step {
    let refused = others.iter().filter(|end| end.judged.verdict == Verdict::Deny).count();
    let all = others.len() + 1;
    let own = &chosen.judged.destination;
    let name = match (&own.namespace, &own.name) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        _ => shown(chosen.way.to),
    };
    if chosen.way.refused.is_some() && all == 1 {
        return Step::new("service", Outcome::Fail, format!("Service {service} leads nowhere"));
    }
    let text = match (all, chosen.judged.verdict) {
        (1, _) => format!("Service {service} leads to {name}"),
        (_, Verdict::Allow) => {
            format!("Service {service} leads to {all} endpoints, which all take it; such as {name}")
        }
        (_, Verdict::Deny) => format!(
            "Service {service} leads to {all} endpoints, of which {} would refuse it; such as {name}",
            refused + 1
        ),
    };
    Step::new("service", Outcome::Ok, text)
}
