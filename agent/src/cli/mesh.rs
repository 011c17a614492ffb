//! `culvert workloads` and `culvert policies`: what agents know of the mesh.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::Args;

use super::context::Context;
use super::error::CliError;
use super::exit::Exit;
use super::output::Output;
use super::show::Asked;
use super::table::{Cell, Table, Tone, plain};
use super::transport::Answers;
use crate::admin::model::{Policies, Policy, PolicyKind, Workload, Workloads};

/// `culvert workloads` and `culvert policies`.
#[derive(Args)]
pub(super) struct Command {
    #[command(flatten)]
    asked: Asked,
    /// Only those of this namespace, in a table.
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
}

impl Command {
    fn wants(&self, namespace: &str) -> bool {
        self.namespace.as_ref().is_none_or(|wanted| wanted == namespace)
    }

    fn wide(&self) -> bool {
        self.asked.output == Output::Wide
    }
}

/// Prints every workload, as its own node's agent sees it where that was asked.
pub(super) fn workloads(command: &Command, context: &Context) -> Result<Exit, CliError> {
    let transport = command.asked.transport(context)?;
    command.asked.show(&transport, "/workloads", |answers, tint| {
        workload_table(answers, command.wide(), tint, |namespace| command.wants(namespace))
    })
}

fn workload_table(
    answers: &Answers<Workloads>,
    wide: bool,
    tint: bool,
    wants: impl Fn(&str) -> bool,
) -> String {
    let mut all: BTreeMap<(&str, &str), &Workload> = BTreeMap::new();
    for workload in answers.values().flat_map(|all| &all.workloads) {
        if !wants(&workload.namespace) {
            continue;
        }
        let key = (workload.namespace.as_str(), workload.name.as_str());
        // Only its own node's agent knows whether it is steered.
        if workload.local || !all.contains_key(&key) {
            all.insert(key, workload);
        }
    }
    if all.is_empty() {
        return "no workload is known\n".to_owned();
    }
    let mut table = Table::new([
        "NAMESPACE",
        "NAME",
        "NODE",
        "ADDRESSES",
        "ENROLLED",
        "STEERED",
        "MTLS",
        "POLICY",
        "IDENTITY",
        "LABELS",
    ]);
    all.values().for_each(|workload| table.push(workload_row(workload)));
    if wide { table.render(tint) } else { table.first::<8>().render(tint) }
}

fn workload_row(workload: &Workload) -> [Cell; 10] {
    let list = |texts: Vec<String>| Cell::or_dash((!texts.is_empty()).then(|| texts.join(",")));
    let ports = workload.mtls.ports.iter().map(|(port, mode)| format!(" {port}:{mode}"));
    let steered = match (workload.local, workload.enrolled, workload.steered) {
        (true, true, true) => Cell::new("yes", Tone::Good),
        (true, true, false) => Cell::new("no", Tone::Bad),
        (true, false, steered) => Cell::from(if steered { "yes" } else { "no" }),
        (false, ..) => "?".into(),
    };
    [
        workload.namespace.as_str().into(),
        workload.name.as_str().into(),
        Cell::or_dash((!workload.node.is_empty()).then_some(workload.node.as_str())),
        list(workload.addresses.iter().map(ToString::to_string).collect()),
        if workload.enrolled { Cell::new("yes", Tone::Good) } else { "no".into() },
        steered,
        format!("{}{}", workload.mtls.mode, ports.collect::<String>()).into(),
        Cell::or_dash(workload.mtls.policy.as_deref()),
        workload.identity.as_str().into(),
        list(workload.labels.iter().map(|(key, value)| format!("{key}={value}")).collect()),
    ]
}

/// Prints every policy with what was found in it.
pub(super) fn policies(command: &Command, context: &Context) -> Result<Exit, CliError> {
    let transport = command.asked.transport(context)?;
    command.asked.show(&transport, "/policies", |answers, tint| {
        policy_table(answers, command.wide(), tint, |namespace| command.wants(namespace))
    })
}

