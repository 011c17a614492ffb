use super::super::Phase;
use super::super::testing::FakeApiServer;
use super::*;

fn id(namespace: &str, account: &str) -> SpiffeId {
    SpiffeId::new(&"td".parse().unwrap(), namespace, account).unwrap()
}

/// Agents on both nodes, `web` on node 1, `db` on node 2.
fn cluster() -> (FakeApiServer, NodePods<FakeApiServer>) {
    let server = FakeApiServer::default();
    server.pod("culvert-system", "agent-1", "culvert-agent", "node1");
    server.pod("culvert-system", "agent-2", "culvert-agent", "node2");
    server.pod("default", "a1", "web", "node1");
    server.pod("default", "b1", "db", "node2");
    let permissions = Permissions {
        agents: vec![id("culvert-system", "culvert-agent")],
        never: vec![id("kube-system", "admin")],
        enrolled_only: true,
    };
    (server.clone(), NodePods::new(server, "td".parse().unwrap(), permissions))
}

fn caller(server: &FakeApiServer, name: &str) -> Caller {
    let state = server.state();
    let pod = state.pods.iter().find(|pod| pod.name == name).unwrap();
    Caller::Pod(PodCaller {
        identity: id(&pod.namespace, &pod.account),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        node: pod.node.clone(),
    })
}

#[tokio::test(start_paused = true)]
async fn agent_may_speak_for_the_pods_of_its_node() {
    let (server, pods) = cluster();
    let (first, second) = (caller(&server, "agent-1"), caller(&server, "agent-2"));
    assert_eq!(pods.beside(&first, &id("default", "web")).await, Ok(()));
    assert_eq!(pods.beside(&second, &id("default", "db")).await, Ok(()));
    assert_eq!(pods.beside(&first, &id("default", "db")).await, Err(Rule::NotOnNode));
    assert_eq!(pods.beside(&second, &id("default", "web")).await, Err(Rule::NotOnNode));
    let web = caller(&server, "a1");
    assert_eq!(pods.beside(&web, &id("default", "web")).await, Err(Rule::NotOwnIdentity));
    let node = Caller::Node { node: "node1".into() };
    assert_eq!(pods.beside(&node, &id("default", "web")).await, Err(Rule::NotOwnIdentity));
}

#[tokio::test(start_paused = true)]
async fn finished_unenrolled_and_forbidden_pods_are_nobody_to_speak_for() {
    let (server, pods) = cluster();
    let agent = caller(&server, "agent-1");
    let web = id("default", "web");
    for (phase, expected) in [
        (Phase::Pending, Ok(())),
        (Phase::Succeeded, Err(Rule::NotOnNode)),
        (Phase::Failed, Err(Rule::NotOnNode)),
        (Phase::Unknown, Err(Rule::NotOnNode)),
        (Phase::Running, Ok(())),
    ] {
        server.change("a1", |pod| pod.phase = phase);
        tokio::time::advance(LIST_FOR).await;
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(pods.beside(&agent, &web).await, expected, "{phase:?}");
    }
    server.change("a1", |pod| pod.enrolled = false);
    tokio::time::advance(LIST_FOR * 2).await;
    assert_eq!(pods.beside(&agent, &web).await, Err(Rule::NotEnrolled));
    assert_eq!(pods.anywhere(&web).await, Err(Rule::NotPlaced));
    server.pod("kube-system", "admin", "admin", "node1");
    let admin = id("kube-system", "admin");
    assert_eq!(pods.beside(&agent, &admin).await, Err(Rule::NeverIssued));
    assert_eq!(pods.anywhere(&admin).await, Err(Rule::NeverIssued));
}

#[tokio::test(start_paused = true)]
async fn caller_whose_pod_ended_or_was_made_again_is_nobody() {
    let (server, pods) = cluster();
    let agent = caller(&server, "agent-1");
    let web = id("default", "web");
    server.change("agent-1", |pod| pod.phase = Phase::Failed);
    assert_eq!(pods.beside(&agent, &web).await, Err(Rule::CallerPodFinished));
    server.delete("agent-1");
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(pods.beside(&agent, &web).await, Err(Rule::CallerPodGone));
    server.pod("culvert-system", "agent-1", "culvert-agent", "node1");
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(pods.beside(&agent, &web).await, Err(Rule::CallerPodGone), "another UID");
    assert_eq!(pods.beside(&caller(&server, "agent-1"), &web).await, Ok(()));
    // A token that names another node than the pod runs on.
    let Caller::Pod(mut moved) = caller(&server, "agent-1") else { unreachable!() };
    moved.node = Some("node2".into());
    let db = id("default", "db");
    assert_eq!(pods.beside(&Caller::Pod(moved), &db).await, Err(Rule::CallerPodGone));
}

