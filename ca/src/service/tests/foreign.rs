//! Clients that are not ours: what Istio's ztunnel and istio-agent do on the wire.

use std::sync::Arc;

use culvert_proto::istio::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use hyper_util::rt::TokioIo;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use rcgen::{KeyPair, PublicKeyData as _};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::kubernetes::cluster;
use super::lab::{Lab, WEB, authorize, config, csr};
use crate::authority::ROOT_CERTIFICATES_FILE;
use culvert_proto::istio::ca::IstioCertificateRequest;

/// The server is known by the DNS name that Istio's clients use, against the root file.
fn istio_channel(lab: &Lab) -> Channel {
    let file = lab.directory.path().join("ca").join(ROOT_CERTIFICATES_FILE);
    let pem = std::fs::read(file).unwrap();
    let roots: Vec<_> = CertificateDer::pem_slice_iter(&pem).map(Result::unwrap).collect();
    let (address, config) = (lab.address, Arc::new(config(&roots, None)));
    let connect = tower::service_fn(move |_| {
        let connector = TlsConnector::from(config.clone());
        async move {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            let name = ServerName::try_from("istiod.istio-system.svc").unwrap();
            Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, tcp).await?))
        }
    });
    Endpoint::from_static("https://istiod.istio-system.svc:15012")
        .connect_with_connector_lazy(connect)
}

/// What ztunnel takes from the answer: leaf first, roots last, whatever is between in order.
fn taken(answer: &[String]) -> (Vec<CertificateDer<'static>>, RootCertStore) {
    let (roots, chain) = answer.split_last().unwrap();
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
        store.add(root.unwrap()).unwrap();
    }
    let parsed = chain.iter().map(|pem| {
        let mut blocks = CertificateDer::pem_slice_iter(pem.as_bytes());
        let one = blocks.next().unwrap().unwrap();
        assert!(blocks.next().is_none(), "one certificate an element");
        one
    });
    (parsed.collect(), store)
}

/// That plain webpki, which knows no SPIFFE, believes the chain; and that it is for `id`.
fn check(answer: &[String], id: &str, key: &KeyPair) {
    let (chain, roots) = taken(answer);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    verifier.verify_client_cert(&chain[0], &chain[1..], UnixTime::now()).unwrap();
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical, "no subject, so the name is critical");
    assert!(matches!(names.value.general_names.as_slice(), [GeneralName::URI(uri)] if *uri == id));
    assert_eq!(leaf.public_key().raw, key.subject_public_key_info());
}

fn metadata(entries: &[(&str, &str)]) -> Struct {
    let value = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let fields = entries.iter().map(|(key, text)| ((*key).to_owned(), value(text))).collect();
    Struct { fields }
}

#[tokio::test]
async fn ztunnel_gets_certificates_for_the_pods_of_its_node() {
    let (_server, lab) = cluster(&[]).await;
    let mut client = IstioCertificateServiceClient::new(istio_channel(&lab));
    let key = KeyPair::generate().unwrap();
    let mut request = Request::new(IstioCertificateRequest {
        csr: csr(&key, |_| {}),
        validity_duration: 86400,
        metadata: Some(metadata(&[("ImpersonatedIdentity", WEB)])),
    });
    authorize(&mut request, &lab.token);
    request.metadata_mut().insert("clusterid", "Kubernetes".parse().unwrap());
    let answer = client.create_certificate(request).await.unwrap().into_inner();
    check(&answer.cert_chain, WEB, &key);
    let line = lab.audit.last();
    assert_eq!(line["caller"], "service_account_token");
    assert_eq!((&line["pod"], &line["node"]), (&"agent-1".into(), &"node1".into()));
    assert_eq!(line["caller_identity"], "spiffe://td/ns/culvert-system/sa/culvert-agent");
}

#[tokio::test]
async fn istio_agent_gets_the_certificate_of_its_own_pod() {
    let (server, lab) = cluster(&[]).await;
    let mut client = IstioCertificateServiceClient::new(istio_channel(&lab));
    // An RSA key and no name in the request, as older ones have it.
    let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let mut request = Request::new(IstioCertificateRequest {
        csr: csr(&key, |params| params.subject_alt_names.clear()),
        validity_duration: 86400,
        metadata: Some(metadata(&[("ClusterID", "Kubernetes"), ("WorkloadName", "a1")])),
    });
    authorize(&mut request, &server.token("a1"));
    for header in ["clusterid", "ca_header_x"] {
        request.metadata_mut().insert(header, "Kubernetes".parse().unwrap());
    }
    let answer = client.create_certificate(request).await.unwrap().into_inner();
    check(&answer.cert_chain, WEB, &key);
}

#[tokio::test]
async fn renewal_by_certificate_alone_is_what_istio_agent_does_with_provisioned_ones() {
    let (_server, lab) = cluster(&[]).await;
    let mut client = lab.client(Some(lab.svid(WEB, OffsetDateTime::now_utc())));
    let key = KeyPair::generate().unwrap();
    let request = Request::new(IstioCertificateRequest {
        csr: csr(&key, |_| {}),
        validity_duration: 0,
        metadata: None,
    });
    let answer = client.create_certificate(request).await.unwrap().into_inner();
    check(&answer.cert_chain, WEB, &key);
}
