//! [`Cluster`]: an API server in memory, behind a real client: objects with versions, lists by
//! pages, watches, token reviews, faults. It grants what the documentation says, and nothing else.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::stream;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Frame};
use hyper::{Method, Request, Response};
use jsonwebtoken::{EncodingKey, Header};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;

/// The namespace of the authority.
pub(crate) const SYSTEM: &str = "culvert-system";

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;
/// Resource, namespace, name.
type Key = (String, String, String);

/// An API server. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Cluster {
    state: Arc<Mutex<State>>,
    /// The last version; watches wait for it.
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, Value>,
    /// What happened, for watches: version, resource, type, object.
    events: Vec<(u64, String, &'static str, Value)>,
    /// Watches from before this version have to begin anew.
    forgotten: u64,
    /// Watches that began before are cut.
    cuts: u64,
    tokens: BTreeMap<String, Value>,
    fault: Option<Fault>,
    /// Faults for some requests, as `PATCH secrets`.
    faults: BTreeMap<String, Fault>,
    asked: Vec<String>,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Refused with this status.
    Status(u16),
    /// Never answered.
    Hang,
    /// Done, but the answer is lost.
    Lost,
}

/// A request, taken apart.
struct Asked {
    method: Method,
    resource: String,
    namespace: String,
    name: String,
    query: BTreeMap<String, String>,
}

impl Default for Cluster {
    fn default() -> Self {
        let cluster = Self { state: Arc::default(), version: watch::Sender::new(0) };
        for namespace in [SYSTEM, "kube-system"] {
            cluster.namespace(namespace, &[]);
        }
        cluster
    }
}

