//! PeerAuthentication documents.

use std::collections::BTreeMap;

use serde_json::Value;

use super::finding::{Code, Effect, Findings, Path, shown};
use super::walk::{Fields, Unreadable};
use super::{Metadata, Read};
use crate::workload::model::{MtlsMode, PeerAuthentication};

/// Reads a PeerAuthentication.
///
/// Where it cannot be read, STRICT is read: as the mode, for a port, or for the whole namespace
/// when it is not even clear whom it is for.
pub fn peer_authentication(
    metadata: &Metadata,
    spec: &Value,
    root_namespace: &str,
) -> Read<PeerAuthentication> {
    let mut findings = Findings::default();
    if let Some(revision) = metadata.other_revision() {
        super::authorization_policy::note_revision(revision, &mut findings);
        return Read { policy: None, findings };
    }
    let mut policy = PeerAuthentication {
        name: metadata.name.clone(),
        namespace: metadata.namespace.clone(),
        created: metadata.created,
        selector: BTreeMap::new(),
        mode: MtlsMode::Unset,
        ports: BTreeMap::new(),
    };
    if let Err(Unreadable) = fill(&mut policy, spec, &mut findings) {
        policy.selector.clear();
        policy.ports.clear();
        policy.mode = MtlsMode::Strict;
    }
    let text = if policy.has_selector() && metadata.namespace == root_namespace {
        "a policy of the root namespace cannot select workloads, and is not enforced; take the \
         selector out, or put the policy into the workloads' namespace"
    } else {
        return Read { policy: Some(policy), findings };
    };
    let path = Path::new("spec").key("selector");
    findings.push(Effect::NotEnforced, Code::SelectorInRootNamespace, path, text.to_owned());
    Read { policy: None, findings }
}

fn fill(
    policy: &mut PeerAuthentication,
    spec: &Value,
    findings: &mut Findings,
) -> Result<(), Unreadable> {
    const KNOWN: [&str; 3] = ["selector", "mtls", "portLevelMtls"];
    let (spec, unknown) = Fields::new(spec, Path::new("spec"), &KNOWN, findings)?;
    if unknown {
        return Err(Unreadable);
    }
    policy.selector = spec.selector(findings)?;
    if let Some((mtls, path)) = spec.get("mtls") {
        policy.mode = mode(mtls, path, findings);
    }
    let Some((ports, path)) = spec.get("portLevelMtls") else { return Ok(()) };
    let Value::Object(ports) = ports else {
        return Err(super::walk::wrong_type(ports, "a mapping", &path, findings));
    };
    if !policy.has_selector() && !ports.is_empty() {
        let text = "there is no selector, so the ports are ignored; expected \
                    `spec.selector.matchLabels` to say whose ports are meant";
        findings.push(Effect::Refused, Code::PortsWithoutSelector, path, text.to_owned());
        return Ok(());
    }
    for (key, value) in ports {
        let path = path.key(key);
        let mode = mode(value, path.clone(), findings);
        let Some(port) = key.parse::<u16>().ok().filter(|port| *port != 0) else {
            let text = format!("`{}` is no port; expected a number from 1 to 65535", shown(key));
            findings.push(Effect::Refused, Code::InvalidPort, path, text);
            continue;
        };
        // `80` and `080` are two keys and one port.
        if let Some(other) = policy.ports.insert(port, mode) {
            let text = format!("port {port} is given twice; expected each port once");
            findings.push(Effect::Refused, Code::InvalidPort, path, text);
            if other == MtlsMode::Strict {
                policy.ports.insert(port, MtlsMode::Strict);
            }
        }
    }
    Ok(())
}

/// `{mode: …}`.
fn mode(mtls: &Value, path: Path, findings: &mut Findings) -> MtlsMode {
    let read = || {
        let (mtls, unknown) = Fields::new(mtls, path, &["mode"], findings)?;
        let Some((text, path)) = mtls.text("mode", findings)? else { return Ok(MtlsMode::Unset) };
        let mode = match text {
            "UNSET" => MtlsMode::Unset,
            "DISABLE" => MtlsMode::Disable,
            "PERMISSIVE" => MtlsMode::Permissive,
            "STRICT" => MtlsMode::Strict,
            other => {
                let text = format!(
                    "unknown value `{}`; expected one of `UNSET`, `DISABLE`, `PERMISSIVE`, \
                     `STRICT`",
                    shown(other)
                );
                findings.push(Effect::Refused, Code::UnknownValue, path, text);
                return Err(Unreadable);
            }
        };
        if mode == MtlsMode::Disable {
            let text = "taken as PERMISSIVE: mutual TLS that a client offers is not turned away";
            findings.push(Effect::Noted, Code::DisableIsPermissive, path, text.to_owned());
        }
        if unknown { Err(Unreadable) } else { Ok(mode) }
    };
    read().unwrap_or(MtlsMode::Strict)
}
