//! What an expression of Prometheus names, and what Grafana puts into it.

use std::collections::BTreeSet;

/// Beginnings of the names that are ours.
const OURS: [&str; 2] = ["culvert", "istio_"];

/// The metrics of ours, and the recorded ones, that an expression names.
pub(super) fn metrics(expression: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        if matches!(first, '"' | '\'') {
            // The texts of our own expressions hold no quote.
            rest = rest[1..].split_once(first).map_or("", |(_, after)| after);
            continue;
        }
        let end = rest.find(|letter| !is_name(letter)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if OURS.iter().any(|start| word.starts_with(start)) {
            names.insert(word.to_owned());
        }
        rest = if word.is_empty() { &rest[first.len_utf8()..] } else { after };
    }
    names
}

fn is_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '_' | ':')
}

/// An expression of a dashboard as Grafana sends it when every variable is *All*; the windows are
/// short enough for a lab that lives for a minute.
pub(super) fn filled(expression: &str, variables: &[String]) -> String {
    let mut text = expression.replace("$__rate_interval", "30s").replace("$__range", "5m");
    for name in variables {
        text = text.replace(&format!("${name}"), ".*");
    }
    text
}
