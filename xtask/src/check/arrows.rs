//! The stages of the agent know only what stands to their left.
//!
//! ```text
//!     capture -> policy -> identity -> tunnel     each may name the stages to its left
//!     workload                                    named by the stages, names none of them
//!     observe, config, sys, supervise, serve      named by all, name no stage
//!     pipeline, assemble, admin, cli,
//!     cni, controller, explain, map,
//!     workload_api                                name all, are named by none to their left
//! ```

use super::Source;
use std::path::Path;

const STAGES: [&str; 4] = ["capture", "policy", "identity", "tunnel"];
const COMMON: [&str; 5] = ["observe", "config", "sys", "supervise", "serve"];
const TOP: [&str; 9] =
    ["pipeline", "assemble", "admin", "cli", "cni", "controller", "explain", "map", "workload_api"];

/// Every import against the arrows.
pub(super) fn against(sources: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    for source in sources {
        let Some(own) = module(&source.path) else { continue };
        for (number, named) in named(source).into_iter().filter(|(_, named)| !may(own, named)) {
            faults.push(source.at(number, &format!("`{own}` must not name `{named}`")));
        }
    }
    faults
}

/// The module of the agent that a file belongs to.
fn module(path: &Path) -> Option<&str> {
    let inside = path.strip_prefix("agent/src").ok()?;
    let first = inside.iter().next()?.to_str()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (!matches!(name, "lib" | "main")).then_some(name)
}

/// Modules that a file names by `crate::`, each with the number of its line.
fn named(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    // Depth of braces inside `crate::{…}`; its names stand at depth 1, behind a brace or a comma.
    let (mut depth, mut wanted) = (0_usize, false);
    for (number, line) in source.code() {
        let mut rest = line;
        while let Some(letter) = rest.chars().next() {
            if depth == 0 {
                let Some((_, after)) = rest.split_once("crate::") else { break };
                (depth, rest) = match after.strip_prefix('{') {
                    Some(inside) => (1, inside),
                    None => (0, after),
                };
                wanted = depth == 1;
                if depth == 0 {
                    found.push((number, name(after).to_owned()));
                }
                continue;
            }
            let word = name(rest);
            if !word.is_empty() {
                if depth == 1 && wanted {
                    found.push((number, word.to_owned()));
                }
                wanted = false;
                rest = &rest[word.len()..];
                continue;
            }
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' => wanted = true,
                _ => {}
            }
            rest = &rest[letter.len_utf8()..];
        }
    }
    found
}

/// The name that a text begins with, or nothing.
fn name(text: &str) -> &str {
    let end = text.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    &text[..end.unwrap_or(text.len())]
}

fn may(own: &str, named: &str) -> bool {
    let place = |name: &str| STAGES.iter().position(|stage| *stage == name);
    if own == named || TOP.contains(&own) || !is_module(named) {
        return true;
    }
    if TOP.contains(&named) {
        return false;
    }
    match (place(own), place(named)) {
        (Some(own), Some(named)) => named < own,
        (Some(_), None) => true,
        (None, Some(_)) => false,
        (None, None) if own == "workload" => COMMON.contains(&named),
        // What all may name leans on nothing but its like.
        (None, None) => own == "supervise" && named == "observe",
    }
}

fn is_module(name: &str) -> bool {
    STAGES.contains(&name) || COMMON.contains(&name) || TOP.contains(&name) || name == "workload"
}

#[cfg(test)]
mod tests {
    use super::{Source, against};

    fn faults(path: &str, text: &str) -> usize {
        against(&[Source { path: path.into(), text: text.into() }]).len()
    }

    #[test]
    fn only_the_left_may_be_named() {
        assert_eq!(faults("agent/src/tunnel/client.rs", "use crate::identity::Svid;"), 0);
        assert_eq!(faults("agent/src/identity.rs", "use crate::tunnel::Pool;"), 1);
        assert_eq!(faults("agent/src/policy/inbound.rs", "fn f(x: crate::pipeline::X) {}"), 1);
        let several =
            "use crate::{\n    sys,\n    workload::{Workload, tunnel},\n    tunnel::Pool,\n};";
        assert_eq!(faults("agent/src/capture.rs", several), 1);
        assert_eq!(faults("agent/src/pipeline.rs", "use crate::{tunnel, capture};"), 0);
        assert_eq!(faults("agent/src/observe/flow.rs", "use crate::workload::Workload;"), 1);
        assert_eq!(faults("agent/src/capture/attach.rs", "use crate::sys;"), 0);
        assert_eq!(faults("ca/src/lib.rs", "use crate::tunnel;"), 0);
    }

    #[test]
    fn comments_and_tests_do_not_count() {
        let text = "//! [`crate::tunnel`]\n#[cfg(test)]\nmod tests { use crate::tunnel; }\n";
        assert_eq!(faults("agent/src/sys.rs", text), 0);
    }
}
