//! One word for a thing. Looked for where others read it: public names and messages.
//!
//! Words of the kernel, of Kubernetes or of a standard may stay; a line that needs one, or the line
//! after it, carries `word:` with the reason in a comment.

use super::Source;

/// Parts of public names that are another word for something that has one.
const IN_NAMES: [&str; 12] = [
    "bypass", "certs", "egress", "endpoint", "get", "helper", "ingress", "manager", "onboard",
    "quiesce", "realm", "utils",
];

/// Words that no message says.
const IN_MESSAGES: [&str; 6] = ["bypass", "egress", "ingress", "onboard", "quiesce", "realm"];

/// Crates whose words others read.
const CRATES: [&str; 4] = ["agent", "agent-common", "ca", "spiffe"];

/// Every banned word in a public name or a message.
pub(super) fn banned(sources: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    let read_by_others = |source: &&Source| CRATES.iter().any(|name| source.path.starts_with(name));
    for source in sources.iter().filter(read_by_others) {
        let lines: Vec<_> = source.text.lines().collect();
        // The formatter puts what stands behind an opening brace on a line of its own.
        let is_excused = |number: usize| {
            lines.iter().skip(number - 1).take(2).any(|line| line.contains("// word:"))
        };
        for (number, line) in source.code().filter(|(number, _)| !is_excused(*number)) {
            if let Some(word) = public_name(line).and_then(|name| banned_part(&name)) {
                faults.push(source.at(number, &format!("`{word}` in a public name")));
            }
            if let Some(word) = messages(line).find_map(banned_word) {
                faults.push(source.at(number, &format!("`{word}` in a message")));
            }
        }
    }
    faults
}

/// The name that a line makes public, in snake case.
fn public_name(line: &str) -> Option<String> {
    let rest = line.trim_start().strip_prefix("pub ")?;
    let kinds = ["struct", "enum", "trait", "type", "const", "static", "mod", "fn"];
    let mut words = rest.split_whitespace().skip_while(|word| !kinds.contains(word));
    words.next()?;
    let name: String = words
        .next()?
        .chars()
        .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
        .collect();
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !snake.ends_with('_') {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    Some(snake)
}

fn banned_part(name: &str) -> Option<&'static str> {
    IN_NAMES.into_iter().find(|word| name.split('_').any(|part| part == *word))
}

/// The texts between quotes.
fn messages(line: &str) -> impl Iterator<Item = &str> {
    line.split('"').skip(1).step_by(2)
}

fn banned_word(text: &str) -> Option<&'static str> {
    IN_MESSAGES.into_iter().find(|word| {
        text.split(|letter: char| !letter.is_alphanumeric())
            .any(|part| part.eq_ignore_ascii_case(word))
    })
}

#[cfg(test)]
mod tests {
    use super::{Source, banned};

    fn faults(text: &str) -> usize {
        banned(&[Source { path: "agent/src/x.rs".into(), text: text.into() }]).len()
    }

    #[test]
    fn public_names_and_messages_are_looked_at() {
        assert_eq!(faults("pub struct PoolManager;"), 1);
        assert_eq!(faults("pub fn get_pool() {}"), 1);
        assert_eq!(faults("pub fn target() {}"), 0);
        assert_eq!(faults("fn helper() {}"), 0);
        assert_eq!(faults("warn!(\"bypass of the mesh\");"), 1);
        assert_eq!(faults("warn!(\"bypass\"); // word: the kernel's own"), 0);
    }
}
