//! The condition that a policy bears in its status.

use serde_json::{Value, json};

use crate::workload::documents::{Effect, Findings};

/// Its type. Istio's own for the same question is `ZtunnelAccepted`: that is left to istiod, which
/// may run in the same cluster.
pub(super) const TYPE: &str = "CulvertAccepted";
/// The most bytes of a message, as Kubernetes has it for its own conditions.
const MOST_MESSAGE: usize = 32_768;

/// What the condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Whether the policy refuses at least what it says.
    pub(super) accepted: bool,
    /// The code of the finding that matters most.
    pub(super) reason: &'static str,
    /// All findings.
    pub(super) message: String,
}

impl Verdict {
    pub(super) fn of(findings: &Findings) -> Self {
        let Some(worst) = findings.worst() else {
            let message = "enforced on layer 4 as it is written".to_owned();
            return Self { accepted: true, reason: "Accepted", message };
        };
        let accepted = match worst.effect {
            Effect::Refused | Effect::NotEnforced | Effect::NeverMatches => false,
            Effect::Stricter | Effect::Noted => true,
        };
        let mut message = findings.to_string();
        message.truncate(message.floor_char_boundary(MOST_MESSAGE));
        Self { accepted, reason: worst.code.as_str(), message }
    }

    const fn status(&self) -> &'static str {
        if self.accepted { "True" } else { "False" }
    }
}

/// The conditions to write into a status, with those of others as they are; none when it says the
/// same already. `now` is in RFC 3339.
pub(super) fn conditions(
    status: &Value,
    verdict: &Verdict,
    generation: Option<i64>,
    now: &str,
) -> Option<Vec<Value>> {
    let there = status["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let (own, others): (Vec<_>, Vec<_>) = there.iter().partition(|each| each["type"] == TYPE);
    let same_status = own.first().is_some_and(|own| own["status"] == verdict.status());
    if let [own] = own[..]
        && same_status
        && own["reason"] == verdict.reason
        && own["message"] == verdict.message
        && observed(own, generation)
    {
        return None;
    }
    let since = own.first().filter(|_| same_status).map(|own| &own["lastTransitionTime"]);
    let since = since.and_then(Value::as_str).unwrap_or(now);
    let mut condition = json!({
        "type": TYPE,
        "status": verdict.status(),
        "reason": verdict.reason,
        "message": verdict.message,
        "lastTransitionTime": since,
    });
    if let Some(generation) = generation {
        // A text, as in Istio's own conditions: its API has it for 64 bits.
        condition["observedGeneration"] = generation.to_string().into();
    }
    let mut conditions: Vec<_> = others.into_iter().cloned().collect();
    conditions.push(condition);
    Some(conditions)
}

/// Whether the condition is about this generation of the object; or does not say, because the
/// cluster's definition of the resource does not have the field and drops it.
fn observed(condition: &Value, generation: Option<i64>) -> bool {
    match (&condition["observedGeneration"], generation) {
        (Value::Null, _) | (_, None) => true,
        (Value::String(text), Some(generation)) => *text == generation.to_string(),
        (other, Some(generation)) => other.as_i64() == Some(generation),
    }
}