fn policy_table(
    answers: &Answers<Policies>,
    wide: bool,
    tint: bool,
    wants: impl Fn(&str) -> bool,
) -> String {
    // The same on every node, but for the workloads that each has.
    let mut all: BTreeMap<(PolicyKind, &str, &str), (&Policy, usize)> = BTreeMap::new();
    for policy in answers.values().flat_map(|all| &all.policies) {
        if wants(&policy.namespace) {
            let key = (policy.kind, policy.namespace.as_str(), policy.name.as_str());
            all.entry(key).or_insert((policy, 0)).1 += policy.workloads.len();
        }
    }
    if all.is_empty() {
        return "no policy is known: everything is PERMISSIVE and allowed\n".to_owned();
    }
    let mut table = Table::new([
        "KIND",
        "NAMESPACE",
        "NAME",
        "SCOPE",
        "ACTION",
        "WORKLOADS",
        "FINDINGS",
        "SUMMARY",
    ]);
    for (policy, workloads) in all.values() {
        let findings = match policy.findings.len() {
            0 => Cell::from("-"),
            count => Cell::new(count.to_string(), Tone::Doubtful),
        };
        table.push([
            kind(policy.kind).into(),
            policy.namespace.as_str().into(),
            policy.name.as_str().into(),
            policy.scope.as_str().into(),
            policy.action.as_str().into(),
            workloads.to_string().into(),
            findings,
            policy.summary.as_str().into(),
        ]);
    }
    let mut text = if wide { table.render(tint) } else { table.first::<7>().render(tint) };
    for (policy, _) in all.values() {
        for finding in &policy.findings {
            let (namespace, name, kind) = (&policy.namespace, &policy.name, kind(policy.kind));
            let what = format!("{}: {} ({})", finding.path, finding.text, finding.effect);
            // Writing to a String does not fail.
            let _ = writeln!(text, "\n{kind} {namespace}/{name}: {}", plain(what));
        }
    }
    text
}

const fn kind(kind: PolicyKind) -> &'static str {
    match kind {
        PolicyKind::PeerAuthentication => "PeerAuthentication",
        PolicyKind::AuthorizationPolicy => "AuthorizationPolicy",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::transport::Answer;

    fn answers<T: serde::de::DeserializeOwned>(all: Vec<serde_json::Value>) -> Answers<T> {
        let all = all.into_iter().map(|value| serde_json::from_value(value).unwrap());
        let good = all.map(|answer| Answer { node: None, answer });
        Answers { good: good.collect(), faults: vec![], fleet: true }
    }

    fn seen_from(node: &str) -> serde_json::Value {
        let on = |name: &str, at: &str| {
            json!({"namespace": "shop", "name": name, "node": at, "addresses": ["10.0.0.1"],
                "identity": "spiffe://td/ns/shop/sa/x", "enrolled": true, "steered": at == node,
                "local": at == node, "labels": {"app": name},
                "mtls": {"mode": "STRICT", "policy": "shop/default", "ports": {"80": "PERMISSIVE"}}})
        };
        json!({"node": node, "trustDomain": "td", "generation": 1,
            "workloads": [on("cart", "node1"), on("web", "node2")]})
    }

    #[test]
    fn workload_is_shown_as_its_own_node_sees_it() {
        let both = answers(vec![seen_from("node1"), seen_from("node2")]);
        assert_eq!(
            workload_table(&both, false, false, |_| true),
            "\
NAMESPACE  NAME  NODE   ADDRESSES  ENROLLED  STEERED  MTLS                  POLICY
shop       cart  node1  10.0.0.1   yes       yes      STRICT 80:PERMISSIVE  shop/default
shop       web   node2  10.0.0.1   yes       yes      STRICT 80:PERMISSIVE  shop/default
"
        );
        let one = answers(vec![seen_from("node1")]);
        let text = workload_table(&one, true, false, |_| true);
        assert!(text.contains("node2  10.0.0.1   yes       ?"), "unknown, not no: {text}");
        assert!(text.contains("app=web"), "{text}");
        assert_eq!(workload_table(&one, false, false, |_| false), "no workload is known\n");
    }

    #[test]
    fn policy_has_the_workloads_of_all_nodes_and_its_findings_in_words() {
        let policies = |node: &str, workloads: &[&str]| {
            json!({"node": node, "policies": [{"kind": "AuthorizationPolicy",
                "namespace": "shop", "name": "db", "scope": "workload", "selector": ["app=db"],
                "action": "ALLOW", "summary": "from web", "workloads": workloads,
                "findings": [{"effect": "never_matches", "code": "x", "path": "spec.rules[0]",
                    "text": "leave spiffe:// out"}]}]})
        };
        let both = answers(vec![policies("a", &["shop/db-0"]), policies("b", &["shop/db-1"])]);
        assert_eq!(
            policy_table(&both, false, false, |_| true),
            "\
KIND                 NAMESPACE  NAME  SCOPE     ACTION  WORKLOADS  FINDINGS
AuthorizationPolicy  shop       db    workload  ALLOW   2          1

AuthorizationPolicy shop/db: spec.rules[0]: leave spiffe:// out (never_matches)
"
        );
        assert!(policy_table(&both, true, false, |_| true).contains("from web"));
    }
}
