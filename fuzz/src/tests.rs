//! Every input that is kept, once; and honest inputs, which must get through to the end: else a
//! target would fuzz its own first step.

use super::*;
use crate::chain::{NOW, element};
use prost::Message;
use rcgen::{
    CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Longest that one input may take, on a machine that is busy building.
const LIMIT: Duration = Duration::from_secs(5);

fn corpus(target: &Target) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "corpus", target.name].iter().collect()
}

#[test]
fn kept_inputs_hold_for_every_target() {
    for target in TARGETS {
        let folder = corpus(&target);
        let mut taken = 0;
        let mut inputs = 0;
        for entry in std::fs::read_dir(&folder).expect("a corpus for every target") {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            let begun = Instant::now();
            taken += usize::from((target.run)(&std::fs::read(&path).unwrap()) == Verdict::Taken);
            assert!(begun.elapsed() < LIMIT, "{} took {:?}", path.display(), begun.elapsed());
            inputs += 1;
        }
        assert!(inputs >= 10 && taken >= 1, "{}: {taken} of {inputs} taken", target.name);
    }
}

#[test]
fn honest_inputs_are_taken_by_every_target() {
    for target in TARGETS {
        let honest = honest(target.name);
        assert!(!honest.is_empty(), "no honest input for {}", target.name);
        for input in honest {
            let verdict = (target.run)(&input);
            assert_eq!(verdict, Verdict::Taken, "{}: {}", target.name, input.escape_ascii());
        }
    }
}

#[test]
fn programs_and_corpora_are_those_of_the_targets() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for (folder, suffix) in [("targets", ".rs"), ("corpus", "")] {
        let found = std::fs::read_dir(root.join(folder)).unwrap();
        let mut found: Vec<_> =
            found.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let mut wanted: Vec<_> =
            TARGETS.iter().map(|target| format!("{}{suffix}", target.name)).collect();
        found.sort();
        wanted.sort();
        assert_eq!(found, wanted);
    }
}

fn honest(target: &str) -> Vec<Vec<u8>> {
    let texts: &[&str] = match target {
        "spiffe_id" => &["spiffe://td/ns/default/sa/web", "spiffe://a.b_c-d/ns/n/sa/x.y-z"],
        "token" => &[concat!(
            r#"{"alg":"ES256","typ":"JWT"}"#,
            "\n",
            r#"{"aud":"culvert-ca","sub":"node:node1","iat":1780000000,"exp":1900000000}"#
        )],
        "workloads" => &[concat!(
            "workloads:\n",
            "  - name: a1\n    namespace: default\n    serviceAccount: frontend\n    node: node1\n",
            "    addresses: [10.1.1.2, \"fd00:1::2\"]\n    labels: {app: a1}\n",
            "    netns: /run/netns/a1\n",
            "  - {name: b1, namespace: n, serviceAccount: s, node: node2, addresses: [10.1.1.3]}\n"
        )],
        "policies" => &[concat!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n",
            "  name: default\n  namespace: default\nspec:\n  mtls:\n    mode: STRICT\n---\n",
            "apiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\nmetadata:\n",
            "  name: p\n  namespace: n\n  creationTimestamp: \"2026-01-01T00:00:00Z\"\nspec:\n",
            "  selector:\n    matchLabels: {app: a}\n  portLevelMtls:\n    8080: {mode: DISABLE}\n"
        )],
        "documents" => &[
            include_str!("../corpus/documents/honest-0"),
            include_str!("../corpus/documents/honest-1"),
        ],
        _ => return honest_bytes(target),
    };
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn honest_bytes(target: &str) -> Vec<Vec<u8>> {
    match target {
        "authority" => calls(),
        "bundle" => {
            let root = |name| authority(name).pem();
            vec![root("root").into(), [root("one"), root("two")].concat().into()]
        }
        "chain" => {
            // A first leaf as the authority makes it, one for a client only, and one with more of
            // a chain behind it.
            let mut client_only = leaf();
            client_only.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            let [plain, client_only] = [leaf(), client_only].map(|params| signed_part(&params));
            let longer = [plain.clone(), authority("issuing").der().to_vec()].concat();
            vec![plain, client_only, longer]
        }
        "csr" => {
            let key = KeyPair::generate().unwrap();
            let request = leaf_names().serialize_request(&key).unwrap();
            let bare = CertificateParams::default().serialize_request(&key).unwrap();
            vec![request.pem().unwrap().into(), request.der().to_vec(), bare.der().to_vec()]
        }
        "http" => vec![
            include_bytes!("../corpus/http/honest-0").to_vec(),
            include_bytes!("../corpus/http/honest-1").to_vec(),
        ],
        "istio_request" => vec![istio_request()],
        "ca_messages" => {
            let asked = culvert_proto::culvert::ca::SignJwtSvidRequest {
                spiffe_id: csr::GRANTED.to_owned(),
                audience: vec!["a".to_owned()],
                validity_duration: 300,
            };
            let bundle = culvert_proto::culvert::ca::TrustBundle {
                trust_domain: "td".to_owned(),
                sequence: 3,
                roots: vec![culvert_proto::culvert::ca::Root {
                    certificate: b"DER".to_vec(),
                    standing: 1,
                }],
                jwks: b"{\"keys\":[]}".to_vec(),
            };
            vec![
                [vec![0], bundle.encode_to_vec()].concat(),
                [vec![1], asked.encode_to_vec()].concat(),
            ]
        }
        _ => Vec::new(),
    }
}