impl Cluster {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// A client of it.
    pub(crate) fn client(&self) -> Client {
        let cluster = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let cluster = cluster.clone();
            async move { cluster.answer(request).await }
        });
        Client::new(service, SYSTEM)
    }

    /// What happens to every request from now on.
    pub(crate) fn fail(&self, fault: Option<Fault>) {
        self.state().fault = fault;
    }

    /// The same, for requests such as `PATCH secrets`.
    pub(crate) fn fail_on(&self, what: &str, fault: Option<Fault>) {
        let mut state = self.state();
        match fault {
            Some(fault) => state.faults.insert(what.to_owned(), fault),
            None => state.faults.remove(what),
        };
    }

    /// Requests so far that begin so, as `GET secrets`.
    pub(crate) fn asked(&self, what: &str) -> usize {
        self.state().asked.iter().filter(|asked| asked.starts_with(what)).count()
    }

    /// Makes an object, or replaces it.
    pub(crate) fn put(&self, resource: &str, namespace: &str, mut object: Value) -> Value {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = namespace.into();
        }
        let key = (resource.to_owned(), namespace.to_owned(), name);
        self.write(&mut self.state(), key, object)
    }

    /// Takes one away, if it is there.
    pub(crate) fn delete(&self, resource: &str, namespace: &str, name: &str) {
        let mut state = self.state();
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        if let Some(mut gone) = state.objects.remove(&key) {
            let version = self.next(&mut gone);
            state.events.push((version, key.0, "DELETED", gone));
            drop(state);
            self.version.send_replace(version);
        }
    }

    /// The object as it is now.
    pub(crate) fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        self.state().objects.get(&key).cloned()
    }

    pub(crate) fn namespace(&self, name: &str, labels: &[(&str, &str)]) -> Value {
        let labels: BTreeMap<_, _> = labels.iter().copied().collect();
        let uid = format!("uid-of-{name}");
        let metadata = json!({ "name": name, "uid": uid, "labels": labels });
        self.put("namespaces", "", json!({ "metadata": metadata }))
    }

    /// Makes a running pod; `extra` is laid over it.
    pub(crate) fn pod(
        &self,
        namespace: &str,
        name: &str,
        account: &str,
        node: &str,
        extra: &Value,
    ) {
        let mut pod = json!({
            "metadata": { "name": name, "uid": format!("uid-of-{name}") },
            "spec": { "serviceAccountName": account, "nodeName": node, "containers": [] },
            "status": { "phase": "Running", "podIP": "10.0.0.1" },
        });
        merge(&mut pod, extra);
        self.put("pods", namespace, pod);
    }

    /// A token of a pod for the audience `culvert-ca`.
    pub(crate) fn token(
        &self,
        namespace: &str,
        account: &str,
        pod: &str,
        uid: &str,
        node: &str,
    ) -> String {
        self.token_for("culvert-ca", namespace, account, pod, uid, node)
    }

    pub(crate) fn token_for(
        &self,
        audience: &str,
        namespace: &str,
        account: &str,
        pod: &str,
        uid: &str,
        node: &str,
    ) -> String {
        let end = time::OffsetDateTime::now_utc().unix_timestamp() + 3600;
        let claims = json!({ "aud": ["culvert-ca"], "exp": end, "jti": [audience, uid, pod] });
        let key = EncodingKey::from_secret(b"of the API server");
        let token = jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap();
        let extra = json!({
            "authentication.kubernetes.io/pod-name": [pod],
            "authentication.kubernetes.io/pod-uid": [uid],
            "authentication.kubernetes.io/node-name": [node],
        });
        let status = json!({
            "authenticated": true,
            "audiences": [audience],
            "user": {
                "username": format!("system:serviceaccount:{namespace}:{account}"),
                "groups": ["system:serviceaccounts", "system:authenticated"],
                "extra": extra,
            },
        });
        self.state().tokens.insert(token.clone(), status);
        token
    }

    /// Ends all watches, as a restart of the API server does; with `forget`, they begin anew.
    pub(crate) fn cut(&self, forget: bool) {
        let mut state = self.state();
        state.cuts += 1;
        if forget {
            state.forgotten = *self.version.borrow();
        }
        drop(state);
        self.version.send_modify(|_| {});
    }

    /// The next version, put into `object`.
    fn next(&self, object: &mut Value) -> u64 {
        let version = *self.version.borrow() + 1;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        version
    }

    fn write(&self, state: &mut State, key: Key, mut object: Value) -> Value {
        let version = self.next(&mut object);
        let kind = if state.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        state.events.push((version, key.0.clone(), kind, object.clone()));
        state.objects.insert(key, object.clone());
        self.version.send_replace(version);
        object
    }

    async fn answer(&self, request: Request<Body>) -> Result<Answer, std::io::Error> {
        let (parts, body) = request.into_parts();
        let asked = Asked::of(&parts.method, &parts.uri);
        let body = body.collect_bytes().await.map_err(std::io::Error::other)?;
        tokio::task::yield_now().await;
        let fault = {
            let mut state = self.state();
            state.asked.push(asked.line());
            let what = format!("{} {}", asked.method, asked.resource);
            state.faults.get(&what).copied().or(state.fault)
        };
        match fault {
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Status(code)) => return Ok(refused(code, "it is a test")),
            Some(Fault::Lost) | None => {}
        }
        if !asked.is_granted() {
            return Ok(refused(403, &format!("not granted: {}", asked.line())));
        }
        let answer = if asked.watches() {
            self.watch(&asked)
        } else {
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            self.act(&asked, &body)
        };
        if fault == Some(Fault::Lost) {
            return Err(std::io::Error::other("connection reset"));
        }
        Ok(answer)
    }

    fn act(&self, asked: &Asked, body: &Value) -> Answer {
        let mut state = self.state();
        let key = (asked.resource.clone(), asked.namespace.clone(), asked.name.clone());
        match (asked.method.as_str(), asked.resource.as_str()) {
            ("POST", "tokenreviews") => {
                let token = body["spec"]["token"].as_str().unwrap_or_default();
                let mut status = state.tokens.get(token).cloned().unwrap_or_default();
                let wanted = body["spec"]["audiences"].as_array().unwrap();
                let audiences = status["audiences"].as_array().cloned().unwrap_or_default();
                if !audiences.iter().any(|audience| wanted.contains(audience)) {
                    status = json!({ "authenticated": false });
                }
                let mut review = body.clone();
                review["status"] = status;
                review["metadata"] = json!({});
                json_answer(201, &review)
            }
            ("POST", _) => {
                let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                let key = (key.0, key.1, name);
                if state.objects.contains_key(&key) {
                    return refused(409, "already exists");
                }
                let mut object = body.clone();
                object["metadata"]["namespace"] = asked.namespace.clone().into();
                json_answer(201, &self.write(&mut state, key, object))
            }
            ("GET", _) if asked.name.is_empty() => list(&state, asked, *self.version.borrow()),
            (method, _) => {
                let Some(found) = state.objects.get(&key).cloned() else {
                    return refused(404, "not found");
                };
                let known = body["metadata"]["resourceVersion"].as_str();
                let is = found["metadata"]["resourceVersion"].as_str();
                if method != "GET" && known.is_some() && known != is {
                    return refused(409, "the object has been modified");
                }
                let next = match method {
                    "GET" => return json_answer(200, &found),
                    "PUT" => {
                        let mut next = body.clone();
                        next["metadata"]["namespace"] = asked.namespace.clone().into();
                        next
                    }
                    "PATCH" => {
                        let mut next = found;
                        merge(&mut next, body);
                        next
                    }
                    other => panic!("{other}"),
                };
                json_answer(200, &self.write(&mut state, key, next))
            }
        }
    }

    fn watch(&self, asked: &Asked) -> Answer {
        let from: u64 = asked.query["resourceVersion"].parse().unwrap();
        let state = self.state();
        if from < state.forgotten {
            // As the API server says it: in the stream.
            let status = json!({ "kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old resource version" });
            let line = format!("{}\n", json!({ "type": "ERROR", "object": status }));
            return Response::new(Full::new(Bytes::from(line)).boxed_unsync());
        }
        let follow = (self.clone(), self.version.subscribe(), from, state.cuts, asked.matches());
        let resource = asked.resource.clone();
        let lines = stream::unfold((follow, resource), |(mut follow, resource)| async move {
            loop {
                let (cluster, version, from, cuts, matches) = &mut follow;
                version.mark_unchanged();
                let line = {
                    let state = cluster.state();
                    if state.cuts != *cuts {
                        return None;
                    }
                    let next = state.events.iter().find(|(at, of, _, object)| {
                        at > from && *of == resource && matches(object)
                    });
                    next.map(|(at, _, kind, object)| {
                        *from = *at;
                        format!("{}\n", json!({ "type": kind, "object": object }))
                    })
                };
                if let Some(line) = line {
                    return Some((Ok(Frame::data(Bytes::from(line))), (follow, resource)));
                }
                version.changed().await.ok()?;
            }
        });
        Response::new(StreamBody::new(lines).boxed_unsync())
    }
}

