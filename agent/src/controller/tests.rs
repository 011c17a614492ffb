//! The controller against an API server in memory.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::condition::{TYPE, Verdict, conditions};
use super::*;
use crate::workload::documents::{Code, Effect, Findings, Path};

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// An API server that has authorization policies and, when `installed`, says so.
#[derive(Clone)]
struct Fake {
    state: Arc<Mutex<State>>,
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    installed: bool,
    objects: Vec<Value>,
    events: Vec<(u64, Value)>,
    patches: usize,
    // What the next writes are answered with instead.
    faults: Vec<u16>,
}

impl Fake {
    fn new(installed: bool) -> Self {
        let state = State { installed, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), version: watch::Sender::new(1) }
    }

    fn client(&self) -> Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let fake = fake.clone();
            async move { Ok::<_, Infallible>(fake.answer(request).await) }
        });
        Client::new(service, "default")
    }

    fn apply(&self, name: &str, spec: &Value) {
        let mut state = self.state.lock().unwrap();
        let old = state.objects.iter().find(|o| o["metadata"]["name"] == name);
        let status = old.map(|old| old["status"].clone()).unwrap_or_default();
        let generation =
            old.and_then(|old| old["metadata"]["generation"].as_i64()).unwrap_or(0) + 1;
        let object = json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": name, "namespace": "default", "generation": generation},
            "spec": spec, "status": status,
        });
        self.put(&mut state, object);
    }

    fn put(&self, state: &mut State, mut object: Value) -> Value {
        let version = *self.version.borrow() + 1;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        state.objects.retain(|old| old["metadata"]["name"] != object["metadata"]["name"]);
        state.objects.push(object.clone());
        state.events.push((version, json!({"type": "MODIFIED", "object": object})));
        self.version.send_replace(version);
        object
    }

    /// Our condition of that policy.
    fn condition(&self, name: &str) -> Option<Value> {
        let state = self.state.lock().unwrap();
        let object = state.objects.iter().find(|o| o["metadata"]["name"] == name)?;
        let conditions = object["status"]["conditions"].as_array()?;
        conditions.iter().find(|condition| condition["type"] == TYPE).cloned()
    }

    async fn until(&self, name: &str, status: &str, reason: &str) -> Value {
        let mut versions = self.version.subscribe();
        let condition =
            || self.condition(name).filter(|c| c["status"] == status && c["reason"] == reason);
        let there = versions.wait_for(|_| condition().is_some());
        let there = tokio::time::timeout(Duration::from_hours(1), there).await;
        there.unwrap_or_else(|_| panic!("{:?}", self.condition(name))).unwrap();
        condition().unwrap()
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        let query = parts.uri.query().unwrap_or_default();
        let mut state = self.state.lock().unwrap();
        if !state.installed {
            return failure(404);
        }
        let place = parts.uri.path().trim_start_matches("/apis/security.istio.io/v1");
        match (&parts.method, place) {
            // It serves one version only.
            (&Method::GET, "beta1") => failure(404),
            (&Method::GET, "") => ok(&json!({
                "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "security.istio.io/v1",
                "resources": [{"name": "authorizationpolicies", "singularName": "", "namespaced": true,
                    "kind": "AuthorizationPolicy", "verbs": []}],
            })),
            (&Method::GET, "/authorizationpolicies") if query.contains("watch=true") => {
                let from = query.split('&').find_map(|each| each.strip_prefix("resourceVersion="));
                self.watch(from.unwrap().parse().unwrap())
            }
            (&Method::GET, "/authorizationpolicies") => ok(&json!({
                "kind": "List", "apiVersion": "v1",
                "metadata": {"resourceVersion": self.version.borrow().to_string()},
                "items": state.objects,
            })),
            (&Method::PATCH, place) => {
                let name =
                    place.strip_prefix("/namespaces/default/authorizationpolicies/").unwrap();
                let name = name.strip_suffix("/status").expect("nothing else may be written");
                state.patches += 1;
                if let Some(fault) = state.faults.pop() {
                    return failure(fault);
                }
                let patch: Value = serde_json::from_slice(&body).unwrap();
                let old = state.objects.iter().find(|o| o["metadata"]["name"] == name);
                let Some(mut object) = old.cloned() else { return failure(404) };
                if patch["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
                    return failure(409);
                }
                object["status"]["conditions"] = patch["status"]["conditions"].clone();
                ok(&self.put(&mut state, object))
            }
            other => panic!("{other:?}"),
        }
    }

    fn watch(&self, from: u64) -> Answer {
        let fake = self.clone();
        let frames = stream::unfold((fake, from), |(fake, from)| async move {
            let mut versions = fake.version.subscribe();
            versions.wait_for(|version| *version > from).await.ok()?;
            let state = fake.state.lock().unwrap();
            let new = state.events.iter().filter(|(version, _)| *version > from);
            let lines: Vec<_> = new.map(|(_, event)| event.to_string() + "\n").collect();
            let last = state.events.last().map_or(from, |(version, _)| *version);
            drop(state);
            Some((Ok(Frame::data(lines.concat().into())), (fake, last)))
        });
        Response::new(BodyExt::boxed_unsync(StreamBody::new(frames)))
    }
}

fn ok(value: &Value) -> Answer {
    Response::new(Full::from(value.to_string()).boxed_unsync())
}

fn failure(code: u16) -> Answer {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": "", "message": "it is a test"});
    Response::builder().status(code).body(Full::from(status.to_string()).boxed_unsync()).unwrap()
}

