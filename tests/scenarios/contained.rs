//! Agents as they are in a cluster: in a network namespace of their own, with a read-only root and
//! only the capabilities of the manifests.

use crate::observed::{fails, ip, serve, talk};
use anyhow::{Context, Result, ensure};
use culvert_tests::{Lab, NodeId, PodSpec, SOON, get, scenario, until};
use std::fs;

/// `BPF`, `NET_ADMIN`, `SYS_ADMIN` and `SYS_PTRACE`, as `capability.h` numbers them.
const CAPABILITIES: u64 = 1 << 39 | 1 << 12 | 1 << 21 | 1 << 19;

fn capabilities(lab: &Lab, id: NodeId, which: &str) -> Result<u64> {
    let path = format!("/proc/{}/status", lab.agent(id)?.pid());
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = text.lines().find_map(|line| line.strip_prefix(which));
    let line = line.with_context(|| format!("no {which} in {path}"))?;
    Ok(u64::from_str_radix(line.trim(), 16)?)
}

#[test]
fn agents_in_containers_enrol_encrypt_and_refuse() {
    scenario(|| {
        let mut lab = Lab::builder().standard().strict().contained().start()?;
        for id in NodeId::ALL {
            for which in ["CapPrm:", "CapEff:", "CapBnd:"] {
                let has = capabilities(&lab, id, which)?;
                ensure!(has == CAPABILITIES, "{which} of {} is {has:x}", id.name());
            }
        }
        for what in ["started", "ready", "live"] {
            let address = ([127, 0, 0, 1], 15021).into();
            let netns = lab.agent_place(NodeId::Node1).netns();
            let (status, said) = get(netns, address, &format!("/healthz/{what}"))?;
            ensure!(status == 200, "{what}: {status} {said}");
        }
        let b1 = lab.pod("b1").clone();
        let _server = serve(&b1, "[::]:80")?;
        for to in [b1.at(80), b1.at6(80)] {
            let own = lab.pod("a1");
            let said = talk(own, to, &[])?;
            let source = ip(&said["saw"]["peer"])?;
            ensure!(source == own.v4() || source == own.v6(), "{said}");
            let got = fails(lab.pod("x1"), to, &[])?;
            ensure!(got.0 == "exchange", "{got:?}");
        }
        // What comes and goes while they run, with settings of namespaces to be written.
        lab.add_pod(PodSpec::new("late", NodeId::Node2))?;
        lab.wait_enrolled()?;
        let late = lab.pod("late").clone();
        let _late = serve(&late, "[::]:80")?;
        talk(lab.pod("a1"), late.at(80), &[])?;
        lab.set_enrolled("late", false)?;
        lab.wait_enrolled()?;
        talk(lab.pod("x1"), late.at(80), &[])?;
        Ok(())
    });
}

#[test]
fn probes_of_the_own_node_pass_and_not_those_of_the_agents_namespace() {
    scenario(|| {
        let lab = Lab::builder().standard().strict().contained().start()?;
        let b1 = lab.pod("b1");
        let server = serve(b1, "[::]:80")?;
        for to in [b1.at(80), b1.at6(80)] {
            let said = talk(lab.node(NodeId::Node2), to, &[])?;
            ensure!(ip(&said["saw"]["peer"])? == ip(&said["local"])?, "{said}");
        }
        let seen = server.stdout();
        for to in [b1.at(80), b1.at6(80)] {
            for place in [
                lab.host(NodeId::Node1),
                lab.agent_place(NodeId::Node2),
                lab.agent_place(NodeId::Node1),
                lab.pod("y1"),
                lab.pod("x1"),
            ] {
                let got = fails(place, to, &[])?;
                ensure!(got.0 == "exchange", "{} to {to}: {got:?}", place.name());
            }
        }
        ensure!(server.stdout() == seen, "the application was reached: {}", server.stdout());
        Ok(())
    });
}

#[test]
fn namespace_of_node_or_agent_is_never_enrolled() {
    scenario(|| {
        let lab = Lab::builder().standard().contained().start()?;
        let agent = lab.agent(NodeId::Node1)?;
        for place in [lab.host(NodeId::Node1), lab.agent_place(NodeId::Node1)] {
            let path = place.netns().path();
            lab.write_workloads_text(&format!(
                "workloads:\n  - name: odd\n    namespace: default\n    serviceAccount: odd\n    \
                 node: node1\n    addresses: [10.11.99.9]\n    netns: {}\n",
                path.display()
            ))?;
            let words = format!("{} is the network namespace of the node or of", path.display());
            agent.wait_for(&words, SOON)?;
        }
        until("nothing to be enrolled", SOON, || {
            (lab.kernel_state(NodeId::Node1).ok()?["PODS"] == 0).then_some(())
        })
    });
}

#[test]
fn agent_that_lacks_a_capability_says_what_it_cannot_do() {
    for (capability, says) in [
        ("net_admin", "adding the local route: Operation not permitted"),
        ("sys_admin", "needs /proc, CAP_SYS_ADMIN"),
        ("sys_ptrace", "the agent needs CAP_SYS_PTRACE"),
    ] {
        scenario(move || {
            let mut lab = Lab::builder().standard().contained().start()?;
            lab.stop_agent(NodeId::Node1)?;
            lab.take_capability(capability);
            lab.launch_agent(NodeId::Node1)?;
            let agent = lab.agent(NodeId::Node1)?;
            // Without it nobody is let out in plaintext: it does not start, or enrols nobody.
            agent.wait_for(says, SOON).with_context(|| format!("without {capability}"))?;
            let to = lab.pod("b1").at(80);
            let got = fails(lab.pod("a1"), to, &[])?;
            ensure!(got.0 == "connect", "without {capability}: {got:?}");
            Ok(())
        });
    }
}
