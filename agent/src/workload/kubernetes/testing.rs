//! [`Cluster`]: an API server that exists in memory, for tests.
//!
//! It lists in pages, watches from a version, forgets old versions, and can be away. It answers as
//! the real one does as far as a watch goes; it checks nothing.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt as _;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::broadcast;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Events that a watch may lag behind; more than any test makes.
const EVENTS: usize = 65_536;

/// The API server and everything in it.
#[derive(Clone)]
pub(super) struct Cluster(Arc<Mutex<Inner>>);

struct Inner {
    version: u64,
    /// Versions up to this one are forgotten.
    forgotten: u64,
    /// Objects by the path of their kind, and by namespace and name.
    objects: BTreeMap<String, BTreeMap<(String, String), Value>>,
    history: Vec<(u64, String, Value)>,
    news: broadcast::Sender<(u64, String, Value)>,
    away: bool,
    /// Every request: method and path with query.
    asked: Vec<String>,
    patches: Vec<(String, Value)>,
    /// Objects that were created by request: path and body.
    creations: Vec<(String, Value)>,
    refusing_patches: bool,
    absent: Vec<String>,
}

impl Cluster {
    /// An API server without a single object.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            version: 10,
            forgotten: 0,
            objects: BTreeMap::new(),
            history: Vec::new(),
            news: broadcast::Sender::new(EVENTS),
            away: false,
            asked: Vec::new(),
            patches: Vec::new(),
            creations: Vec::new(),
            refusing_patches: false,
            absent: Vec::new(),
        })))
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// A client of it.
    pub(super) fn client(&self) -> Client {
        let cluster = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let cluster = cluster.clone();
            async move { Ok::<_, Infallible>(cluster.answer(request).await) }
        });
        Client::new(service, "default")
    }

    /// Creates an object or changes it as a whole. `kind` is the path of its list, such as
    /// `/api/v1/pods`.
    pub(super) fn put(&self, kind: &str, mut object: Value) {
        let mut inner = self.inner();
        inner.version += 1;
        object["metadata"]["resourceVersion"] = json!(inner.version.to_string());
        let key = key(&object);
        let of_kind = inner.objects.entry(kind.to_owned()).or_default();
        let known = of_kind.insert(key, object.clone()).is_some();
        inner.tell(kind, if known { "MODIFIED" } else { "ADDED" }, &object);
    }

    /// Creates an object that no watch tells of before it lists again.
    pub(super) fn put_unseen(&self, kind: &str, mut object: Value) {
        let mut inner = self.inner();
        inner.version += 1;
        object["metadata"]["resourceVersion"] = json!(inner.version.to_string());
        inner.objects.entry(kind.to_owned()).or_default().insert(key(&object), object);
    }

    /// Removes an object.
    pub(super) fn remove(&self, kind: &str, namespace: &str, name: &str) {
        let mut inner = self.inner();
        inner.version += 1;
        let key = (namespace.to_owned(), name.to_owned());
        let mut object = inner.objects.get_mut(kind).unwrap().remove(&key).unwrap();
        object["metadata"]["resourceVersion"] = json!(inner.version.to_string());
        inner.tell(kind, "DELETED", &object);
    }

    /// Removes an object so that no watch tells, as if it happened while the API server was away.
    pub(super) fn remove_unseen(&self, kind: &str, namespace: &str, name: &str) {
        let mut inner = self.inner();
        inner.version += 1;
        let key = (namespace.to_owned(), name.to_owned());
        inner.objects.get_mut(kind).unwrap().remove(&key).unwrap();
    }

    /// While it is away every request fails, and all watches end.
    pub(super) fn set_away(&self, away: bool) {
        let mut inner = self.inner();
        inner.away = away;
        if away {
            inner.news = broadcast::Sender::new(EVENTS);
        }
    }

    /// Ends all watches and forgets every version before now.
    pub(super) fn forget(&self) {
        let mut inner = self.inner();
        inner.version += 1;
        inner.forgotten = inner.version - 1;
        inner.history.clear();
        inner.news = broadcast::Sender::new(EVENTS);
    }

    /// Whether there is such a kind of object; all are there at first.
    pub(super) fn set_absent(&self, kind: &str, absent: bool) {
        let mut inner = self.inner();
        inner.absent.retain(|known| known != kind);
        if absent {
            inner.absent.push(kind.to_owned());
            inner.news = broadcast::Sender::new(EVENTS);
        }
    }

    /// Whether patches are forbidden.
    pub(super) fn set_refusing_patches(&self, refusing: bool) {
        self.inner().refusing_patches = refusing;
    }

    /// Every request so far: method, path and query.
    pub(super) fn asked(&self) -> Vec<String> {
        self.inner().asked.clone()
    }

    /// Every patch so far: path and body.
    pub(super) fn patches(&self) -> Vec<(String, Value)> {
        self.inner().patches.clone()
    }

    /// Every creation so far: path and body.
    pub(super) fn creations(&self) -> Vec<(String, Value)> {
        self.inner().creations.clone()
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let query: BTreeMap<String, String> = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let body = body.collect().await.unwrap().to_bytes();
        let mut inner = self.inner();
        inner.asked.push(format!("{} {}", parts.method, parts.uri));
        if inner.away {
            return status(StatusCode::SERVICE_UNAVAILABLE, "away");
        }
        if inner.absent.contains(&path) {
            return status(StatusCode::NOT_FOUND, "no such kind");
        }
        if parts.method == Method::PATCH && inner.refusing_patches {
            return status(StatusCode::FORBIDDEN, "no patches");
        }
        if parts.method == Method::POST {
            let object: Value = serde_json::from_slice(&body).unwrap();
            return inner.create(&path, object);
        }
        if parts.method == Method::PATCH {
            let change: Value = serde_json::from_slice(&body).unwrap();
            return inner.patch(&path, &change);
        }
        if query.get("watch").is_some_and(|watch| watch == "true" || watch == "1") {
            return inner.watch(&path, &query);
        }
        match item(&path) {
            Some((kind, key)) => match inner.objects.get(&kind).and_then(|all| all.get(&key)) {
                Some(object) => whole(object),
                None => status(StatusCode::NOT_FOUND, "no such object"),
            },
            None => inner.list(&path, &query),
        }
    }
}

