//! Whether the cluster does what Culvert needs of one: a check for each, on real objects.

use super::cluster::Cluster;
use crate::checks::{self, Checks};
use anyhow::{Context, Result, anyhow, bail, ensure};
use culvert_tests::until;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

/// Longest that pods may take to come up, on a machine that builds meanwhile.
const PODS_READY: &str = "--timeout=120s";

/// Longest that a change may take to be seen elsewhere.
const SEEN: Duration = Duration::from_secs(30);

/// The namespace of all that is made.
const NAMESPACE: &str = "smoke";

/// Makes every check, and removes what was made for them.
pub(super) fn checks(cluster: &Cluster, checks: &mut Checks) -> Result<()> {
    let smoke = Smoke { cluster };
    smoke.remove()?;
    cluster.apply(include_str!("../../../tests/k8s/smoke.yaml"))?;
    smoke.objects(checks);
    smoke.pods(checks);
    smoke.identities(checks);
    smoke.network(checks);
    smoke.node(checks);
    smoke.outage(checks);
    smoke.remove()
}

struct Smoke<'a> {
    cluster: &'a Cluster,
}

impl Smoke<'_> {
    fn objects(&self, checks: &mut Checks) {
        checks::part("objects");
        checks.add("the API server has a version", self.version());
        let established = ["wait", "--for=condition=Established", "crd/widgets.lab.example"];
        checks.add("a resource definition is established", self.said(&established));
        checks.add("a custom resource is taken", self.widget("ok", &json!({"size": 3})));
        let schema = self.widget("schema", &json!({"size": 0}));
        checks.add("its schema holds", refused(schema, "should be greater"));
        let rule = self.widget("rule", &json!({"size": 3, "most": 2}));
        checks.add("its CEL rule holds", refused(rule, "size is over most"));
        let policy = until("the admission policy to act", SEEN, || {
            refused(self.widget("policy", &json!({"size": 13})), "13 is not wanted").ok()
        });
        checks.add("an admission policy holds", policy);
        checks.add("a lease is taken", self.lease());
    }

    fn pods(&self, checks: &mut Checks) {
        checks::part("pods");
        let ready = ["wait", "--for=condition=Ready", PODS_READY, "pod/server", "pod/client"];
        checks.add("pods are ready", self.said(&ready));
        checks.add(
            "a DaemonSet is on every node",
            self.said(&["rollout", "status", "daemonset/agent", PODS_READY]),
        );
        checks.add("logs are read", contains(self.said(&["logs", "daemonset/agent"]), "up on"));
        checks.add("a port is forwarded", self.forwarded());
    }

    fn identities(&self, checks: &mut Checks) {
        checks::part("identities");
        let review = self.read_token("server").and_then(|token| self.review(&token, "mesh-ca"));
        checks.add("a pod's projected token names its pod", named(&review, "pod-name", "server"));
        checks.add("and its node", named(&review, "node-name", "node1"));
        let other = self.read_token("server").and_then(|token| self.review(&token, "other"));
        checks.add("it is refused for another audience", not_authenticated(other));
        let asked = self.asked_token().and_then(|token| self.review(&token, "mesh-ca"));
        checks.add("a token can be asked for a pod", named(&asked, "pod-name", "client"));
        let can = |verb, kind| {
            let user = "--as=system:serviceaccount:smoke:agent";
            let arguments = ["auth", "can-i", verb, kind, "--all-namespaces", user];
            let output = self.cluster.try_kubectl(&arguments, "")?;
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        checks.add("a role grants what it says", contains(can("list", "pods"), "yes"));
        checks.add("and nothing more", contains(can("list", "secrets"), "no"));
    }

    fn network(&self, checks: &mut Checks) {
        checks::part("network");
        let address = self.said(&["get", "pod", "server", "-o", "jsonpath={.status.podIP}"]);
        let direct = address.and_then(|ip| self.fetch(&format!("http://{}:8080/", ip.trim())));
        checks.add("a pod reaches one on the other node", direct);
        let service = self.said(&["get", "service", "server", "-o", "jsonpath={.spec.clusterIP}"]);
        let service = service.and_then(|ip| self.fetch(&format!("http://{}/", ip.trim())));
        checks.add("a pod reaches a service by address", service);
        checks.add("a pod reaches a service by name", self.fetch("http://server.smoke/"));
        let api = ["exec", "client", "--", "curl", "-sk", "https://kubernetes.default.svc/version"];
        checks.add("a pod reaches the API server by name", contains(self.said(&api), "gitVersion"));
        let slices = ["get", "endpointslice", "-l", "kubernetes.io/service-name=server", "-o"];
        let slices = [&slices[..], &["jsonpath={.items[0].endpoints[0].nodeName}"]].concat();
        checks.add("an endpoint slice names the node", contains(self.said(&slices), "node1"));
    }

    fn node(&self, checks: &mut Checks) {
        checks::part("what an agent finds on its node");
        let agent =
            |words: &[&str]| self.said(&[&["exec", "daemonset/agent", "--"], words].concat());
        checks.add("a BPF file system", contains(agent(&["mount"]), "/sys/fs/bpf type bpf"));
        let netns = until("a pod's network namespace", SEEN, || {
            contains(agent(&["ls", "/var/run/netns"]), "cni-").ok()
        });
        checks.add("its pods' network namespaces", netns);
        let host = contains(agent(&["ip", "address", "show", "eth0"]), "10.44.0.1");
        checks.add("its node's network", host.map(|_| "eth0 of the node".into()));
        let init = contains(agent(&["cat", "/host/proc/1/comm"]), "bash");
        checks.add("its node's process 1", init);
        checks.add("each pod's own cgroup of version 2", self.cgroup());
        checks.add("a folder for its plugin", agent(&["touch", "/host/opt/cni/bin/of-agent"]));
        let removed = agent(&["rm", "/host/opt/cni/bin/of-agent"]);
        checks.add("which it can clean up", removed);
    }

    fn outage(&self, checks: &mut Checks) {
        checks::part("an outage of the API server");
        checks.add("it can be stopped", self.cluster.stop_api_server().map(|()| "gone".into()));
        let none = match self.version() {
            Ok(version) => Err(anyhow!("it still says {version}")),
            Err(_) => Ok("no answer".into()),
        };
        checks.add("then it answers no more", none);
        let back = self.cluster.start_api_server().and_then(|()| self.version());
        checks.add("and it comes back", back);
    }

    fn said(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.kubectl(&[&["--namespace", NAMESPACE], arguments].concat())
    }

    fn version(&self) -> Result<String> {
        let text = self.cluster.kubectl(&["get", "--raw", "/version"])?;
        let value: Value = serde_json::from_str(&text)?;
        let version = value["gitVersion"].as_str().context("no version")?;
        ensure!(version.starts_with("v1."), "{version}");
        Ok(version.to_owned())
    }

    fn create(&self, object: &Value) -> Result<String> {
        self.cluster.kubectl_with(&["create", "-f", "-"], &object.to_string())
    }

    fn widget(&self, name: &str, spec: &Value) -> Result<String> {
        let metadata = json!({"name": name, "namespace": NAMESPACE});
        self.create(&json!({
            "apiVersion": "lab.example/v1", "kind": "Widget", "metadata": metadata, "spec": spec,
        }))
    }

    fn lease(&self) -> Result<String> {
        self.create(&json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "leader", "namespace": NAMESPACE},
            "spec": {"holderIdentity": "one", "leaseDurationSeconds": 15},
        }))
    }

    /// Asks the API server whose token this is.
    fn review(&self, token: &str, audience: &str) -> Result<Value> {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token.trim(), "audiences": [audience]},
        });
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let arguments = ["create", "--raw", path, "-f", "-"];
        let said = self.cluster.kubectl_with(&arguments, &review.to_string())?;
        Ok(serde_json::from_str::<Value>(&said)?["status"].take())
    }

    fn read_token(&self, pod: &str) -> Result<String> {
        self.said(&["exec", pod, "--", "cat", "/var/run/secrets/lab/token"])
    }

    /// A token bound to a pod, as one asks for it who is not that pod.
    fn asked_token(&self) -> Result<String> {
        let uid = self.said(&["get", "pod", "client", "-o", "jsonpath={.metadata.uid}"])?;
        let audience = "--audience=mesh-ca";
        let bound = ["--bound-object-kind=Pod", "--bound-object-name=client", "--bound-object-uid"];
        let arguments = [&["create", "token", "default", audience], &bound[..], &[uid.trim()]];
        self.said(&arguments.concat())
    }

    fn fetch(&self, url: &str) -> Result<String> {
        let curl = ["exec", "client", "--", "curl", "-sS", "--max-time", "10", url];
        let outcome = until("an answer", SEEN, || contains(self.said(&curl), "served").ok());
        // What failed last says more than that time is over.
        outcome.or_else(|_| contains(self.said(&curl), "served"))
    }

    /// Reaches the server's port through the API server and the kubelet.
    fn forwarded(&self) -> Result<String> {
        let mut command = self.cluster.kubectl_command();
        command
            .args(["--namespace", NAMESPACE, "port-forward", "pod/server", ":8080"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().context("could not start `kubectl port-forward`")?;
        let asked = || {
            let mut line = String::new();
            let stdout = child.stdout.take().context("it has a standard output")?;
            // It is kept open: kubectl says more, and would end where nobody listens.
            let mut said = BufReader::new(stdout);
            said.read_line(&mut line)?;
            let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next());
            let url = format!("http://127.0.0.1:{}/", port.context("no port was told")?);
            crate::run::read(std::process::Command::new("curl").args(["-fsS", &url]))
        };
        let said = { asked }();
        child.kill()?;
        child.wait()?;
        contains(said, "served")
    }

    fn cgroup(&self) -> Result<String> {
        let uid = self.said(&["get", "pod", "server", "-o", "jsonpath={.metadata.uid}"])?;
        let script = format!(
            "for at in $(find /sys/fs/cgroup -name pod{}); do \
               [ $(stat -f -c %T $at) != cgroup2fs ] || echo $at: $(cat $at/*/cgroup.procs); \
             done",
            uid.trim()
        );
        let words = ["sh", "-c", &script].map(str::to_owned);
        let said = crate::run::read(&mut self.cluster.node_exec("node1", &words)?)?;
        let (path, processes) = said.trim().split_once(": ").context("it has no process")?;
        ensure!(path.ends_with(uid.trim()), "{said}");
        Ok(format!("{path} holds {} processes", processes.split(' ').count()))
    }

    fn remove(&self) -> Result<()> {
        let kinds = "namespace/smoke,customresourcedefinition/widgets.lab.example,\
                     validatingadmissionpolicy/smoke-widgets,\
                     validatingadmissionpolicybinding/smoke-widgets,\
                     clusterrole/smoke-agent,clusterrolebinding/smoke-agent";
        let names: Vec<_> = kinds.split(',').collect();
        let arguments = [&["delete", "--ignore-not-found", PODS_READY][..], &names].concat();
        self.cluster.kubectl(&arguments).map(drop)
    }
}

/// The line of what was said that has this part.
fn contains(said: Result<String>, part: &str) -> Result<String> {
    let said = said?;
    let line = said.lines().find(|line| line.contains(part));
    Ok(line.with_context(|| format!("no `{part}` in: {}", said.trim()))?.trim().to_owned())
}

fn refused(outcome: Result<String>, reason: &str) -> Result<String> {
    match outcome {
        Ok(said) => bail!("it was taken: {}", said.trim()),
        Err(error) => contains(Ok(format!("{error:#}")), reason),
    }
}

fn named(review: &Result<Value>, claim: &str, expected: &str) -> Result<String> {
    let review = match review {
        Ok(review) => review,
        Err(error) => bail!("{error:#}"),
    };
    let key = format!("authentication.kubernetes.io/{claim}");
    let named = review["user"]["extra"][&key][0].as_str();
    ensure!(review["authenticated"] == true && named == Some(expected), "{review}");
    Ok(format!("{claim} {expected}"))
}

fn not_authenticated(review: Result<Value>) -> Result<String> {
    let review = review?;
    ensure!(review["authenticated"] != true, "{review}");
    Ok(review["error"].as_str().unwrap_or("not authenticated").to_owned())
}
