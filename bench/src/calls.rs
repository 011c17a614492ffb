//! Callers of a running authority over gRPC and TLS, in a closed loop.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use culvert_proto::istio::ca::IstioCertificateRequest;
use culvert_proto::istio::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use culvert_tests::usage;
use hyper_util::rt::TokioIo;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

use crate::{Authority, csr};

/// One caller: the agent of a node.
struct Caller {
    client: IstioCertificateServiceClient<Channel>,
    request: IstioCertificateRequest,
    bearer: MetadataValue<Ascii>,
}

/// Answers of one caller.
#[derive(Default)]
struct Answers {
    took: Vec<Duration>,
    refused: u64,
}

/// Runs the callers for `length` and tells what they got, and what it cost the authority.
pub(crate) fn run(
    authority: &Authority,
    callers: u8,
    watch: u32,
    length: Duration,
) -> anyhow::Result<serde_json::Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let tls = tls(&authority.root)?;
        let mut callers = (0..callers)
            .map(|number| Caller::new(authority, number, tls.clone()))
            .collect::<anyhow::Result<Vec<_>>>()?;
        for caller in &mut callers {
            // Connected, and told at once what is wrong with the setting.
            caller.call().await.context("first call failed")?;
        }
        let (before, begun) = (usage::read(&[watch])?, Instant::now());
        let mut tasks = JoinSet::new();
        for caller in callers {
            tasks.spawn(caller.run(begun + length));
        }
        let answers = tasks.join_all().await;
        let seconds = begun.elapsed().as_secs_f64();
        let used = usage::read(&[watch])?.since(&before);
        let refused: u64 = answers.iter().map(|one| one.refused).sum();
        let mut took: Vec<_> = answers.into_iter().flat_map(|one| one.took).collect();
        took.sort_unstable();
        let at = |share: usize| took.get(took.len() * share / 100).map(Duration::as_micros);
        let mut line = json!({
            "answered": took.len(), "refused": refused, "seconds": seconds,
            "p50_us": at(50), "p99_us": at(99),
        });
        used.tell(&mut line);
        Ok(line)
    })
}

impl Caller {
    fn new(authority: &Authority, number: u8, tls: TlsConnector) -> anyhow::Result<Self> {
        let id = csr::identity(&authority.trust_domain, number)?;
        let path = authority.tokens.join(format!("node{number}.token"));
        let token = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read token {}", path.display()))?;
        let value = Value { kind: Some(Kind::StringValue(id.as_str().to_owned())) };
        Ok(Self {
            client: IstioCertificateServiceClient::new(channel(authority.address, number, tls)),
            request: IstioCertificateRequest {
                csr: csr::request(&id)?,
                validity_duration: 0,
                metadata: Some(Struct {
                    fields: [("ImpersonatedIdentity".to_owned(), value)].into(),
                }),
            },
            bearer: format!("Bearer {}", token.trim()).parse()?,
        })
    }

    async fn call(&mut self) -> Result<(), tonic::Status> {
        let mut request = tonic::Request::new(self.request.clone());
        request.metadata_mut().insert("authorization", self.bearer.clone());
        self.client.create_certificate(request).await.map(drop)
    }

    async fn run(mut self, until: Instant) -> Answers {
        let mut answers = Answers::default();
        loop {
            let begun = Instant::now();
            if begun >= until {
                return answers;
            }
            match self.call().await {
                Ok(()) => answers.took.push(begun.elapsed()),
                Err(_) => answers.refused += 1,
            }
        }
    }
}

/// A connection from an address of its own, as each node has.
fn channel(address: SocketAddr, number: u8, tls: TlsConnector) -> Channel {
    let connector = tower::service_fn(move |_| {
        let tls = tls.clone();
        async move {
            let socket = TcpSocket::new_v4()?;
            socket.bind((Ipv4Addr::new(127, 0, 1, number + 1), 0).into())?;
            let tcp = socket.connect(address).await?;
            tcp.set_nodelay(true)?;
            let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
            std::io::Result::Ok(TokioIo::new(tls.connect(name, tcp).await?))
        }
    });
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector)
}

fn tls(root: &Path) -> anyhow::Result<TlsConnector> {
    let pem = std::fs::read(root).with_context(|| format!("cannot read {}", root.display()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}
