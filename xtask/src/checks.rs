//! Checks of what is really observed: shown when they are made, and in a table at the end.

use crate::interrupt::Interrupt;
use anyhow::Result;
use std::fmt;

/// Every check that was made.
#[derive(Default)]
pub(crate) struct Checks {
    made: Vec<Check>,
    interrupt: Interrupt,
}

struct Check {
    what: String,
    passed: bool,
    observed: String,
}

/// Begins a part of what is checked.
pub(crate) fn part(title: &str) {
    println!("\n── {title}");
}

/// Shows something that was observed.
pub(crate) fn note(text: &str) {
    for line in text.lines() {
        println!("   {line}");
    }
}

impl Checks {
    /// None yet; once the command is interrupted none is made any more.
    pub(crate) fn new(interrupt: Interrupt) -> Self {
        Self { made: Vec::new(), interrupt }
    }

    /// Keeps a check: what was observed, or why it failed.
    pub(crate) fn add(&mut self, what: &str, outcome: Result<String>) {
        // What fails while the lab is taken down fails because of that.
        self.interrupt.wait_if_raised();
        let (passed, observed) = match outcome {
            Ok(observed) => (true, observed),
            Err(error) => (false, format!("{error:#}")),
        };
        println!("   {} {what}: {}", if passed { "✓" } else { "✗" }, observed.trim());
        let observed = observed.lines().next().unwrap_or_default().to_owned();
        self.made.push(Check { what: what.to_owned(), passed, observed });
    }

    /// How many failed.
    pub(crate) fn failed(&self) -> usize {
        self.made.iter().filter(|check| !check.passed).count()
    }
}

impl fmt::Display for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.made.iter().map(|check| check.what.chars().count()).max().unwrap_or(0);
        writeln!(f, "\n   {:<width$}   result   observed", "check")?;
        for Check { what, passed, observed } in &self.made {
            let result = if *passed { "passed" } else { "FAILED" };
            writeln!(f, "   {what:<width$}   {result}   {observed}")?;
        }
        let failed = self.failed();
        write!(f, "\nchecks: {} passed, {failed} failed", self.made.len() - failed)
    }
}

#[cfg(test)]
mod tests {
    use super::Checks;
    use anyhow::anyhow;

    #[test]
    fn closing_line_counts_both() {
        let mut checks = Checks::default();
        checks.add("one", Ok("seen".into()));
        checks.add("two", Err(anyhow!("not seen")));
        assert_eq!(checks.failed(), 1);
        assert!(checks.to_string().ends_with("\nchecks: 1 passed, 1 failed"));
    }
}
