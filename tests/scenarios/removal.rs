//! An agent that leaves for good leaves nothing behind; one that is merely stopped leaves all.

use anyhow::{Context, Result, ensure};
use culvert_tests::{Lab, NodeId, Process, SOON, Signal, culvert, scenario, until};
use serde_json::json;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

const NODE: NodeId = NodeId::Node1;

/// What the API server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    /// All objects are there.
    There,
    /// The DaemonSet is being deleted.
    Deleting,
    /// Nobody may know anything.
    Forbidden,
}

/// An API server that knows one DaemonSet and one namespace.
#[derive(Clone)]
struct ApiServer(Arc<(Mutex<Says>, Condvar)>);

impl ApiServer {
    /// Serves in a node's namespace; gives the kubeconfig that leads there.
    fn start(lab: &Lab) -> Result<(Self, PathBuf)> {
        let address = SocketAddr::from((lab.node(NODE).v4(), 16443));
        let listener = lab.node(NODE).netns().enter(|| TcpListener::bind(address))??;
        let server = Self(Arc::new((Mutex::new(Says::There), Condvar::new())));
        let serving = server.clone();
        // Ends with the process: nothing of it outlives the test but the listener.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = serving.clone();
                thread::spawn(move || server.serve(&stream));
            }
        });
        let path = lab.directory().join("kubeconfig");
        fs::write(
            &path,
            format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
                 clusters: [{{name: c, cluster: {{server: 'http://{address}'}}}}]\n\
                 users: [{{name: c, user: {{}}}}]\n\
                 contexts: [{{name: c, context: {{cluster: c, user: c}}}}]\n"
            ),
        )?;
        Ok((server, path))
    }

    fn says(&self, says: Says) {
        let (now, changed) = &*self.0;
        *now.lock().unwrap_or_else(PoisonError::into_inner) = says;
        changed.notify_all();
    }

    /// One request, one answer; errors end the connection, as they would anywhere.
    fn serve(&self, stream: &TcpStream) -> Option<()> {
        let mut lines = BufReader::new(stream).lines();
        let request = lines.next()?.ok()?;
        while !lines.next()?.ok()?.is_empty() {}
        let target = request.split(' ').nth(1)?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let name = if path.contains("daemonsets") { "culvert-agent" } else { "culvert-system" };
        let (says, changed) = &*self.0;
        let now = *says.lock().ok()?;
        if now == Says::Forbidden {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
                "status": "Failure", "message": "no", "reason": "Forbidden", "code": 403});
            return answer(stream, "403 Forbidden", &status.to_string());
        }
        let object = |says: Says| {
            let mut object = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                "metadata": {"name": name, "uid": "u", "resourceVersion": "2"}});
            if says == Says::Deleting && name == "culvert-agent" {
                object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            object
        };
        if query.contains("watch=") {
            write!(&mut &*stream, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
                .ok()?;
            let ended = changed.wait_while(says.lock().ok()?, |now| *now == Says::There).ok()?;
            if *ended == Says::Deleting {
                let event = json!({"type": "MODIFIED", "object": object(*ended)});
                writeln!(&mut &*stream, "{event}").ok()?;
                drop(changed.wait_while(ended, |now| *now == Says::Deleting).ok()?);
            }
            return Some(());
        }
        if path.ends_with(name) && !path.ends_with("namespaces/culvert-system/daemonsets") {
            return answer(stream, "200 OK", &object(now).to_string());
        }
        let list = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList",
            "metadata": {"resourceVersion": "1"}, "items": [object(now)]});
        answer(stream, "200 OK", &list.to_string())
    }
}

fn answer(stream: &TcpStream, status: &str, body: &str) -> Option<()> {
    write!(
        &mut &*stream,
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    )
    .ok()
}

/// What of an agent is found in the pods of its node.
fn traces(lab: &Lab) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for pod in lab.pods().iter().filter(|pod| pod.node() == NODE) {
        for family in ["-4", "-6"] {
            for words in [["rule", "list"].as_slice(), &["route", "list", "table", "all"]] {
                let words = [&["ip", family], words].concat();
                let said = pod.run(&words, SOON)?.ok()?;
                let ours = |line: &&str| line.contains("0x1338") || line.contains("table 100");
                found.extend(
                    said.lines().filter(ours).map(|line| format!("{}: {line}", pod.name())),
                );
            }
        }
    }
    Ok(found)
}

fn pins(lab: &Lab) -> PathBuf {
    PathBuf::from(format!("/sys/fs/bpf/culvert-lab-{}-{}", lab.id(), NODE.name()))
}

