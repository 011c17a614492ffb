use std::time::Duration;

use super::super::testing::{AUDIENCE, FakeApiServer};
use super::*;

fn cluster() -> (FakeApiServer, ServiceAccountTokens<FakeApiServer>) {
    let server = FakeApiServer::default();
    server.pod("default", "a1", "web", "node1");
    let audiences = vec!["other".to_owned(), AUDIENCE.to_owned()];
    let tokens = ServiceAccountTokens::new(server.clone(), "td".parse().unwrap(), audiences);
    (server, tokens)
}

async fn ask(
    tokens: &ServiceAccountTokens<FakeApiServer>,
    token: &str,
) -> Result<PodCaller, AuthenticationError> {
    match tokens.authenticate(token, OffsetDateTime::now_utc()).await? {
        Caller::Pod(pod) => Ok(pod),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn pod_is_told_by_its_token_and_asked_about_once_a_minute() {
    let (server, tokens) = cluster();
    let token = server.token("a1");
    let pod = ask(&tokens, &token).await.unwrap();
    assert_eq!(pod.identity.as_str(), "spiffe://td/ns/default/sa/web");
    assert_eq!((pod.name.as_str(), pod.uid.as_str()), ("a1", "uid-1"));
    assert_eq!(pod.node.as_deref(), Some("node1"));
    server.delete("a1");
    tokio::time::advance(Duration::from_secs(59)).await;
    assert_eq!(ask(&tokens, &token).await, Ok(pod));
    assert_eq!(server.state().asked.0, 1);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(ask(&tokens, &token).await, Err(AuthenticationError::Unknown));
}

#[tokio::test(start_paused = true)]
async fn bad_answer_is_believed_for_ten_seconds() {
    let (server, tokens) = cluster();
    let token = server.token("a1");
    let pods = std::mem::take(&mut server.state().pods);
    for _ in 0..5 {
        assert_eq!(ask(&tokens, &token).await, Err(AuthenticationError::Unknown));
    }
    assert_eq!(server.state().asked.0, 1);
    server.state().pods = pods;
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(ask(&tokens, &token).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn good_answer_ends_with_its_token() {
    let (server, tokens) = cluster();
    let now = OffsetDateTime::now_utc();
    let token = server.token_for("a1", AUDIENCE, now.unix_timestamp() + 5);
    assert!(tokens.authenticate(&token, now).await.is_ok());
    let over = tokens.authenticate(&token, now + Duration::from_secs(5)).await;
    assert_eq!(over, Err(AuthenticationError::Expired));
    // Nor is it kept past its end, whatever the wall clock says.
    tokio::time::advance(Duration::from_secs(6)).await;
    let _ = tokens.authenticate(&token, now).await;
    assert_eq!(server.state().asked.0, 2);
}

#[tokio::test(start_paused = true)]
async fn what_can_be_seen_without_asking_is_not_asked() {
    let (server, tokens) = cluster();
    let now = OffsetDateTime::now_utc().unix_timestamp();
    for (token, error) in [
        (server.token_for("a1", AUDIENCE, now - 1), AuthenticationError::Expired),
        (server.token_for("a1", "api", now + 60), AuthenticationError::Audience),
        ("x".repeat(MAX_TOKEN_BYTES + 1), AuthenticationError::Malformed),
        ("a.b.c".to_owned(), AuthenticationError::Malformed),
        (String::new(), AuthenticationError::Malformed),
    ] {
        assert_eq!(ask(&tokens, &token).await, Err(error), "{token}");
    }
    assert_eq!(server.state().asked.0, 0);
}

#[tokio::test(start_paused = true)]
async fn no_audience_in_the_answer_proves_nothing() {
    let (server, tokens) = cluster();
    server.state().ignores_audiences = true;
    let error = ask(&tokens, &server.token("a1")).await;
    assert_eq!(error, Err(AuthenticationError::Audience));
}

#[tokio::test(start_paused = true)]
async fn only_service_accounts_bound_to_a_pod_are_callers() {
    let (server, tokens) = cluster();
    let nobody = AuthenticationError::NotServiceAccount;
    for (token, error) in [
        (server.user_token("admin"), nobody),
        // The right form is not enough: the group must say so too.
        (server.user_token("system:serviceaccount:default:web"), nobody),
        (server.unbound_token("system:node:node1"), nobody),
        (server.unbound_token("system:serviceaccount:default"), nobody),
        (server.unbound_token("system:serviceaccount:default:web:x"), nobody),
        (server.unbound_token("system:serviceaccount:../x:web"), nobody),
        (
            server.unbound_token("system:serviceaccount:default:web"),
            AuthenticationError::NotBoundToPod,
        ),
    ] {
        assert_eq!(ask(&tokens, &token).await, Err(error));
    }
    assert_eq!(one(&BTreeMap::from([("k".into(), vec!["a".into(), "b".into()])]), "k"), None);
}

#[tokio::test(start_paused = true)]
async fn failing_api_server_is_neither_yes_nor_no_and_soon_asked_again() {
    let (server, tokens) = cluster();
    let token = server.token("a1");
    server.state().fails = true;
    assert_eq!(ask(&tokens, &token).await, Err(AuthenticationError::Unavailable));
    server.state().fails = false;
    tokio::time::advance(FAILED_FOR).await;
    assert!(ask(&tokens, &token).await.is_ok());

    let other = server.token("a1");
    server.state().hangs = true;
    let began = Instant::now();
    assert_eq!(ask(&tokens, &other).await, Err(AuthenticationError::Unavailable));
    assert_eq!(began.elapsed(), REVIEW_DEADLINE);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_calls_with_one_token_ask_once_and_leave_nothing() {
    let (server, tokens) = cluster();
    let token = server.token("a1");
    let calls = (0..1000).map(|_| ask(&tokens, &token));
    let answers = futures_util::future::join_all(calls).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(server.state().asked.0, 1);
    assert!(tokens.under_way.lock().unwrap().is_empty());

    // Nor do those that were given up.
    server.state().hangs = true;
    let other = server.token("a1");
    let given_up = timeout(Duration::from_secs(1), ask(&tokens, &other)).await;
    assert!(given_up.is_err());
    assert!(tokens.under_way.lock().unwrap().is_empty());
}