/// A controller that follows while `leads` says so.
fn start(fake: &Fake, leads: bool) -> (watch::Sender<bool>, Metrics, JoinSet<()>) {
    let metrics = Metrics::new().unwrap();
    let follower = Follower::new(fake.client(), "istio-system".into(), &metrics).unwrap();
    let leads = watch::Sender::new(leads);
    let (receiver, gauge) = (leads.subscribe(), metrics.gauge("culvert_x", "x").unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { while_leading(receiver, &follower, &gauge).await });
    (leads, metrics, tasks)
}

fn deny(operation: &Value) -> Value {
    json!({"action": "DENY", "rules": [{"to": [{"operation": operation}]}]})
}

#[tokio::test(start_paused = true)]
async fn each_policy_is_told_what_is_made_of_it_once() {
    let fake = Fake::new(true);
    fake.apply("good", &json!({"rules": [{}]}));
    fake.apply("http", &deny(&json!({"methods": ["GET"]})));
    let (_leads, metrics, _tasks) = start(&fake, true);
    let good = fake.until("good", "True", "Accepted").await;
    assert_eq!(good["observedGeneration"], "1");
    let http = fake.until("http", "False", "HttpNeverDenies").await;
    let message = http["message"].as_str().unwrap();
    assert!(message.starts_with("`spec.rules[0].to[0].operation`: `methods`"), "{message}");
    // Our own writes come back by the watch and must not be answered by others.
    fake.apply("http", &deny(&json!({"ports": ["80"]})));
    let mended = fake.until("http", "True", "Accepted").await;
    assert_eq!(mended["observedGeneration"], "2");
    fake.apply("last", &json!({}));
    fake.until("last", "True", "Accepted").await;
    assert_eq!(fake.state.lock().unwrap().patches, 4);
    let text = metrics.encode().unwrap();
    let wanted = "culvert_controller_status_writes_total{kind=\"AuthorizationPolicy\",\
                  result=\"written\"} 4";
    assert!(text.contains(wanted), "{text}");
}

#[tokio::test(start_paused = true)]
async fn conditions_of_others_stay_and_conflicts_are_overcome() {
    let fake = Fake::new(true);
    fake.apply("p", &json!({"rules": [{}]}));
    {
        let mut state = fake.state.lock().unwrap();
        let mut object = state.objects[0].clone();
        object["status"] = json!({"conditions": [{"type": "ZtunnelAccepted", "status": "True"}]});
        fake.put(&mut state, object);
        state.faults = vec![500, 403];
    }
    let (_leads, _metrics, _tasks) = start(&fake, true);
    fake.until("p", "True", "Accepted").await;
    let state = fake.state.lock().unwrap();
    assert_eq!(state.objects[0]["status"]["conditions"][0]["type"], "ZtunnelAccepted");
    assert_eq!(state.patches, 3, "two failed");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_gets_the_kinds_later_is_served_then() {
    let fake = Fake::new(false);
    let (_leads, _metrics, _tasks) = start(&fake, true);
    tokio::time::sleep(Duration::from_mins(1)).await;
    fake.state.lock().unwrap().installed = true;
    fake.apply("p", &json!({"action": "AUDIT"}));
    fake.until("p", "False", "UnsupportedAction").await;
}

#[tokio::test(start_paused = true)]
async fn only_a_leader_writes_and_a_new_one_finds_what_is_missing() {
    let fake = Fake::new(true);
    let (leads, _metrics, _tasks) = start(&fake, false);
    fake.apply("p", &json!({"rules": [{}]}));
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(fake.condition("p"), None);
    leads.send_replace(true);
    fake.until("p", "True", "Accepted").await;
    leads.send_replace(false);
    tokio::time::sleep(Duration::from_mins(1)).await;
    fake.apply("p", &json!({"action": "CUSTOM"}));
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(fake.condition("p").unwrap()["reason"], "Accepted");
    leads.send_replace(true);
    fake.until("p", "False", "UnsupportedAction").await;
}

#[test]
fn a_condition_keeps_its_time_while_its_status_stays() {
    let verdict = |effect| {
        let mut findings = Findings::default();
        findings.push(effect, Code::DryRun, Path::new("a"), format!("{effect:?}"));
        Verdict::of(&findings)
    };
    let write = |status: &Value, effect, now| conditions(status, &verdict(effect), Some(1), now);
    let first = write(&Value::Null, Effect::Refused, "then").unwrap();
    let status = json!({"conditions": first});
    assert_eq!(write(&status, Effect::Refused, "now"), None);
    let other = write(&status, Effect::NotEnforced, "now").unwrap();
    assert_eq!(
        (&other[0]["lastTransitionTime"], &other[0]["status"]),
        (&json!("then"), &json!("False"))
    );
    let better = write(&status, Effect::Stricter, "now").unwrap();
    assert_eq!(
        (&better[0]["lastTransitionTime"], &better[0]["status"]),
        (&json!("now"), &json!("True"))
    );
    let newer = conditions(&status, &verdict(Effect::Refused), Some(2), "now");
    assert_eq!(newer.unwrap()[0]["observedGeneration"], "2");
    // A cluster whose definition of the kind drops the field must not be written to for ever.
    let mut dropped = status.clone();
    dropped["conditions"][0].as_object_mut().unwrap().remove("observedGeneration");
    assert_eq!(write(&dropped, Effect::Refused, "now"), None);
    for odd in [
        json!("x"),
        json!({"conditions": 1}),
        json!({"conditions": [1, {"type": TYPE}, {"type": TYPE}]}),
    ] {
        let written = write(&odd, Effect::Refused, "now").unwrap();
        assert_eq!(written.iter().filter(|each| each["type"] == TYPE).count(), 1);
    }
}
