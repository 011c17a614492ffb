//! The CNI plugin as a runtime calls it, on a real namespace and with a real agent.

use anyhow::{Context, Result, ensure};
use culvert_tests::{
    Finished, Lab, NodeId, PodSpec, Process, SOON, culvert, scenario, tool, until,
};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

const UID: &str = "0f7c2a5e-1b3d-4c6f-8a9b-0123456789ab";

/// A lab whose agent on node 1 listens for the plugin.
fn lab() -> Result<Lab> {
    let mut lab = Lab::builder().standard().strict().start()?;
    let socket = socket(&lab).display().to_string();
    lab.set_for(NodeId::Node1, "cni", "socket", &socket);
    lab.stop_agent(NodeId::Node1)?;
    lab.start_agent(NodeId::Node1)?;
    lab.agent(NodeId::Node1)?.wait_for("listening for the CNI plugin", SOON)?;
    Ok(lab)
}

fn socket(lab: &Lab) -> PathBuf {
    lab.directory().join("cni.sock")
}

/// Begins a call of the plugin for a pod of node 1, as a runtime makes it.
fn call(lab: &Lab, verb: &str, namespace: &str, pod: &str) -> Result<Process> {
    let netns = lab.pod(pod).netns().path();
    let arguments = format!(
        "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod};\
         K8S_POD_INFRA_CONTAINER_ID={pod};K8S_POD_UID={UID}"
    );
    let words = [
        "env".to_owned(),
        format!("CNI_COMMAND={verb}"),
        format!("CNI_CONTAINERID={pod}"),
        format!("CNI_NETNS={}", netns.display()),
        "CNI_IFNAME=eth0".to_owned(),
        "CNI_PATH=/opt/cni/bin".to_owned(),
        arguments,
        tool("culvert-cni")?.display().to_string(),
    ];
    let plugin = lab.node(NodeId::Node1).spawn(&words)?;
    plugin.write_line(&configuration(lab, pod).to_string())?;
    plugin.close_stdin();
    Ok(plugin)
}

fn configuration(lab: &Lab, pod: &str) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "lab",
        "type": "culvert-cni",
        "socket": socket(lab),
        "prevResult": result(lab, pod),
    })
}

/// What the plugins before ours would have made.
fn result(lab: &Lab, pod: &str) -> Value {
    let pod = lab.pod(pod);
    json!({
        "cniVersion": "1.0.0",
        "interfaces": [{ "name": "eth0", "sandbox": pod.netns().path() }],
        "ips": [
            { "interface": 0, "address": format!("{}/24", pod.v4()) },
            { "interface": 0, "address": format!("{}/64", pod.v6()) },
        ],
    })
}

fn passed_on(lab: &Lab, pod: &str, finished: Finished) -> Result<()> {
    let said = finished.json()?;
    ensure!(said == result(lab, pod), "{said}");
    Ok(())
}

