//! Real handshakes over an in-memory pipe.

use rcgen::SanType;
use rustls::{ClientConfig, ProtocolVersion};
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;
use crate::identity::testing::TestAuthority;
use crate::identity::tls;
use crate::identity::verifier::OutboundVerifier;

const PIPE_BYTES: usize = 64 * 1024;

type Ended<S> = Result<(S, VerifiedPeer), HandshakeError>;

/// Both ends of one handshake, the client expecting `expected`. The client then reads once, as
/// TLS 1.3 lets it hear of a refusal only there.
async fn shake(
    client: &Svid,
    server: &Svid,
    expected: &SpiffeId,
) -> (Ended<client::TlsStream<DuplexStream>>, Ended<server::TlsStream<DuplexStream>>) {
    let (near, far) = duplex(PIPE_BYTES);
    tokio::join!(connect(client, expected, near), accept(server, far))
}

#[tokio::test]
async fn both_ends_learn_who_the_other_is_and_bytes_pass() {
    let authority = TestAuthority::new("cluster.local");
    let (web, api) = (authority.svid("web"), authority.svid("api"));
    let (near, far) = shake(&web, &api, api.id()).await;
    let ((mut near, server), (mut far, client)) = (near.unwrap(), far.unwrap());
    assert_eq!(server.id(), api.id());
    assert_eq!(client.id(), web.id());
    let session = near.get_ref().1;
    assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(session.alpn_protocol(), Some(ALPN));
    let group = session.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);

    near.write_all(b"ping").await.unwrap();
    near.flush().await.unwrap();
    let mut read = [0; 4];
    far.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"ping");
}

#[tokio::test]
async fn sessions_are_never_resumed() {
    let authority = TestAuthority::new("cluster.local");
    let (web, api) = (authority.svid("web"), authority.svid("api"));
    for _ in 0..2 {
        let (near, far) = shake(&web, &api, api.id()).await;
        let kind = near.unwrap().0.get_ref().1.handshake_kind();
        assert_eq!(kind, Some(rustls::HandshakeKind::Full));
        far.unwrap();
    }
}

#[tokio::test]
async fn client_refuses_another_identity_than_the_expected() {
    let authority = TestAuthority::new("cluster.local");
    let (web, api) = (authority.svid("web"), authority.svid("api"));
    let (near, far) = shake(&web, &api, &authority.id("db")).await;
    let error = near.unwrap_err();
    assert_eq!(error.reason(), Reason::UnexpectedIdentity);
    let text = source(&error);
    let names = "expected spiffe://cluster.local/ns/default/sa/db, peer has \
                 spiffe://cluster.local/ns/default/sa/api;";
    assert!(text.starts_with("no matching SAN") && text.contains(names), "{text}");
    let heard = far.unwrap_err();
    assert!(heard.to_string().contains("AccessDenied: it expected another identity"), "{heard}");
}

#[tokio::test]
async fn peers_of_another_domain_or_root_are_refused_by_both_ends() {
    let ours = TestAuthority::new("cluster.local");
    for (domain, reason) in
        [("other.local", Reason::WrongTrustDomain), ("cluster.local", Reason::UnknownIssuer)]
    {
        let theirs = TestAuthority::new(domain);
        let (web, api) = (theirs.svid("web"), ours.svid("api"));
        let (near, _) = shake(&api, &web, web.id()).await;
        assert_eq!(near.unwrap_err().reason(), reason);
        // The foreign client believes everybody, so that only our server's check can stop it.
        theirs.believe(ours.believed());
        let (_, far) = shake(&web, &api, api.id()).await;
        assert_eq!(far.unwrap_err().reason(), reason);
    }
}

