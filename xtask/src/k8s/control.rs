//! The control plane: etcd, API server, controllers, scheduler and name server.

use super::component::Component;
use super::layout;
use super::pki;
use super::programs;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Longest that the API server may take to be ready, on a machine that builds meanwhile.
const API_READY: Duration = Duration::from_mins(3);

/// Longest that any other program may take.
const READY: Duration = Duration::from_mins(1);

/// The API server, which some checks stop for a while.
pub(super) const API_SERVER: Component<'static> = Component("kube-apiserver");

/// Starts the store and the API server, and opens the way to it from this machine.
pub(super) fn start_api(directory: &Path) -> Result<()> {
    let etcd = Component("etcd");
    etcd.start(Some(&layout::control()), &etcd_words(directory))?;
    etcd.wait(READY, || in_control("curl -fsS http://127.0.0.1:2379/readyz"))?;
    start_api_server(directory)?;
    way_in()?;
    wait_api_server(directory)
}

/// Starts the API server alone.
pub(super) fn start_api_server(directory: &Path) -> Result<()> {
    API_SERVER.start(Some(&layout::control()), &api_server_words(directory))
}

/// Waits until the API server answers this machine.
pub(super) fn wait_api_server(directory: &Path) -> Result<()> {
    API_SERVER.wait(API_READY, || {
        kubectl(directory)
            .args(["get", "--raw", "/readyz"])
            .stdin(Stdio::null())
            .output()
            .is_ok_and(|output| output.status.success())
    })
}

/// Starts what acts on the objects in the store.
pub(super) fn start_rest(directory: &Path) -> Result<()> {
    let (place, program) = (pki::directory(), |name| path(&programs::program(directory, name)));
    let file = |name: &str| path(&place.join(name));
    let controllers = [
        program("kube-controller-manager"),
        format!("--kubeconfig={}", file("kube-controller-manager.conf")),
        format!("--root-ca-file={}", file("ca.crt")),
        format!("--service-account-private-key-file={}", file("sa.key")),
        format!("--cluster-signing-cert-file={}", file("ca.crt")),
        format!("--cluster-signing-key-file={}", file("ca.key")),
        format!("--cluster-cidr={}", layout::PODS),
        "--allocate-node-cidrs=false".into(),
        "--cluster-name=culvert-k8s".into(),
        "--leader-elect=false".into(),
        "--node-monitor-grace-period=20s".into(),
        "--use-service-account-credentials=true".into(),
    ];
    Component("kube-controller-manager").start(Some(&layout::control()), &controllers)?;
    let scheduler = [
        program("kube-scheduler"),
        format!("--kubeconfig={}", file("kube-scheduler.conf")),
        "--leader-elect=false".into(),
    ];
    Component("kube-scheduler").start(Some(&layout::control()), &scheduler)?;

    let corefile = layout::directory().join("Corefile");
    let text =
        include_str!("../../../tests/k8s/Corefile").replace("@KUBECONFIG@", &file("coredns.conf"));
    fs::write(&corefile, text).context("could not write the name server's settings")?;
    let names = [program("coredns"), "-conf".into(), path(&corefile)];
    Component("coredns").start(Some(&layout::control()), &names)
}

/// Waits until the programs of [`start_rest`] are ready, which needs what the objects grant them.
pub(super) fn wait_rest() -> Result<()> {
    for (name, address) in [
        ("kube-controller-manager", "https://127.0.0.1:10257/healthz"),
        ("kube-scheduler", "https://127.0.0.1:10259/healthz"),
        ("coredns", "http://127.0.0.1:8181/ready"),
    ] {
        Component(name).wait(READY, || in_control(&format!("curl -fsSk {address}")))?;
    }
    Ok(())
}

/// `kubectl` as the cluster's administrator.
pub(super) fn kubectl(directory: &Path) -> Command {
    let mut command = Command::new(programs::program(directory, "kubectl"));
    command.env("KUBECONFIG", layout::kubeconfig());
    command
}

/// A port of this machine's loopback leads to the API server: over a socket in the file system,
/// which network namespaces share.
fn way_in() -> Result<()> {
    let socket = path(&layout::directory().join("api.sock"));
    let words = |from: String, to: String| ["socat".to_owned(), from, to];
    let inside =
        words(format!("UNIX-LISTEN:{socket},fork,unlink-early"), "TCP4:127.0.0.1:6443".into());
    Component("api-inside").start(Some(&layout::control()), &inside)?;
    let port = layout::api_port();
    let outside = words(
        format!("TCP4-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork"),
        format!("UNIX-CONNECT:{socket}"),
    );
    Component("api-outside").start(None, &outside)
}

fn etcd_words(directory: &Path) -> Vec<String> {
    vec![
        path(&programs::program(directory, "etcd")),
        format!("--data-dir={}", path(&layout::directory().join("etcd"))),
        // What is lost with the machine is made anew by the next `up`.
        "--unsafe-no-fsync".into(),
        "--listen-client-urls=http://127.0.0.1:2379".into(),
        "--advertise-client-urls=http://127.0.0.1:2379".into(),
        "--listen-peer-urls=http://127.0.0.1:2380".into(),
        "--initial-advertise-peer-urls=http://127.0.0.1:2380".into(),
        "--initial-cluster=default=http://127.0.0.1:2380".into(),
        "--log-level=warn".into(),
    ]
}

fn api_server_words(directory: &Path) -> Vec<String> {
    let place = pki::directory();
    let file = |flag: &str, name: &str| format!("--{flag}={}", path(&place.join(name)));
    let issuer = "https://kubernetes.default.svc.cluster.local";
    vec![
        path(&programs::program(directory, "kube-apiserver")),
        "--etcd-servers=http://127.0.0.1:2379".into(),
        "--secure-port=6443".into(),
        format!("--advertise-address={}", layout::CONTROL_ADDRESS),
        format!("--service-cluster-ip-range={}", layout::SERVICES),
        file("tls-cert-file", "apiserver.crt"),
        file("tls-private-key-file", "apiserver.key"),
        file("client-ca-file", "ca.crt"),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        "--allow-privileged=true".into(),
        format!("--service-account-issuer={issuer}"),
        format!("--api-audiences={issuer}"),
        file("service-account-signing-key-file", "sa.key"),
        file("service-account-key-file", "sa.pub"),
        file("kubelet-client-certificate", "apiserver-kubelet.crt"),
        file("kubelet-client-key", "apiserver-kubelet.key"),
        file("kubelet-certificate-authority", "ca.crt"),
        "--kubelet-preferred-address-types=InternalIP".into(),
        file("proxy-client-cert-file", "front-proxy.crt"),
        file("proxy-client-key-file", "front-proxy.key"),
        file("requestheader-client-ca-file", "front-proxy-ca.crt"),
        "--requestheader-allowed-names=front-proxy-client".into(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
        "--requestheader-group-headers=X-Remote-Group".into(),
        "--requestheader-username-headers=X-Remote-User".into(),
        // No kube-proxy runs beside it: it goes to the endpoints of a service itself.
        "--enable-aggregator-routing=true".into(),
        "--shutdown-delay-duration=0s".into(),
    ]
}

/// Whether a command succeeds in the control plane's namespace.
fn in_control(command: &str) -> bool {
    Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", layout::control()))
        .arg("--")
        .args(command.split(' '))
        .stdin(Stdio::null())
        .output()
        .is_ok_and(|output| output.status.success())
}

fn path(path: &Path) -> String {
    path.display().to_string()
}
