//! `/config_dump`: all that the agent goes by, in the form that ztunnel has.
//!
//! `istioctl ztunnel-config` reads `workloads`, `services`, `policies`, `certificates` and
//! `workloadState` of it. `listeners` is ours: the TLS of each workload's server side in Envoy's
//! words, for who looks for them. No private key is in it.

mod mesh;
mod tls;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::flows;
use super::state::State;
use crate::observe::{FlowView, Reporter};
use crate::workload::Workload;

/// The whole of it. The order is for people: what they look for comes before what is long.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConfigDump {
    version: Value,
    config: Value,
    listeners: Vec<Value>,
    certificates: Vec<Value>,
    policies: Vec<Value>,
    workload_state: Map<String, Value>,
    workloads: Vec<Value>,
    services: Vec<Value>,
}

pub(super) fn config_dump(state: &State) -> ConfigDump {
    let (snapshot, steered) = (state.snapshot(), state.steered());
    let identities = state.parts.identities.identities();
    let roots = state.parts.identities.bundle().borrow().clone();
    let local: Vec<_> = steered.keys().filter_map(|key| steered.workload(key)).collect();
    let listeners = local.iter().map(|workload| {
        let identity = identities.iter().find(|identity| identity.id == workload.identity);
        tls::listener(&snapshot, workload, identity, &roots)
    });
    ConfigDump {
        version: json!({ "version": env!("CARGO_PKG_VERSION"), "product": "culvert" }),
        // It says where secrets are, and holds none.
        config: serde_json::to_value(&*state.parts.config).unwrap_or_default(),
        listeners: listeners.collect(),
        certificates: identities.iter().map(|one| tls::certificates(one, &roots)).collect(),
        policies: mesh::policies(&snapshot),
        workload_state: workload_state(state, &local),
        workloads: snapshot.workloads().iter().map(|one| mesh::workload(one)).collect(),
        services: mesh::services(&snapshot),
    }
}

/// Each local workload with its open connections.
fn workload_state(state: &State, local: &[&std::sync::Arc<Workload>]) -> Map<String, Value> {
    let flows = state.parts.metrics.flows(flows::MOST).flows;
    let states = local.iter().map(|workload| {
        let of = |reporter| -> Vec<Value> {
            let own = flows.iter().filter(|flow| flow.reporter == reporter);
            own.filter(|flow| is_of(workload, flow)).map(connection).collect()
        };
        let value = json!({
            "state": "Up",
            "info": {
                "name": workload.name,
                "namespace": workload.namespace,
                "trustDomain": workload.identity.trust_domain().as_str(),
                "serviceAccount": workload.identity.service_account(),
            },
            "connections": { "inbound": of(Reporter::Destination), "outbound": of(Reporter::Source) },
        });
        (mesh::uid(workload), value)
    });
    states.collect()
}

fn is_of(workload: &Workload, flow: &FlowView) -> bool {
    let end = match flow.reporter {
        Reporter::Source => &flow.source,
        Reporter::Destination => &flow.destination,
    };
    end.namespace.as_deref() == Some(&workload.namespace)
        && end.workload.as_deref() == Some(&workload.name)
}

fn connection(flow: &FlowView) -> Value {
    let inside = flow.hbone_address.unwrap_or(flow.destination_address).to_string();
    let (actual, original) = match flow.reporter {
        Reporter::Source => (flow.destination_address.to_string(), Some(inside)),
        Reporter::Destination => {
            (inside, flow.service.as_ref().map(|service| service.host.clone()))
        }
    };
    json!({
        "src": flow.source_address.to_string(),
        "actualDst": actual,
        "originalDst": original,
        "protocol": if flow.hbone_address.is_some() { "HBONE" } else { "TCP" },
    })
}
