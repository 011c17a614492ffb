//! A policy in a sentence.

use std::fmt::Display;

use crate::workload::authorization::{
    Action, AuthorizationPolicy, AuthorizationRule, Match, Pattern, Term,
};
use crate::workload::{MtlsMode, PeerAuthentication};

/// What it says in a word, and in a sentence.
pub(super) fn peer_authentication(policy: &PeerAuthentication) -> (String, String) {
    let mut summary = match policy.mode {
        MtlsMode::Unset => "mode of the level above".to_owned(),
        MtlsMode::Strict => "only mutual TLS is taken".to_owned(),
        MtlsMode::Permissive | MtlsMode::Disable => "plaintext is taken too".to_owned(),
    };
    for (port, mode) in &policy.ports {
        summary.push_str(&format!("; port {port}: {mode}"));
    }
    (policy.mode.to_string(), summary)
}

/// What it says in a word, and in a sentence.
pub(super) fn authorization(policy: &AuthorizationPolicy) -> (String, String) {
    let verb = match policy.action {
        Action::Allow => "allows",
        Action::Deny => "denies",
    };
    let rules: Vec<String> = policy.rules.iter().map(rule).collect();
    let mut summary = match (policy.action, rules.is_empty()) {
        (Action::Allow, true) => "allows nothing".to_owned(),
        (Action::Deny, true) => "denies nothing".to_owned(),
        (_, false) => format!("{verb} {}", rules.join("; or ")),
    };
    if policy.dry_run {
        summary.push_str(" (dry run: only told)");
    }
    (policy.action.to_string(), summary)
}

fn rule(rule: &AuthorizationRule) -> String {
    let clauses = rule.clauses.iter().map(|clause| {
        let matches: Vec<String> = clause.0.iter().map(one).collect();
        if matches.is_empty() { "nothing".to_owned() } else { matches.join(" or ") }
    });
    let clauses: Vec<String> = clauses.collect();
    if clauses.is_empty() { "everything".to_owned() } else { clauses.join(" and ") }
}

fn one(asked: &Match) -> String {
    let mut terms = Vec::new();
    term(&mut terms, "principal", &asked.principals, pattern);
    term(&mut terms, "namespace", &asked.namespaces, pattern);
    term(&mut terms, "trust domain", &asked.trust_domains, pattern);
    term(&mut terms, "service account", &asked.service_accounts, |(namespace, account)| {
        format!("{namespace}/{account}")
    });
    term(&mut terms, "source", &asked.source_ips, shown);
    term(&mut terms, "destination", &asked.destination_ips, shown);
    term(&mut terms, "port", &asked.destination_ports, shown);
    if terms.is_empty() { "anything".to_owned() } else { terms.join(", ") }
}

fn term<T>(terms: &mut Vec<String>, what: &str, term: &Term<T>, show: impl Fn(&T) -> String) {
    let list = |all: &[T]| all.iter().map(&show).collect::<Vec<_>>().join("|");
    if !term.any_of.is_empty() {
        terms.push(format!("{what} {}", list(&term.any_of)));
    }
    if !term.none_of.is_empty() {
        terms.push(format!("{what} not {}", list(&term.none_of)));
    }
}

fn shown(value: &impl Display) -> String {
    value.to_string()
}

fn pattern(pattern: &Pattern) -> String {
    match pattern {
        Pattern::Present => "*".to_owned(),
        Pattern::Exact(text) => text.clone(),
        Pattern::Prefix(text) => format!("{text}*"),
        Pattern::Suffix(text) => format!("*{text}"),
    }
}
