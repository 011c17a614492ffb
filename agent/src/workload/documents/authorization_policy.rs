//! AuthorizationPolicy documents: all but their rules.

use std::collections::BTreeMap;

use serde_json::Value;

use super::finding::{Code, Effect, Findings, Path, shown};
use super::rule::RuleReader;
use super::walk::{Fields, Unreadable, wrong_type};
use super::{Metadata, REVISION, Read};
use crate::workload::authorization::{Action, AuthorizationPolicy};

/// Reads an AuthorizationPolicy.
///
/// Where it cannot be read at all, it is read as one that allows nothing.
pub fn authorization_policy(metadata: &Metadata, spec: &Value) -> Read<AuthorizationPolicy> {
    let mut findings = Findings::default();
    if let Some(revision) = metadata.other_revision() {
        note_revision(revision, &mut findings);
        return Read { policy: None, findings };
    }
    let mut policy = AuthorizationPolicy {
        name: metadata.name.clone(),
        namespace: metadata.namespace.clone(),
        selector: BTreeMap::new(),
        action: Action::Allow,
        rules: Vec::new(),
        dry_run: dry_run(metadata, &mut findings),
    };
    let ours = fill(&mut policy, spec, &mut findings).unwrap_or_else(|Unreadable| {
        policy.action = Action::Allow;
        policy.rules.clear();
        true
    });
    Read { policy: ours.then_some(policy), findings }
}

/// Returns whether the policy is for layer 4.
fn fill(
    policy: &mut AuthorizationPolicy,
    spec: &Value,
    findings: &mut Findings,
) -> Result<bool, Unreadable> {
    const KNOWN: [&str; 6] = ["selector", "targetRef", "targetRefs", "action", "provider", "rules"];
    let (spec, unknown) = Fields::new(spec, Path::new("spec"), &KNOWN, findings)?;
    if has_targets(&spec, findings)? {
        return Ok(false);
    }
    // Whom it is for comes first: if the rest cannot be read, it is still for those alone.
    policy.selector = spec.selector(findings)?;
    if unknown {
        return Err(Unreadable);
    }
    let Some(action) = action(&spec, findings)? else { return Ok(false) };
    policy.action = action;
    let (rules, path) = spec.list("rules", findings)?;
    let mut reader = RuleReader::new(action, &policy.namespace, findings);
    for (index, rule) in rules.iter().enumerate() {
        policy.rules.extend(reader.rule(index, rule, path.index(index))?);
    }
    Ok(true)
}

/// Whether the policy is for something that is no workload.
fn has_targets(spec: &Fields<'_>, findings: &mut Findings) -> Result<bool, Unreadable> {
    let (targets, path) = spec.list("targetRefs", findings)?;
    let path = match spec.get("targetRef") {
        None if targets.is_empty() => return Ok(false),
        None => path,
        Some((Value::Object(_), path)) => path,
        Some((other, path)) => return Err(wrong_type(other, "a mapping", &path, findings)),
    };
    let text = "a policy with targets is for waypoints and gateways; it is not enforced here. \
                Take a selector to name workloads";
    findings.push(Effect::NotEnforced, Code::TargetRefs, path, text.to_owned());
    Ok(true)
}

/// The action; none when layer 4 does not have it.
fn action(spec: &Fields<'_>, findings: &mut Findings) -> Result<Option<Action>, Unreadable> {
    let Some((text, path)) = spec.text("action", findings)? else {
        return Ok(Some(Action::Allow));
    };
    match text {
        "ALLOW" => Ok(Some(Action::Allow)),
        "DENY" => Ok(Some(Action::Deny)),
        "AUDIT" | "CUSTOM" => {
            let text = format!("{text} is for layer 7; the policy is not enforced here");
            findings.push(Effect::NotEnforced, Code::UnsupportedAction, path, text);
            Ok(None)
        }
        other => {
            let text = format!(
                "unknown value `{}`; expected one of `ALLOW`, `DENY`, `AUDIT`, `CUSTOM`",
                shown(other)
            );
            findings.push(Effect::Refused, Code::UnknownValue, path, text);
            Err(Unreadable)
        }
    }
}

/// Whether the policy's verdict is only told. Source: Go's `strconv.ParseBool`.
fn dry_run(metadata: &Metadata, findings: &mut Findings) -> bool {
    const ANNOTATION: &str = "istio.io/dry-run";
    let Some(value) = metadata.annotations.get(ANNOTATION) else { return false };
    let path = Path::new("metadata").key("annotations").key(ANNOTATION);
    match value.as_str() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => {
            let text = "a dry run: what the policy would refuse is logged, and not refused";
            findings.push(Effect::NotEnforced, Code::DryRun, path, text.to_owned());
            true
        }
        "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
        other => {
            let text = format!("`{}` is neither `true` nor `false`: enforced", shown(other));
            findings.push(Effect::Noted, Code::UnknownValue, path, text);
            false
        }
    }
}

/// Notes that the document is another mesh revision's.
pub(super) fn note_revision(revision: &str, findings: &mut Findings) {
    let path = Path::new("metadata").key("labels").key("istio.io/rev");
    let text = format!(
        "the policy is for revision `{}`, this is `{REVISION}`; it is not enforced here",
        shown(revision)
    );
    findings.push(Effect::NotEnforced, Code::OtherRevision, path, text);
}