fn refused(finished: &Finished, code: u64) -> Result<String> {
    ensure!(!finished.status.success(), "{}", finished.stdout);
    let said: Value =
        serde_json::from_str(&finished.stdout).with_context(|| finished.stdout.clone())?;
    ensure!(said["code"] == code, "{said}");
    Ok(said["msg"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn first_connection_of_a_pod_is_protected_however_early_it_is() {
    scenario(|| {
        let mut lab = lab()?;
        let b1 = lab.pod("b1");
        let _server = b1.server(&["serve", "--listen", "[::]:80"])?;
        let to = b1.at(80).to_string();
        for number in 0..10 {
            let name = format!("late{number}");
            let entries = |lab: &Lab| {
                Some(lab.metrics(NodeId::Node1).ok()?.sum("culvert_workload_entries", &[]))
            };
            let before = entries(&lab).context("metrics")?;
            lab.add_pod(PodSpec::new(&name, NodeId::Node1))?;
            // The file is in force; whether the pod is steered is not waited for.
            until("the entry to be read", SOON, || (entries(&lab)? > before).then_some(()))?;
            passed_on(&lab, &name, call(&lab, "ADD", "default", &name)?.wait(SOON)?)?;
            // b1 is STRICT: in plaintext this would be reset. The first attempt counts.
            let said = lab.pod(&name).run_app(&["talk", "--line", "--to", &to], SOON)?.json()?;
            ensure!(said["echoed"] == true, "{name}: {said}");
        }
        let metrics = lab.metrics(NodeId::Node1)?;
        let steered =
            metrics.sum("culvert_cni_requests_total", &[("command", "add"), ("result", "steered")]);
        ensure!(steered.to_string() == "10", "{steered} of 10");
        Ok(())
    });
}

#[test]
fn start_is_held_until_the_pod_is_steered_and_no_longer() {
    scenario(|| {
        let mut lab = lab()?;
        lab.add_pod(PodSpec::new("slow", NodeId::Node1).not_enrolled())?;
        let slow = lab.pod("slow").clone();
        // A network that is not what the file says: the agent cannot enrol the pod.
        slow.netns().ip("addr add 10.99.0.1/32 dev lo\n")?;
        lab.set_enrolled("slow", true)?;
        lab.agent(NodeId::Node1)?.wait_for("workload not enrolled", SOON)?;
        let add = call(&lab, "ADD", "default", "slow")?;
        let waiting = |lab: &Lab| {
            let waiting = lab.metrics(NodeId::Node1).ok()?.sum("culvert_cni_waiting", &[]);
            (waiting.to_string() == "1").then_some(())
        };
        until("the plugin to wait", SOON, || waiting(&lab))?;
        ensure!(add.try_status().is_none(), "it was let start: {}", add.log());
        // Others are not held up by it.
        passed_on(&lab, "a1", call(&lab, "ADD", "default", "a1")?.wait(SOON)?)?;
        passed_on(&lab, "x1", call(&lab, "ADD", "default", "x1")?.wait(SOON)?)?;
        ensure!(add.try_status().is_none(), "it was let start: {}", add.log());
        slow.netns().ip("addr del 10.99.0.1/32 dev lo\n")?;
        passed_on(&lab, "slow", add.wait(SOON)?)?;
        let said = call(&lab, "DEL", "default", "slow")?.wait(SOON)?.ok()?;
        ensure!(said.is_empty(), "{said}");
        Ok(())
    });
}

#[test]
fn without_an_agent_no_pod_starts_but_those_that_never_wait() {
    scenario(|| {
        let mut lab = lab()?;
        lab.kill_agent(NodeId::Node1);
        let add = call(&lab, "ADD", "default", "a1")?;
        passed_on(&lab, "x1", call(&lab, "ADD", "kube-system", "x1")?.wait(SOON)?)?;
        passed_on(&lab, "x1", call(&lab, "ADD", "culvert-system", "x1")?.wait(SOON)?)?;
        call(&lab, "DEL", "default", "a1")?.wait(SOON)?.ok()?;
        let said = refused(&add.wait(SOON)?, 11)?;
        ensure!(said.contains("no culvert agent answers"), "{said}");
        // One that comes back while a pod waits is found.
        let add = call(&lab, "ADD", "default", "a1")?;
        lab.start_agent(NodeId::Node1)?;
        passed_on(&lab, "a1", add.wait(SOON)?)?;
        // One that is killed while a pod waits for it, too.
        let agent = lab.agent(NodeId::Node1)?;
        agent.signal(culvert_tests::Signal::Stop)?;
        let add = call(&lab, "ADD", "default", "a1")?;
        until("the plugin to have asked", SOON, || {
            // Sockets are listed by network namespace, unix sockets as well.
            let list = || fs::read_to_string("/proc/thread-self/net/unix");
            let held = lab.node(NodeId::Node1).netns().enter(list).ok()?.ok()?;
            let path = socket(&lab).display().to_string();
            // Its listening socket, under the name that it was made with, and the connection that
            // it has not accepted yet.
            (held.lines().filter(|line| line.contains(&path)).count() > 1).then_some(())
        })?;
        lab.kill_agent(NodeId::Node1);
        lab.start_agent(NodeId::Node1)?;
        passed_on(&lab, "a1", add.wait(SOON)?)?;
        Ok(())
    });
}

#[test]
fn plugin_is_put_in_kept_there_and_taken_out_with_the_agent() {
    const LIST: &str =
        "{ \"cniVersion\":\"1.0.0\", \"name\":\"lab\", \"plugins\":[ {\"type\":\"bridge\"} ] }\n";
    scenario(|| {
        let mut lab = lab()?;
        let (bin, conf) = (lab.directory().join("bin"), lab.directory().join("net.d"));
        fs::create_dir(&bin)?;
        fs::create_dir(&conf)?;
        let file = conf.join("10-lab.conflist");
        fs::write(&file, LIST)?;
        lab.kill_agent(NodeId::Node1);
        let words = [
            culvert()?.display().to_string(),
            "cni".into(),
            "install".into(),
            "--watch".into(),
            "--allow-dynamic".into(),
            format!("--bin-dir={}", bin.display()),
            format!("--conf-dir={}", conf.display()),
            format!("--socket={}", socket(&lab).display()),
        ];
        let keeper = lab.node(NodeId::Node1).spawn(&words)?;
        keeper.wait_for("CNI plugin copied", SOON)?;
        let has = || fs::read_to_string(&file).is_ok_and(|text| text.contains("culvert-cni"));
        ensure!(!has(), "it is in before any agent answers");
        lab.start_agent(NodeId::Node1)?;
        until("the plugin to be put in", SOON, || has().then_some(()))?;
        // Called by its own name, as runtimes do.
        let plugin = bin.join("culvert-cni").display().to_string();
        let version =
            lab.node(NodeId::Node1).run(&["env", "CNI_COMMAND=VERSION", &plugin], SOON)?;
        let versions = version.json()?;
        ensure!(versions["supportedVersions"][4] == "1.1.0", "{versions}");
        // Another program writes its file anew, and a third cleans up.
        fs::write(&file, LIST)?;
        until("the plugin to be put back", SOON, || has().then_some(()))?;
        fs::remove_file(bin.join("culvert-cni"))?;
        until("the binary to be copied again", SOON, || {
            bin.join("culvert-cni").exists().then_some(())
        })?;
        // The agent leaves the node for good.
        fs::write(lab.directory().join("cni.off"), "")?;
        lab.kill_agent(NodeId::Node1);
        passed_on(&lab, "a1", call(&lab, "ADD", "default", "a1")?.wait(SOON)?)?;
        until("everything to be gone", SOON, || {
            let empty = fs::read_dir(&bin).ok()?.count() == 0;
            (empty && !lab.directory().join("cni.off").exists()).then_some(())
        })?;
        ensure!(fs::read_to_string(&file)? == LIST, "not as it was");
        ensure!(fs::read_dir(&conf)?.count() == 1, "something is left in {}", conf.display());
        keeper.terminate(SOON)?.ok()?;
        Ok(())
    });
}