impl Asked {
    fn of(method: &Method, uri: &hyper::Uri) -> Self {
        let mut words: Vec<_> = uri.path().split('/').filter(|word| !word.is_empty()).collect();
        words.drain(..if words[0] == "api" { 2 } else { 3 });
        let namespace = if words[0] == "namespaces" && words.len() > 2 {
            words.drain(..2).nth(1).unwrap_or_default()
        } else {
            ""
        };
        let pairs = uri.query().unwrap_or_default().split('&').filter_map(|p| p.split_once('='));
        let decoded = |text: &str| text.replace("%3D", "=");
        Self {
            method: method.clone(),
            resource: words[0].to_owned(),
            namespace: namespace.to_owned(),
            name: words.get(1).copied().unwrap_or_default().to_owned(),
            query: pairs.map(|(key, value)| (key.to_owned(), decoded(value))).collect(),
        }
    }

    fn line(&self) -> String {
        let verb = if self.watches() { "WATCH" } else { self.method.as_str() };
        format!("{verb} {} {}/{}", self.resource, self.namespace, self.name)
    }

    fn watches(&self) -> bool {
        self.query.contains_key("watch")
    }

    fn selector(&self, field: &str) -> Option<&str> {
        self.query.get("fieldSelector")?.strip_prefix(field)?.strip_prefix('=')
    }

    /// The permissions of the module's documentation.
    fn is_granted(&self) -> bool {
        let follows = self.method == Method::GET && self.name.is_empty();
        let map = self.selector("metadata.name").unwrap_or(&self.name);
        let own = self.namespace == SYSTEM;
        let secrets = ["culvert-ca", "culvert-ca-heard", "culvert-ca-jwt-keys"];
        match (self.resource.as_str(), self.method.as_str()) {
            ("tokenreviews" | "configmaps", "POST") | ("pods", "GET") => true,
            ("namespaces", "GET") => follows,
            ("configmaps", "GET" | "PATCH") => map == "culvert-root-cert",
            ("secrets" | "leases", "POST") => own,
            ("secrets", "GET" | "PATCH") => own && secrets.contains(&self.name.as_str()),
            ("leases", "GET" | "PUT") => own && self.name == "culvert-ca",
            _ => false,
        }
    }

    fn matches(&self) -> impl Fn(&Value) -> bool + Send + use<> {
        let name = self.selector("metadata.name").map(ToOwned::to_owned);
        let node = self.selector("spec.nodeName").map(ToOwned::to_owned);
        move |object| {
            name.as_deref().is_none_or(|name| object["metadata"]["name"] == name)
                && node.as_deref().is_none_or(|node| object["spec"]["nodeName"] == node)
        }
    }
}

fn list(state: &State, asked: &Asked, version: u64) -> Answer {
    let matches = asked.matches();
    let all = state.objects.iter().filter(|((resource, ..), _)| *resource == asked.resource);
    let all: Vec<_> = all.map(|(_, object)| object).filter(|object| matches(object)).collect();
    let begin: usize = asked.query.get("continue").map_or(0, |text| text.parse().unwrap());
    let limit = asked.query.get("limit").map_or(usize::MAX, |text| text.parse().unwrap());
    let end = all.len().min(begin.saturating_add(limit));
    let mut metadata = json!({ "resourceVersion": version.to_string() });
    if end < all.len() {
        metadata["continue"] = end.to_string().into();
    }
    let kind = format!("{}List", asked.resource);
    let object =
        json!({ "apiVersion": "v1", "kind": kind, "metadata": metadata, "items": all[begin..end] });
    json_answer(200, &object)
}

/// A JSON merge patch (RFC 7396).
fn merge(into: &mut Value, patch: &Value) {
    match patch {
        Value::Object(fields) => {
            if !into.is_object() {
                *into = json!({});
            }
            for (key, value) in fields {
                merge(&mut into[key.as_str()], value);
            }
        }
        other => *into = other.clone(),
    }
}

fn refused(code: u16, message: &str) -> Answer {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code,
        "reason": "Test", "message": message,
    });
    json_answer(code, &status)
}

fn json_answer(code: u16, body: &Value) -> Answer {
    let body = Full::new(Bytes::from(body.to_string())).boxed_unsync();
    let mut answer = Response::new(body);
    *answer.status_mut() = code.try_into().unwrap();
    answer
}
