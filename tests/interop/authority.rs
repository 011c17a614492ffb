//! A running `culvert ca` on loopback, and a client that asks it as an agent does.

use anyhow::{Context, Result};
use culvert_proto::istio::ca::IstioCertificateRequest;
use culvert_proto::istio::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use culvert_tests::{Process, SOON};
use hyper_util::rt::TokioIo;
use prost_types::{Struct, Value, value::Kind};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, version};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

/// The one workload, on node `node1`.
pub(crate) const WEB: &str = "spiffe://cluster.local/ns/default/sa/web";

const WORKLOADS: &str = "workloads:\n  - {name: web, namespace: default, serviceAccount: web, \
                         node: node1, addresses: [10.1.1.2], netns: /run/netns/web}\n";

/// A running authority; ends with the value.
pub(crate) struct Authority {
    folder: TempDir,
    address: SocketAddr,
    token: String,
    runtime: Runtime,
    channel: Channel,
    // Held so that it runs.
    _process: Process,
}

impl Authority {
    /// Starts it and waits until it listens.
    pub(crate) fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (keys, workloads) = (folder.path().join("ca"), folder.path().join("workloads.yaml"));
        fs::write(&workloads, WORKLOADS)?;
        let mut serve = Command::new(culvert_tests::culvert()?);
        serve.args(["ca", "serve", "--listen", "127.0.0.1:0", "--san", "127.0.0.1"]);
        serve.args(["--trust-domain", "cluster.local", "--min-ttl", "1s", "--dir"]).arg(&keys);
        serve.arg("--workloads").arg(&workloads);
        let process = Process::start("ca", serve, folder.path())?;
        let line = process.wait_for("ca listening", SOON)?;
        let address = line.split("address=").nth(1).context("no address in its log")?;
        let address = address.split_whitespace().next().unwrap_or_default().parse()?;
        let mut token = Command::new(culvert_tests::culvert()?);
        token.args(["ca", "token", "create", "node1", "--dir"]).arg(&keys);
        let token = String::from_utf8(token.output()?.stdout)?.trim().to_owned();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let tls = TlsConnector::from(Arc::new(client(&keys.join("root-cert.pem"))?));
        let connector = tower::service_fn(move |_: http::Uri| {
            let tls = tls.clone();
            async move {
                let tcp = TcpStream::connect(address).await?;
                let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
                tls.connect(name, tcp).await.map(TokioIo::new)
            }
        });
        let channel = runtime.block_on(async {
            Endpoint::from_static("http://ca").connect_with_connector(connector).await
        })?;
        Ok(Self { folder, address, token, runtime, channel, _process: process })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A folder of the test's own.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its root certificate.
    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("ca/root-cert.pem")
    }

    /// Asks for [`WEB`]: the chain as the API gives it, leaf first, roots last.
    pub(crate) fn issue(&self, request: &str) -> Result<Vec<String>, Code> {
        let id = Value { kind: Some(Kind::StringValue(WEB.to_owned())) };
        let mut call = Request::new(IstioCertificateRequest {
            csr: request.to_owned(),
            validity_duration: 0,
            metadata: Some(Struct { fields: [("ImpersonatedIdentity".to_owned(), id)].into() }),
        });
        let bearer = format!("Bearer {}", self.token).parse().map_err(|_| Code::Internal)?;
        call.metadata_mut().insert("authorization", bearer);
        let mut client = IstioCertificateServiceClient::new(self.channel.clone());
        self.runtime
            .block_on(client.create_certificate(call))
            .map(|answer| answer.into_inner().cert_chain)
            .map_err(|status| status.code())
    }

    /// Has a key and a request made by openssl certified, and leaves `leaf.pem`, `issuing.pem` and
    /// `key.pem` in the folder.
    pub(crate) fn certified(&self) -> Result<Files> {
        let files = Files::of(self.folder());
        crate::openssl::new_key(&files.key, &["EC", "ec_paramgen_curve:P-256"])?;
        let request = crate::openssl::request(&files.key, &[])?;
        let chain = self.issue(&request).map_err(|code| anyhow::anyhow!("refused: {code}"))?;
        anyhow::ensure!(chain.len() == 3, "leaf, issuing and root were wanted: {chain:?}");
        fs::write(&files.leaf, &chain[0])?;
        fs::write(&files.issuing, &chain[1])?;
        fs::write(&files.root, &chain[2])?;
        Ok(files)
    }
}

/// What [`Authority::certified`] leaves.
pub(crate) struct Files {
    pub(crate) leaf: PathBuf,
    pub(crate) issuing: PathBuf,
    pub(crate) root: PathBuf,
    pub(crate) key: PathBuf,
}

impl Files {
    fn of(folder: &Path) -> Self {
        let at = |name| folder.join(name);
        let (leaf, issuing) = (at("leaf.pem"), at("issuing.pem"));
        Self { leaf, issuing, root: at("root.pem"), key: at("key.pem") }
    }
}

/// A client as anybody's would be: webpki with our root, the server known by its address.
fn client(root: &Path) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(root)?)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