#[tokio::test(start_paused = true)]
async fn pod_that_is_milliseconds_old_is_found_and_nonsense_does_not_flood() {
    let (server, pods) = cluster();
    let agent = caller(&server, "agent-1");
    assert_eq!(pods.beside(&agent, &id("default", "web")).await, Ok(()));
    server.pod("default", "a2", "new", "node1");
    tokio::time::advance(Duration::from_millis(10)).await;
    assert_eq!(pods.beside(&agent, &id("default", "new")).await, Ok(()));
    assert_eq!(server.state().asked.1, 2);

    // What is known is not asked about, and a hundred misses at once share one question.
    assert_eq!(pods.beside(&agent, &id("default", "web")).await, Ok(()));
    assert_eq!(server.state().asked.1, 2);
    tokio::time::advance(Duration::from_millis(1)).await;
    let nobody = id("default", "nobody");
    let misses = (0..100).map(|_| pods.beside(&agent, &nobody));
    let answers = futures_util::future::join_all(misses).await;
    assert!(answers.iter().all(|answer| *answer == Err(Rule::NotOnNode)));
    assert_eq!(server.state().asked.1, 3);
    let began = Instant::now();
    for _ in 0..20 {
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(pods.beside(&agent, &nobody).await, Err(Rule::NotOnNode));
    }
    assert!(began.elapsed() >= LIST_EVERY * 19, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn node_is_looked_up_where_the_token_does_not_say_it() {
    let (server, pods) = cluster();
    let Caller::Pod(mut agent) = caller(&server, "agent-1") else { unreachable!() };
    agent.node = None;
    let agent = Caller::Pod(agent);
    assert_eq!(pods.beside(&agent, &id("default", "web")).await, Ok(()));
    assert_eq!(pods.beside(&agent, &id("default", "db")).await, Err(Rule::NotOnNode));
    let Caller::Pod(mut gone) = agent else { unreachable!() };
    gone.uid = "uid-99".into();
    let web = id("default", "web");
    assert_eq!(pods.beside(&Caller::Pod(gone), &web).await, Err(Rule::CallerPodGone));
}

#[tokio::test(start_paused = true)]
async fn failing_or_silent_api_server_refuses_for_now() {
    let (server, pods) = cluster();
    let agent = caller(&server, "agent-1");
    server.state().fails = true;
    assert_eq!(pods.beside(&agent, &id("default", "web")).await, Err(Rule::ApiServer));
    assert_eq!(pods.anywhere(&id("default", "web")).await, Err(Rule::ApiServer));
    server.state().fails = false;
    server.state().hangs = true;
    assert_eq!(pods.beside(&agent, &id("default", "web")).await, Err(Rule::ApiServer));
    server.state().hangs = false;
    assert_eq!(pods.beside(&agent, &id("default", "web")).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn memory_does_not_grow_with_the_cluster() {
    let (server, pods) = cluster();
    for node in 0..MOST_NODES * 3 {
        let (name, node) = (format!("agent-of-{node}"), format!("n{node}"));
        server.pod("culvert-system", &name, "culvert-agent", &node);
        let agent = caller(&server, &name);
        let own = id("culvert-system", "culvert-agent");
        assert_eq!(pods.beside(&agent, &own).await, Ok(()), "of one's own account is fine");
    }
    assert!(pods.nodes.lock().unwrap().len() <= MOST_NODES);
}

#[tokio::test(start_paused = true)]
async fn agent_alone_speaks_for_its_node_also_where_tokens_name_none() {
    let (server, pods) = cluster();
    assert_eq!(pods.node_of(&caller(&server, "agent-2")).await.as_deref(), Some("node2"));
    assert_eq!(pods.node_of(&caller(&server, "a1")).await, None, "it is on the node, no more");
    let Caller::Pod(agent) = caller(&server, "agent-1") else { panic!("a pod") };
    let old = Caller::Pod(PodCaller { node: None, ..agent });
    assert_eq!(pods.node_of(&old).await.as_deref(), Some("node1"));
    assert_eq!(pods.node_of(&Caller::Node { node: "node1".into() }).await, None);
}