fn nothing_is_left(lab: &Lab) -> Result<()> {
    ensure!(!pins(lab).exists(), "{} is left", pins(lab).display());
    let traces = traces(lab)?;
    ensure!(traces.is_empty(), "{traces:?}");
    Ok(())
}

fn is_followed(lab: &Lab) -> Result<()> {
    let what = "the DaemonSet to be seen";
    let said = |line: &str| line.contains("is there") && line.contains("own DaemonSet");
    lab.agent(NODE)?.wait_for_line(what, SOON, said).map(drop)
}

fn echo(lab: &Lab, pod: &str) -> Result<Process> {
    lab.pod(pod).server(&["echo", "--listen", "[::]:80"])
}

#[test]
fn release_by_hand_takes_out_programs_links_maps_rules_and_routes() {
    scenario(|| {
        let mut lab = Lab::builder().standard().start()?;
        let _servers = [echo(&lab, "a1")?, echo(&lab, "y1")?];
        ensure!(
            pins(&lab).join("links").exists() && traces(&lab)?.len() == 8,
            "{:?}",
            traces(&lab)?
        );
        lab.stop_agent(NODE)?;
        ensure!(lab.kernel_state(NODE)?["links"] == 2, "an agent that stops leaves its links");
        let config = lab.directory().join(format!("{}.yaml", NODE.name()));
        let words = [culvert()?, "release".into(), "--config".into(), config];
        lab.node(NODE).run(&words, SOON)?.ok()?;
        nothing_is_left(&lab)?;
        for (from, to) in [("a1", "y1"), ("y1", "a1")] {
            let to = lab.pod(to).at(80).to_string();
            lab.pod(from).run_app(&["talk", "--to", &to], SOON)?.json().context("no mesh")?;
        }
        Ok(())
    });
}

#[test]
fn agent_that_is_stopped_by_its_daemon_sets_deletion_leaves_nothing() {
    scenario(|| {
        let mut lab =
            Lab::builder().standard().contained().set("tunnel", "drainTimeout", "5s").start()?;
        let _servers = [echo(&lab, "a1")?, echo(&lab, "b1")?];
        let (api, kubeconfig) = ApiServer::start(&lab)?;
        lab.set_for(NODE, "removal", "namespace", "culvert-system");
        lab.set_for(NODE, "removal", "daemonSet", "culvert-agent");
        lab.set_for(NODE, "removal", "kubeconfig", &kubeconfig.display().to_string());
        lab.stop_agent(NODE)?;
        lab.start_agent(NODE)?;
        // Errors are no reason to go, whenever they come.
        is_followed(&lab)?;
        api.says(Says::Forbidden);
        lab.agent(NODE)?.wait_for("not followed for now", SOON)?;
        lab.stop_agent(NODE)?;
        ensure!(lab.kernel_state(NODE)?["links"] == 2, "it left for an error");
        api.says(Says::There);
        lab.start_agent(NODE)?;
        is_followed(&lab)?;
        let to = lab.pod("b1").at(80).to_string();
        let ping = lab.pod("a1").app(&["ping", "--to", &to, "--every-ms", "20"])?;
        ping.wait_for("connected", SOON)?;
        let words = ["short", "--to", &to, "--count", "1", "--parallel", "2", "--until-stdin-ends"];
        let load = lab.pod("a1").app(&words)?;
        let bundle = lab.directory().join(format!("{}.bundle.json", NODE.name()));
        until("the trust bundle to be kept", SOON, || bundle.exists().then_some(()))?;
        api.says(Says::Deleting);
        let agent = lab.agent(NODE)?;
        agent.wait_for("this agent will leave nothing behind", SOON)?;
        ensure!(pins(&lab).exists(), "it left before it was stopped");
        agent.signal(Signal::Terminate)?;
        agent.wait_for("draining", SOON)?;
        until("the programs to be gone", SOON, || (!pins(&lab).exists()).then_some(()))?;
        // What it carries may end, and what is new goes its own way.
        ensure!(ping.try_status().is_none(), "{}", ping.log());
        ping.close_stdin();
        ping.wait(SOON)?.ok()?;
        let ended = agent.wait(SOON)?;
        ensure!(ended.status.success(), "{}", ended.stderr);
        load.close_stdin();
        let said = load.wait(SOON)?.stdout;
        ensure!(said.contains("\"failed\":0"), "{said}");
        nothing_is_left(&lab)?;
        ensure!(!bundle.exists(), "the trust bundle is left");
        Ok(())
    });
}
