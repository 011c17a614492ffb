//! Real handshakes over an in-memory pipe.

use rcgen::{ExtendedKeyUsagePurpose, SanType};
use rustls::{ClientConfig, ProtocolVersion};
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;
use crate::identity::testing::TestAuthority;

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
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("/sa/db") && source.contains("/sa/api"), "{source}");
    assert!(matches!(far.unwrap_err(), HandshakeError::Refused { .. }));
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

#[tokio::test]
async fn server_refuses_faulty_client_certificates_each_with_its_reason() {
    let authority = TestAuthority::new("cluster.local");
    let api = authority.svid("api");
    let hour = time::Duration::hours(1);
    let faulty = [
        (
            authority.svid_but("web", |leaf| leaf.not_after = leaf.not_before + hour / 60),
            Reason::CertificateExpired,
        ),
        (
            authority.svid_but("web", |leaf| leaf.not_before += hour / 2),
            Reason::CertificateNotYetValid,
        ),
        (authority.svid_but("web", |leaf| leaf.subject_alt_names.clear()), Reason::BadSan),
        (
            authority.svid_but("web", |leaf| {
                let second = SanType::URI("spiffe://cluster.local/ns/a/sa/b".try_into().unwrap());
                leaf.subject_alt_names.push(second);
            }),
            Reason::BadSan,
        ),
        (
            authority.svid_but("web", |leaf| {
                leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }),
            Reason::UnknownIssuer,
        ),
        (authority.svid_but("web", |leaf| leaf.key_usages.clear()), Reason::UnknownIssuer),
    ];
    for (web, reason) in faulty {
        let (_, far) = shake(&web, &api, api.id()).await;
        let error = far.unwrap_err();
        assert_eq!(error.reason(), reason, "{error:?}");
    }
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
        tls::OutboundVerifier::new(authority.roots.clone(), provider.clone(), api.id().clone());
    let config = tls::client_config(&provider, None, Arc::new(verifier)).unwrap();
    let error = accept_from(&api, config).await.unwrap_err();
    assert_eq!(error.reason(), Reason::NoCertificate);
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
