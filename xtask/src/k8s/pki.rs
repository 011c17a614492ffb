//! The cluster's own authority, the certificates of its programs, and kubeconfig files.

use super::layout::{self, NodeNumber};
use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use time::{Duration, OffsetDateTime};

/// How long the certificates of a cluster are valid; none stands that long.
const LIFETIME: Duration = Duration::days(365);

/// An authority of the cluster, whose certificate stands in `<name>.crt`.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// Who a certificate is for: as Kubernetes reads it, a user and his group.
struct Subject<'a> {
    user: &'a str,
    group: Option<&'a str>,
}

/// A certificate and its key.
struct Pair {
    certificate: String,
    key: String,
}

/// Where the control plane's keys and certificates are.
pub(super) fn directory() -> PathBuf {
    layout::directory().join("pki")
}

/// Makes all that the control plane presents and trusts, and the administrator's kubeconfig.
pub(super) fn control_plane() -> Result<Authority> {
    let place = directory();
    fs::create_dir_all(&place)?;
    let clients = Authority::create(&place, "ca")?;
    let front = Authority::create(&place, "front-proxy-ca")?;
    let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"];
    let domains = ["kubernetes.default.svc.cluster.local", "localhost"];
    let addresses =
        [IpAddr::from([127, 0, 0, 1]), layout::CONTROL_ADDRESS.into(), layout::API_SERVICE.into()];
    let server = Subject { user: "kube-apiserver", group: None };
    let names = [&names[..], &domains[..]].concat();
    clients.server(&server, &names, &addresses)?.write(&place, "apiserver")?;
    let kubelets = Subject { user: "kube-apiserver-kubelet", group: Some("system:masters") };
    clients.client(&kubelets)?.write(&place, "apiserver-kubelet")?;
    let proxy = Subject { user: "front-proxy-client", group: None };
    front.client(&proxy)?.write(&place, "front-proxy")?;
    service_account_keys(&place)?;

    let inside = format!("https://{}:6443", layout::CONTROL_ADDRESS);
    for user in ["kube-controller-manager", "kube-scheduler", "coredns"] {
        let name = format!("system:{user}");
        let pair = clients.client(&Subject { user: &name, group: None })?;
        write(&place.join(format!("{user}.conf")), &clients.kubeconfig(&pair, &inside))?;
    }
    let admin = clients.client(&Subject { user: "admin", group: Some("system:masters") })?;
    let outside = format!("https://127.0.0.1:{}", layout::api_port());
    write(&layout::kubeconfig(), &clients.kubeconfig(&admin, &outside))?;
    Ok(clients)
}

/// Makes what a node's kubelet and kube-proxy present and trust, into the node's own folder.
pub(super) fn node(authority: &Authority, node: NodeNumber) -> Result<()> {
    let place = node.directory().join("etc");
    let (name, server) = (node.name(), format!("https://{}:6443", layout::CONTROL_ADDRESS));
    write(&place.join("ca.crt"), &authority.pem)?;
    let serving = Subject { user: &format!("system:node:{name}"), group: Some("system:nodes") };
    let address = [node.address().into()];
    authority.server(&serving, &[&name], &address)?.write(&place, "serving")?;
    let kubelet = authority.client(&serving)?;
    write(&place.join("kubelet.conf"), &authority.kubeconfig(&kubelet, &server))?;
    let proxy = authority.client(&Subject { user: "system:kube-proxy", group: None })?;
    write(&place.join("proxy.conf"), &authority.kubeconfig(&proxy, &server))
}

/// Keys of service account tokens: RSA, as most clusters have.
fn service_account_keys(place: &Path) -> Result<()> {
    let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256)?;
    write(&place.join("sa.key"), &key.serialize_pem())?;
    write(&place.join("sa.pub"), &key.public_key_pem())
}

impl Authority {
    fn create(place: &Path, name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = params(&Subject { user: name, group: None })?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let pem = params.self_signed(&key)?.pem();
        write(&place.join(format!("{name}.crt")), &pem)?;
        write(&place.join(format!("{name}.key")), &key.serialize_pem())?;
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    fn client(&self, subject: &Subject) -> Result<Pair> {
        let mut params = params(subject)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn server(&self, subject: &Subject, names: &[&str], addresses: &[IpAddr]) -> Result<Pair> {
        let mut params = params(subject)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for name in names {
            params.subject_alt_names.push(SanType::DnsName((*name).try_into()?));
        }
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Pair> {
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Pair { certificate, key: key.serialize_pem() })
    }

    /// A kubeconfig that needs no other file. JSON is YAML.
    fn kubeconfig(&self, pair: &Pair, server: &str) -> String {
        let data = |text: &str| STANDARD.encode(text);
        let cluster = serde_json::json!({
            "server": server, "certificate-authority-data": data(&self.pem),
        });
        let user = serde_json::json!({
            "client-certificate-data": data(&pair.certificate),
            "client-key-data": data(&pair.key),
        });
        serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "culvert-k8s", "cluster": cluster}],
            "users": [{"name": "culvert-k8s", "user": user}],
            "contexts": [{
                "name": "culvert-k8s",
                "context": {"cluster": "culvert-k8s", "user": "culvert-k8s"},
            }],
            "current-context": "culvert-k8s",
        })
        .to_string()
    }
}

impl Pair {
    fn write(&self, place: &Path, name: &str) -> Result<()> {
        write(&place.join(format!("{name}.crt")), &self.certificate)?;
        write(&place.join(format!("{name}.key")), &self.key)
    }
}

fn params(subject: &Subject) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.remove(DnType::CommonName);
    if let Some(group) = subject.group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.distinguished_name.push(DnType::CommonName, subject.user);
    // A node's clock is the machine's, but certificates are checked to the second.
    params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
    params.not_after = params.not_before + LIFETIME;
    Ok(params)
}

/// Writes a file that only its owner reads: most of them hold keys.
fn write(path: &Path, text: &str) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("could not write {}", path.display()))
}
