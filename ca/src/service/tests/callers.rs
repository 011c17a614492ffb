//! Who is nobody: tokens in all the ways in which they are no proof.

use tonic::Code;
use tonic::metadata::MetadataMap;

use super::lab::{HOUR, Lab};
use crate::attest::NodeTokens;
use crate::directory::Directory;

#[tokio::test]
async fn node_gets_a_chain_for_its_workload_and_the_audit_says_so() {
    use culvert_spiffe::{PeerRole, TrustBundle};
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    let lab = Lab::new().await;
    let answer = lab.send(lab.good()).await.unwrap();
    let [leaf, issuing, roots] = answer.as_slice() else { panic!("{} elements", answer.len()) };
    let chain = [leaf, issuing].map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap());
    let now = crate::authority::unix(time::OffsetDateTime::now_utc());
    let bundle = TrustBundle::from_pem("td".parse().unwrap(), roots.as_bytes()).unwrap();
    assert_eq!(bundle.certificates(), lab.bundle.certificates());
    let peer = bundle.verify(&chain, PeerRole::Client, now).unwrap();
    assert_eq!(peer.id().as_str(), super::lab::WEB);
    assert!(answer.iter().all(|pem| pem.ends_with('\n')));

    let line = lab.audit.last();
    assert_eq!(line["decision"], "issued");
    assert_eq!(line["caller"], "node_token");
    assert_eq!(line["node"], "node1");
    assert_eq!(line["identity"], super::lab::WEB);
    assert_eq!(line["not_after"], peer.not_after().as_secs());
    assert_eq!(line["key_sha256"].as_str().unwrap().len(), 64);
    assert!((3590..=3600).contains(&line["ttl"].as_u64().unwrap()), "{line}");
    assert!(line["root"].is_u64() && line["issuing"].is_u64() && line["bundle"].is_u64());
    assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
}

#[tokio::test]
async fn caller_without_a_good_token_is_refused() {
    let lab = Lab::new().await;
    let refused = async |change: &dyn Fn(&mut MetadataMap), rule: &str| {
        let mut request = lab.good();
        change(request.metadata_mut());
        lab.refused(request, Code::Unauthenticated, rule).await;
    };
    refused(&|headers| drop(headers.remove("authorization")), "no_token").await;
    let second = |h: &mut MetadataMap| {
        assert!(h.append("authorization", "Bearer x".parse().unwrap()));
    };
    refused(&second, "many_tokens").await;
    let same = |h: &mut MetadataMap| {
        let first = h.get("authorization").unwrap().clone();
        assert!(h.append("authorization", first));
    };
    refused(&same, "many_tokens").await;
    for value in ["Bearer", "Bearer ", "Basic abc", "Bearer a.b.c", "Bearer a b", "bearer  x"] {
        let set = |h: &mut MetadataMap| drop(h.insert("authorization", value.parse().unwrap()));
        refused(&set, "malformed_token").await;
    }
    let set = |token: &str, rule: &'static str| {
        let value = format!("Bearer {token}");
        let (lab, value) = (&lab, value);
        async move {
            let mut request = lab.good();
            request.metadata_mut().insert("authorization", value.parse().unwrap());
            lab.refused(request, Code::Unauthenticated, rule).await;
        }
    };
    let past = time::OffsetDateTime::now_utc() - HOUR * 2;
    set(&lab.tokens.create("node1", HOUR, past).unwrap(), "token_expired").await;
    let temp = tempfile::tempdir().unwrap();
    let theirs = NodeTokens::open(&Directory::open(temp.path()).unwrap()).unwrap();
    let now = time::OffsetDateTime::now_utc();
    set(&theirs.create("node1", HOUR, now).unwrap(), "token_signature").await;
    // The claims of another, under an honest signature.
    let [mine, others] = ["node1", "node2"].map(|node| lab.node_token(node));
    let [mine, others] = [&mine, &others].map(|token| token.split('.').collect::<Vec<_>>());
    let swapped = [mine[0], others[1], mine[2]].join(".");
    set(&swapped, "token_signature").await;
    // Over the bound, and under the bound of the header list.
    set(&"a".repeat(9 * 1024), "malformed_token").await;
}

#[tokio::test]
async fn headers_over_the_bound_reach_nobody() {
    let lab = Lab::new().await;
    let mut request = lab.good();
    request.metadata_mut().insert("filler", "x".repeat(64 * 1024).parse().unwrap());
    assert!(lab.client(None).create_certificate(request).await.is_err());
    let mut request = lab.good();
    for number in 0..5000u32 {
        let name = tonic::metadata::MetadataKey::from_bytes(format!("x-{number}").as_bytes());
        request.metadata_mut().insert(name.unwrap(), "y".parse().unwrap());
    }
    assert!(lab.client(None).create_certificate(request).await.is_err());
    lab.serves().await;
}

#[tokio::test]
async fn garbage_on_the_port_harms_no_caller() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    let lab = Lab::new().await;
    let mut garbage = TcpStream::connect(lab.address).await.unwrap();
    let _silent = TcpStream::connect(lab.address).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // Ends, by alert and close or by reset.
    let _ = garbage.read_to_end(&mut answer).await;
    lab.serves().await;
}