/// The begin of a connection whose call names a socket as its `:authority`, in each of the forms.
fn calls() -> Vec<Vec<u8>> {
    let spelt = [&[10][..], b":authority"].concat();
    let names = [0x41, 0x01, 0x11].map(|form| vec![form]);
    let names =
        names.into_iter().chain([0x40, 0x00, 0x10].map(|form| [&[form], &spelt[..]].concat()));
    let blocks = names.map(|name| [&[0x83, 0x86, 0x84], &name[..], b"\x06a%2Fbc"].concat());
    let blocks: Vec<_> = blocks.collect();
    let plain = blocks.iter().map(|block| (0x4, block.clone()));
    let padded = blocks.iter().map(|block| (0xc, [&[3], &block[..], &[0; 3]].concat()));
    let prioritised = blocks.iter().map(|block| (0x24, [&[0, 0, 0, 0, 16], &block[..]].concat()));
    let frames = plain.chain(padded).chain(prioritised).map(|(flags, payload)| {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, 1, flags, 0, 0, 0, 1], &payload[..]].concat()
    });
    let begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    frames.map(|frame| [&begin[..], &frame].concat()).collect()
}

fn istio_request() -> Vec<u8> {
    use prost_types::{Struct, Value, value::Kind};
    let id = Value { kind: Some(Kind::StringValue(csr::GRANTED.to_owned())) };
    let fields = [("ImpersonatedIdentity".to_owned(), id)].into();
    culvert_proto::istio::ca::IstioCertificateRequest {
        csr: "-----BEGIN CERTIFICATE REQUEST-----".to_owned(),
        validity_duration: 86400,
        metadata: Some(Struct { fields }),
    }
    .encode_to_vec()
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(2));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn leaf_names() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(csr::GRANTED.try_into().unwrap())];
    params
}

fn leaf() -> CertificateParams {
    let mut params = leaf_names();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = NOW - Duration::from_mins(5);
    params.not_after = NOW + Duration::from_hours(1);
    params
}

/// The part of a certificate that is signed, under the name of the target's root.
fn signed_part(params: &CertificateParams) -> Vec<u8> {
    let issuer = authority("root");
    let leaf = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
    // Behind the header of the whole, which is one byte of tag, one of form and two of length.
    let whole = leaf.der();
    assert_eq!(whole[1], 0x82);
    element(&whole[4..]).unwrap().0.to_vec()
}

/// Writes the honest inputs into the corpus: what a new target begins with.
#[test]
#[ignore = "changes the corpus"]
fn honest_inputs_are_put_into_the_corpus() {
    for target in TARGETS {
        for (number, input) in honest(target.name).into_iter().enumerate() {
            std::fs::write(corpus(&target).join(format!("honest-{number}")), input).unwrap();
        }
    }
}