/// A good certificate but for one thing, and what becomes of it: our reason, the alert that the
/// peer reads, and what our text says.
fn faulty(authority: &TestAuthority) -> [(Svid, Reason, AlertDescription, &'static str); 8] {
    let hour = time::Duration::hours(1);
    let but = |change: &dyn Fn(&mut rcgen::CertificateParams)| {
        authority.svid_but("web", |leaf| change(leaf))
    };
    let mut large = vec![];
    for number in 0..600 {
        let name = format!("host-{number}.of-a-name-that-is-rather-long-for-a-host.example");
        large.push(SanType::DnsName(name.try_into().unwrap()));
    }
    [
        (
            but(&|leaf| leaf.not_after = leaf.not_before + hour / 30),
            Reason::CertificateExpired,
            AlertDescription::CertificateExpired,
            "/sa/web expired 3 min ago, at ",
        ),
        (
            but(&|leaf| leaf.not_before += hour / 2),
            Reason::CertificateNotYetValid,
            AlertDescription::CertificateExpired,
            "/sa/web is valid only in 2",
        ),
        (
            but(&|leaf| leaf.subject_alt_names.clear()),
            Reason::BadSan,
            AlertDescription::BadCertificate,
            "no matching SAN: certificate has no SPIFFE ID",
        ),
        (
            but(&|leaf| {
                let second = SanType::URI("spiffe://cluster.local/ns/a/sa/b".try_into().unwrap());
                leaf.subject_alt_names.push(second);
            }),
            Reason::BadSan,
            AlertDescription::BadCertificate,
            "has 2 URI SANs",
        ),
        (
            but(&|leaf| leaf.extended_key_usages.clear()),
            Reason::BadCertificate,
            AlertDescription::UnsupportedCertificate,
            "lacks extended key usage",
        ),
        (
            but(&|leaf| leaf.key_usages.clear()),
            Reason::BadCertificate,
            AlertDescription::UnsupportedCertificate,
            "has no key usage",
        ),
        (
            but(&|leaf| leaf.key_usages.push(rcgen::KeyUsagePurpose::CrlSign)),
            Reason::BadCertificate,
            AlertDescription::UnsupportedCertificate,
            "may sign revocation lists",
        ),
        (
            but(&move |leaf| leaf.subject_alt_names.extend(large.clone())),
            Reason::BadCertificate,
            AlertDescription::BadCertificate,
            "at most 6 of 32768 are read",
        ),
    ]
}

/// The text of an error's source: the verifier's.
fn source(error: &HandshakeError) -> String {
    std::error::Error::source(error).unwrap().to_string()
}

#[tokio::test]
async fn server_refuses_faulty_certificates_and_both_ends_say_why() {
    let authority = TestAuthority::new("cluster.local");
    let api = authority.svid("api");
    for (web, reason, alert, text) in faulty(&authority) {
        let (near, far) = shake(&web, &api, api.id()).await;
        let error = far.unwrap_err();
        assert_eq!(error.reason(), reason, "{error:?}");
        assert!(source(&error).contains(text), "{}", source(&error));
        // The client is done before the server has looked; it hears of it when it reads.
        let late = near.unwrap().0.read_u8().await.unwrap_err();
        let heard = classify(web.id(), late, None);
        assert!(matches!(heard, HandshakeError::Refused { alert: a, .. } if a == alert), "{heard}");
    }
}

#[tokio::test]
async fn client_refuses_faulty_certificates_and_both_ends_say_why() {
    let authority = TestAuthority::new("cluster.local");
    let api = authority.svid("api");
    for (web, reason, alert, text) in faulty(&authority) {
        let (near, far) = shake(&api, &web, web.id()).await;
        let error = near.unwrap_err();
        assert_eq!(error.reason(), reason, "{error:?}");
        assert!(source(&error).contains(text), "{}", source(&error));
        let heard = far.unwrap_err();
        assert!(matches!(heard, HandshakeError::Refused { alert: a, .. } if a == alert), "{heard}");
    }
}

#[tokio::test]
async fn expired_certificate_is_told_with_both_clocks_in_mind() {
    let authority = TestAuthority::new("cluster.local");
    let [(web, ..), ..] = faulty(&authority);
    let api = authority.svid("api");
    let (near, far) = shake(&api, &web, web.id()).await;
    let text = source(&near.unwrap_err());
    assert!(text.contains("this node's clock says 20"), "{text}");
    let heard = far.unwrap_err().to_string();
    assert!(heard.contains("over or not valid yet by the peer's clock"), "{heard}");
}

#[tokio::test]
async fn root_added_or_removed_counts_from_the_next_handshake() {
    let (old, new) = (TestAuthority::new("cluster.local"), TestAuthority::new("cluster.local"));
    let (web, api) = (new.svid("web"), old.svid("api"));
    let believed = old.believed();
    new.believe(believed.clone());
    let (_, far) = shake(&web, &api, api.id()).await;
    assert_eq!(far.unwrap_err().reason(), Reason::UnknownIssuer);

    let mut both = believed.certificates().to_vec();
    both.push(new.root_certificate());
    let both =
        culvert_spiffe::TrustBundle::from_certificates(believed.trust_domain().clone(), both)
            .unwrap();
    old.believe(both);
    let (_, far) = shake(&web, &api, api.id()).await;
    far.unwrap();

    old.believe(believed);
    let (_, far) = shake(&web, &api, api.id()).await;
    assert_eq!(far.unwrap_err().reason(), Reason::UnknownIssuer);
}

#[tokio::test]
async fn client_without_certificate_is_refused() {
    let authority = TestAuthority::new("cluster.local");
    let api = authority.svid("api");
    let provider = Arc::new(tls::provider());
    let verifier =
        OutboundVerifier::new(authority.roots.clone(), provider.clone(), api.id().clone());
    let config = tls::client_config(&provider, None, Arc::new(verifier)).unwrap();
    let (near, far) = duplex(PIPE_BYTES);
    let client = TlsConnector::from(Arc::new(config)).connect(no_name(), near);
    let (refused, client) = tokio::join!(accept(&api, far), client);
    assert_eq!(refused.unwrap_err().reason(), Reason::NoCertificate);
    let heard = classify(api.id(), client.unwrap().read_u8().await.unwrap_err(), None);
    assert!(heard.to_string().contains("CertificateRequired: it wants a certificate"), "{heard}");
}

#[tokio::test]
async fn other_alpn_than_http_2_is_refused() {
    let authority = TestAuthority::new("cluster.local");
    let (web, api) = (authority.svid("web"), authority.svid("api"));
    let (config, _) = web.client_for(api.id());
    for offered in [vec![], vec![b"http/1.1".to_vec()]] {
        let mut config = ClientConfig::clone(&config);
        config.alpn_protocols = offered;
        let error = accept_from(&api, config).await.unwrap_err();
        assert!(matches!(error, HandshakeError::NotHttp2 { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn garbage_and_early_end_are_told_apart() {
    let authority = TestAuthority::new("cluster.local");
    let api = authority.svid("api");
    let (mut near, far) = duplex(PIPE_BYTES);
    near.write_all(b"GET / HTTP/1.1\r\nhost: api\r\n\r\n").await.unwrap();
    let error = accept(&api, far).await.unwrap_err();
    assert!(matches!(error, HandshakeError::Protocol { .. }), "{error:?}");

    let (near, far) = duplex(PIPE_BYTES);
    drop(near);
    let error = accept(&api, far).await.unwrap_err();
    assert!(matches!(error, HandshakeError::Io { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn silent_peer_is_given_up_after_the_deadline() {
    let authority = TestAuthority::new("cluster.local");
    let (web, api) = (authority.svid("web"), authority.svid("api"));
    let (_near, far) = duplex(PIPE_BYTES);
    let began = tokio::time::Instant::now();
    assert_eq!(accept(&api, far).await.unwrap_err().reason(), Reason::HandshakeTimeout);
    let (near, _far) = duplex(PIPE_BYTES);
    let error = connect(&web, api.id(), near).await.unwrap_err();
    assert_eq!(error.reason(), Reason::HandshakeTimeout);
    assert_eq!(began.elapsed(), HANDSHAKE_DEADLINE * 2);
}

/// What the server says to a client that is not ours.
async fn accept_from(
    server: &Svid,
    config: ClientConfig,
) -> Result<(server::TlsStream<DuplexStream>, VerifiedPeer), HandshakeError> {
    let (near, far) = duplex(PIPE_BYTES);
    let client = TlsConnector::from(Arc::new(config)).connect(no_name(), near);
    tokio::join!(accept(server, far), client).0
}
