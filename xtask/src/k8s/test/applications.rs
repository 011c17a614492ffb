//! The applications of the test: real servers and clients in two namespaces that are to be in the
//! mesh, and one that never is. None of them knows of it.

use super::kubectl::Kubectl;
use super::subject::Subject;
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;

/// The namespaces that are put into the mesh.
pub(crate) const SHOP: &str = "default";
/// The second of them.
pub(crate) const BANK: &str = "bank";
/// The namespace that never is.
pub(crate) const OUTSIDE: &str = "outside";

/// Port of nginx.
pub(crate) const HTTP: u16 = 80;
/// Port of the server that echoes.
pub(crate) const ECHO: u16 = 7000;
/// Text of the page that nginx serves.
pub(crate) const PAGE: &str = "welcome to the shop, 4111 1111 1111 1111";

/// How nginx is set up, without a file of its own.
const NGINX: &str = "daemon off; user root; error_log stderr; pid /tmp/nginx.pid; \
    events {} http { access_log /dev/stdout; \
    server { listen 80; listen [::]:80; root /tmp/www; } }";

/// One pod as it is to be: a container of the applications' image that runs one command.
pub(crate) struct Pod<'a> {
    /// Its namespace.
    pub(crate) namespace: &'a str,
    /// Its name, and the value of its label `app`.
    pub(crate) name: &'a str,
    /// Its node; the scheduler's choice without.
    pub(crate) node: Option<&'a str>,
    /// What it runs.
    pub(crate) command: &'a [&'a str],
    /// Lines below `spec:`.
    pub(crate) more: &'a str,
    /// Whether it is started again when it ends.
    pub(crate) restart: bool,
}

impl<'a> Pod<'a> {
    /// A pod that runs `command` for ever.
    pub(crate) fn new(namespace: &'a str, name: &'a str, command: &'a [&'a str]) -> Self {
        Self { namespace, name, node: None, command, more: "", restart: true }
    }

    /// On this node.
    pub(crate) fn on(self, node: &'a str) -> Self {
        Self { node: Some(node), ..self }
    }

    /// Runs once.
    pub(crate) fn once(self) -> Self {
        Self { restart: false, ..self }
    }

    /// The document, with its service account.
    pub(crate) fn document(&self, image: &str) -> String {
        let Self { namespace, name, command, more, .. } = self;
        let command = serde_json::to_string(command).unwrap_or_default();
        let node = self.node.map_or_else(String::new, |node| {
            format!("  nodeSelector: {{kubernetes.io/hostname: {node}}}\n")
        });
        let restart = if self.restart { "Always" } else { "Never" };
        format!(
            "---\napiVersion: v1\nkind: ServiceAccount\n\
             metadata: {{name: {name}, namespace: {namespace}}}\n\
             ---\napiVersion: v1\nkind: Pod\n\
             metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}\n\
             spec:\n  serviceAccountName: {name}\n  restartPolicy: {restart}\n  \
             terminationGracePeriodSeconds: 1\n{node}{more}  containers:\n  \
             - name: main\n    image: {image}\n    imagePullPolicy: IfNotPresent\n    \
             command: {command}\n"
        )
    }
}

/// A Service in front of pods labelled `app: NAME`.
fn service(namespace: &str, name: &str, port: u16, target: u16) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\n\
         metadata: {{name: {name}, namespace: {namespace}}}\n\
         spec:\n  selector: {{app: {name}}}\n  ports:\n  \
         - {{name: tcp, port: {port}, targetPort: {target}}}\n"
    )
}

/// Brings them up, none of them in the mesh yet, and waits until all are ready.
pub(crate) fn start(subject: &Subject) -> Result<()> {
    let [first, second] = subject.nodes();
    let image = subject.applications_image();
    let nginx = format!(
        "mkdir -p /tmp/www && echo '{PAGE}' > /tmp/www/index.html && echo '{NGINX}' > /tmp/nginx.conf \
         && exec nginx -c /tmp/nginx.conf"
    );
    let web = ["sh", "-c", &nginx];
    let echo = ["culvert-testapp", "echo", "--listen", "[::]:7000"];
    let idle = ["sleep", "100000"];
    let mut documents = String::new();
    for namespace in [BANK, OUTSIDE] {
        writeln!(
            documents,
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}"
        )?;
    }
    for pod in [
        Pod::new(SHOP, "backend", &web).on(second),
        Pod::new(SHOP, "frontend", &idle).on(first),
        Pod::new(SHOP, "neighbour", &idle).on(second),
        Pod::new(BANK, "ledger", &echo).on(second),
        Pod::new(BANK, "teller", &idle).on(first),
        Pod::new(OUTSIDE, "stranger", &idle).on(first),
    ] {
        documents += &pod.document(image);
    }
    documents += &service(SHOP, "backend", 80, HTTP);
    documents += &service(BANK, "ledger", 7000, ECHO);
    subject.kubectl().apply(&documents)?;
    for namespace in [SHOP, BANK, OUTSIDE] {
        ready(subject.kubectl(), namespace, "--all")?;
    }
    Ok(())
}

/// Waits until pods (`--all`, or `pod/NAME`) are ready.
pub(crate) fn ready(kubectl: &Kubectl, namespace: &str, which: &str) -> Result<()> {
    let which = if which == "--all" { vec!["pod", "--all"] } else { vec![which] };
    let mut words = vec!["-n", namespace, "wait", "--for=condition=Ready", "--timeout=120s"];
    words.extend(which);
    kubectl.ok(&words).map(drop)
}

/// A pod's IPv4 or IPv6 address.
pub(crate) fn address(kubectl: &Kubectl, namespace: &str, pod: &str) -> Result<String> {
    let pod = kubectl.get(&["-n", namespace, "pod", pod])?;
    let address = pod["status"]["podIP"].as_str().context("the pod has no address yet")?;
    Ok(address.to_owned())
}

/// A Service's cluster address.
pub(crate) fn cluster_address(kubectl: &Kubectl, namespace: &str, name: &str) -> Result<String> {
    let service = kubectl.get(&["-n", namespace, "service", name])?;
    let address = service["spec"]["clusterIP"].as_str().context("it has no address")?;
    Ok(address.to_owned())
}

/// Asks for the shop's page from a pod; what came, or what curl said.
pub(crate) fn fetch(subject: &Subject, from: (&str, &str), url: &str) -> Result<String> {
    let (namespace, pod) = from;
    let words = ["curl", "-sS", "--max-time", "10", url];
    let said = subject.kubectl().exec(namespace, pod, &words)?;
    ensure!(said.good, "{namespace}/{pod} got no answer from {url}: {}", said.stderr.trim());
    Ok(said.stdout)
}

/// Exchanges a line with the echo server at `to` (`ADDRESS:PORT`) from a pod.
pub(crate) fn talk(subject: &Subject, from: (&str, &str), to: &str) -> Result<String> {
    let (namespace, pod) = from;
    let words = ["culvert-testapp", "talk", "--to", to, "--patience", "10"];
    let said = subject.kubectl().exec(namespace, pod, &words)?;
    ensure!(said.good, "{namespace}/{pod} to {to}: {} {}", said.stdout.trim(), said.stderr.trim());
    Ok(said.stdout)
}
