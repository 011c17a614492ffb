//! Tells what of the mesh's policies does not hold as it is written.

use std::collections::BTreeMap;

use prometheus::IntGaugeVec;

use super::documents::{Effect, Findings};
use crate::observe::{Metrics, RegisterError};

/// Logs each finding once, and counts the policies that have some now.
pub struct PolicyReport {
    policies: IntGaugeVec,
    // What was told of each policy last.
    told: BTreeMap<String, String>,
}

impl PolicyReport {
    /// Adds the metric.
    ///
    /// # Errors
    /// Its name is taken.
    pub fn register(metrics: &Metrics) -> Result<Self, RegisterError> {
        let policies = metrics.gauges(
            "culvert_workload_policies",
            "Policy documents, by what of them does not hold as it is written.",
            &["state"],
        )?;
        for state in Effect::ALL.map(Effect::label) {
            policies.with_label_values(&[state]);
        }
        policies.with_label_values(&["as_written"]);
        Ok(Self { policies, told: BTreeMap::new() })
    }

    /// Tells of all `documents` policies there are now, of which these have findings: kind,
    /// namespace and name, such as `PeerAuthentication default/p`.
    pub fn tell(&mut self, documents: usize, findings: &[(String, Findings)]) {
        let count = |effect| {
            let of_it = findings.iter().filter(|(_, findings)| findings.effect() == effect);
            i64::try_from(of_it.count()).unwrap_or(i64::MAX)
        };
        for effect in Effect::ALL {
            self.policies.with_label_values(&[effect.label()]).set(count(Some(effect)));
        }
        let as_written = i64::try_from(documents.saturating_sub(findings.len()));
        self.policies.with_label_values(&["as_written"]).set(as_written.unwrap_or(i64::MAX));
        let before = std::mem::take(&mut self.told);
        for (policy, findings) in findings {
            let text = findings.to_string();
            if before.get(policy) != Some(&text) {
                say(policy, findings.effect(), &text);
            }
            self.told.insert(policy.clone(), text);
        }
        for mended in before.keys().filter(|policy| !self.told.contains_key(*policy)) {
            tracing::info!(policy = mended, "policy is as it is written now, or gone");
        }
    }
}

fn say(policy: &str, effect: Option<Effect>, findings: &str) {
    if effect == Some(Effect::Noted) {
        tracing::info!(policy, findings, "policy holds; there is something to know");
    } else {
        tracing::warn!(policy, findings, "policy does not hold as it is written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::documents::{Code, Path};

    #[test]
    fn policies_are_counted_by_the_worst_of_them() {
        let metrics = Metrics::new().unwrap();
        let mut report = PolicyReport::register(&metrics).unwrap();
        let mut findings = Findings::default();
        findings.push(Effect::Noted, Code::DryRun, Path::new("a"), "x".into());
        findings.push(Effect::Stricter, Code::DryRun, Path::new("a"), "x".into());
        report.tell(3, &[("PeerAuthentication a/b".to_owned(), findings)]);
        let counted = |state: &str| {
            let text = metrics.encode().unwrap();
            let name = format!("culvert_workload_policies{{state=\"{state}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().to_owned()
        };
        assert_eq!((counted("stricter"), counted("noted")), ("1".to_owned(), "0".to_owned()));
        assert_eq!(counted("as_written"), "2");
        report.tell(2, &[]);
        assert_eq!((counted("stricter"), counted("as_written")), ("0".to_owned(), "2".to_owned()));
    }
}
