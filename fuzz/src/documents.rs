//! Policies as the API server hands them out: JSON of any form.

use crate::Verdict;
use culvert_agent::workload::authorization::Action;
use culvert_agent::workload::documents::{
    Effect, Findings, Metadata, authorization_policy, peer_authentication,
};
use culvert_agent::workload::{MtlsMode, Policies};
use serde_json::Value;

pub(crate) fn run(input: &[u8]) -> Verdict {
    let Ok(document) = serde_json::from_slice::<Value>(input) else { return Verdict::Refused };
    let texts = |field: &str| {
        let pairs = document["metadata"][field].as_object().into_iter().flatten();
        let texts =
            pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
        texts.collect()
    };
    let metadata = Metadata {
        name: "p".to_owned(),
        namespace: "n".to_owned(),
        created: None,
        labels: texts("labels"),
        annotations: texts("annotations"),
    };
    let spec = &document["spec"];
    let authentication = peer_authentication(&metadata, spec, "root");
    let authorization = authorization_policy(&metadata, spec);
    told(&authentication.findings);
    told(&authorization.findings);
    // What is not enforced says so; what is not even a mapping never lets anybody in.
    if authentication.policy.is_none() {
        assert!(authentication.findings.iter().any(|f| f.effect == Effect::NotEnforced));
    }
    if authorization.policy.is_none() {
        assert!(authorization.findings.iter().any(|f| f.effect == Effect::NotEnforced));
    }
    if !spec.is_object() && !spec.is_null() {
        assert!(authentication.policy.as_ref().is_none_or(|p| p.mode == MtlsMode::Strict));
        let closed = authorization.policy.as_ref();
        assert!(closed.is_none_or(|p| p.action == Action::Allow && p.rules.is_empty()));
    }
    let good = authentication.findings.is_empty() || authorization.findings.is_empty();
    let policies = Policies::new(
        authentication.policy.into_iter().collect(),
        authorization.policy.into_iter().collect(),
    );
    assert!(policies.len() <= 2);
    if good { Verdict::Taken } else { Verdict::Refused }
}

/// What is said of a document is short, and on one line.
fn told(findings: &Findings) {
    let text = findings.to_string();
    assert!(text.len() < 64 << 10, "{} bytes", text.len());
    assert!(!text.contains(char::is_control), "{text:?}");
}