impl Inner {
    fn tell(&mut self, kind: &str, what: &str, object: &Value) {
        let event = json!({"type": what, "object": object});
        self.history.push((self.version, kind.to_owned(), event.clone()));
        // Nobody watches: whoever lists later sees it.
        let _ = self.news.send((self.version, kind.to_owned(), event)); // reason: see above
    }

    fn list(&self, kind: &str, query: &BTreeMap<String, String>) -> Answer {
        let limit: usize = query.get("limit").map_or(usize::MAX, |limit| limit.parse().unwrap());
        let from: usize = query.get("continue").map_or(0, |from| from.parse().unwrap());
        let none = BTreeMap::new();
        let all = self.objects.get(kind).unwrap_or(&none);
        let items: Vec<_> = all.values().skip(from).take(limit).cloned().collect();
        let next = from + items.len();
        let more = if next < all.len() { next.to_string() } else { String::new() };
        whole(&json!({
            "kind": "List", "apiVersion": "v1", "items": items,
            "metadata": {"resourceVersion": self.version.to_string(), "continue": more},
        }))
    }

    fn watch(&self, kind: &str, query: &BTreeMap<String, String>) -> Answer {
        let from: u64 = query["resourceVersion"].parse().unwrap();
        if from < self.forgotten {
            let gone = json!({"type": "ERROR", "object": {
                "kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}});
            let line = Bytes::from(format!("{gone}\n"));
            return Response::new(Full::new(line).boxed_unsync());
        }
        let missed: Vec<_> =
            self.history.iter().filter(|(version, _, _)| *version > from).cloned().collect();
        let news = futures_util::stream::unfold(self.news.subscribe(), |mut news| async move {
            Some((news.recv().await.ok()?, news))
        });
        let kind = kind.to_owned();
        let events = futures_util::stream::iter(missed).chain(news).filter_map(move |event| {
            let (_, of, event) = event;
            let line = (of == kind).then(|| Bytes::from(format!("{event}\n")));
            std::future::ready(line.map(|line| Ok::<_, Infallible>(Frame::data(line))))
        });
        Response::new(StreamBody::new(events).boxed_unsync())
    }

    fn create(&mut self, path: &str, mut object: Value) -> Answer {
        self.creations.push((path.to_owned(), object.clone()));
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let name = object["metadata"]["name"].as_str().unwrap();
        let (kind, key) = item(&format!("{path}/{name}")).unwrap();
        self.objects.entry(kind).or_default().insert(key, object.clone());
        whole(&object)
    }

    fn patch(&mut self, path: &str, change: &Value) -> Answer {
        let path = path.strip_suffix("/status").unwrap_or(path);
        let (kind, key) = item(path).unwrap();
        self.patches.push((path.to_owned(), change.clone()));
        self.version += 1;
        let version = self.version.to_string();
        let Some(object) = self.objects.get_mut(&kind).and_then(|all| all.get_mut(&key)) else {
            return status(StatusCode::NOT_FOUND, "no such object");
        };
        let uid = &change["metadata"]["uid"];
        if !uid.is_null() && *uid != object["metadata"]["uid"] {
            return status(StatusCode::CONFLICT, "another UID");
        }
        merge(object, change);
        object["metadata"]["resourceVersion"] = json!(version);
        let object = object.clone();
        let answer = whole(&object);
        self.tell(&kind, "MODIFIED", &object);
        answer
    }
}

/// The kind that an object's own path belongs to, with its namespace and name; nothing for the
/// path of a list.
fn item(path: &str) -> Option<(String, (String, String))> {
    let parts: Vec<_> = path.split('/').skip(1).collect();
    let group = if parts[0] == "api" { 2 } else { 3 };
    let base = parts[..group].join("/");
    match &parts[group..] {
        ["namespaces", namespace, plural, name] => {
            let key = ((*namespace).to_owned(), (*name).to_owned());
            Some((format!("/{base}/{plural}"), key))
        }
        [plural, name] => Some((format!("/{base}/{plural}"), (String::new(), (*name).to_owned()))),
        _ => None,
    }
}

fn key(object: &Value) -> (String, String) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

fn whole(value: &Value) -> Answer {
    Response::new(Full::new(Bytes::from(value.to_string())).boxed_unsync())
}

fn status(code: StatusCode, message: &str) -> Answer {
    let reason = if code == StatusCode::NOT_FOUND { "NotFound" } else { message };
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code.as_u16(), "reason": reason, "message": message});
    let mut answer = whole(&body);
    *answer.status_mut() = code;
    answer
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

/// A running pod. Its UID follows from its name, its service account is the default one; without
/// an address it has none yet.
pub(super) fn pod(namespace: &str, name: &str, node: &str, address: &str) -> Value {
    let addresses: Vec<_> = address.split(' ').filter(|ip| !ip.is_empty()).collect();
    let ips: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": namespace,
            "name": name,
            "uid": uid(namespace, name),
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "labels": {},
            "annotations": {},
        },
        "spec": {"nodeName": node},
        "status": {"phase": "Running", "podIPs": ips},
    })
}

/// The UID that [`pod`] gives.
pub(super) fn uid(namespace: &str, name: &str) -> String {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    (namespace, name).hash(&mut hasher);
    let hash = hasher.finish();
    format!("{:08x}-0000-4000-8000-{:012x}", hash >> 32, hash & 0xffff_ffff_ffff)
}

/// A namespace with labels.
pub(super) fn namespace(name: &str, labels: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

/// The object with more in it.
pub(super) fn with(mut object: Value, more: &Value) -> Value {
    merge(&mut object, more);
    object
}
