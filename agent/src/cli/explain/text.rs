//! An explanation for people.

use std::fmt::Write as _;

use crate::explain::{Explanation, Outcome, Party, Path, Protection, Verdict};

const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// The verdict in one line, what decided in the next, then each step with what to do about it.
pub(super) fn render(explanation: &Explanation, colours: bool) -> String {
    let paint = |colour: &str, text: &str| {
        if colours { format!("{colour}{text}{PLAIN}") } else { text.to_owned() }
    };
    let verdict = match explanation.verdict {
        Verdict::Allow => paint(GREEN, "ALLOW"),
        Verdict::Deny => paint(RED, "DENY"),
    };
    let to = explanation.service.clone().unwrap_or_else(|| called(&explanation.destination));
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = writeln!(text, "{verdict}  {} -> {to}", called(&explanation.source));
    let path = match explanation.path {
        Path::Tunnel => "tunnel",
        Path::Direct => "direct",
        Path::Kernel => "kernel",
    };
    let security = match explanation.security {
        Protection::MutualTls => "mutual TLS",
        Protection::Plaintext => "plaintext",
        Protection::Local => "local",
    };
    let _ = writeln!(
        text,
        "reason {}, decided by: {}; path {path}, {security}\n",
        explanation.reason, explanation.rule
    );
    let names = explanation.steps.iter().map(|step| step.name.len());
    let width = names.max().unwrap_or(0);
    for step in &explanation.steps {
        let outcome = match step.outcome {
            Outcome::Ok => paint(GREEN, "ok  "),
            Outcome::Fail => paint(RED, "FAIL"),
            Outcome::Unknown => "?   ".to_owned(),
            Outcome::Skipped => paint(DIM, "-   "),
        };
        let _ = writeln!(text, "{outcome}  {:width$}  {}", step.name, step.text);
        if let (Some(fix), Outcome::Fail) = (&step.fix, step.outcome) {
            let _ = writeln!(text, "      {:width$}  fix: {fix}", "");
        }
    }
    for other in &explanation.others {
        let verdict = if other.verdict == Verdict::Allow { "allow" } else { "deny" };
        let _ =
            writeln!(text, "also  {}: {verdict} ({})", called(&other.destination), other.reason);
    }
    for note in &explanation.notes {
        let _ = writeln!(text, "note  {note}");
    }
    text
}

fn called(party: &Party) -> String {
    let port = party.address.as_deref().and_then(|address| address.rsplit_once(':'));
    match (&party.namespace, &party.name, &party.address) {
        (Some(namespace), Some(name), Some(address)) if port.is_some() => {
            format!("{namespace}/{name} ({address})")
        }
        (Some(namespace), Some(name), _) => format!("{namespace}/{name}"),
        (_, _, Some(address)) => address.clone(),
        _ => "unknown".to_owned(),
    }
}
