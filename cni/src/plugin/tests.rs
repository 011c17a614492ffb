//! The plugin as a runtime sees it, with a fake agent that answers what it is told to.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixListener,
    path::Path,
    sync::mpsc,
    thread,
};

use serde_json::{Value, json};

use super::*;
use crate::protocol::Reason;

const UID: &str = "0f7c2a5e-1b3d-4c6f-8a9b-0123456789ab";
const ARGS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart;\
                    K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=0f7c2a5e-1b3d-4c6f-8a9b-0123456789ab";

/// One call, to be changed before it is made.
struct Call {
    environment: HashMap<&'static str, String>,
    configuration: Value,
}

impl Call {
    fn new(command: &str, socket: &Path) -> Self {
        let environment = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", "/proc/self/ns/net"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", ARGS),
            ("CNI_PATH", "/opt/cni/bin"),
        ];
        let configuration = json!({
            "cniVersion": "1.1.0",
            "name": "pods",
            "type": "culvert-cni",
            "socket": socket,
            "prevResult": {
                "cniVersion": "1.1.0",
                "interfaces": [
                    { "name": "veth1" },
                    { "name": "eth0", "sandbox": "/proc/self/ns/net", "mtu": 1450 },
                ],
                "ips": [
                    { "interface": 1, "address": "10.0.0.5/24", "gateway": "10.0.0.1" },
                    { "interface": 1, "address": "fd00::5/64" },
                    { "interface": 0, "address": "169.254.0.1/16" },
                ],
                "dns": {},
            },
        });
        Self { environment: environment.map(|(k, v)| (k, v.to_owned())).into(), configuration }
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.environment.insert(name, value.to_owned());
        self
    }

    fn set(mut self, name: &str, value: Value) -> Self {
        self.configuration[name] = value;
        self
    }

    fn make(&self) -> Result<Option<Value>, Value> {
        let input = serde_json::to_vec(&self.configuration).unwrap();
        let (version, outcome) = call(&|name| self.environment.get(name).cloned(), &input);
        outcome.map_err(|error| error.document(version.as_deref()))
    }

    /// The code of the error that it ends with.
    fn code(&self) -> u64 {
        self.make().unwrap_err()["code"].as_u64().unwrap()
    }
}

/// Answers each question with the next of `answers`; an empty one cuts the connection.
fn agent(socket: &Path, answers: Vec<Option<Answer>>) -> mpsc::Receiver<Value> {
    let listener = UnixListener::bind(socket).unwrap();
    let (said, heard) = mpsc::channel();
    thread::spawn(move || {
        for answer in answers {
            let (stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            said.send(serde_json::from_str(&line).unwrap()).unwrap();
            if let Some(answer) = answer {
                writeln!(&stream, "{}", serde_json::to_string(&answer).unwrap()).unwrap();
            }
        }
    });
    heard
}

fn failed(reason: Reason) -> Answer {
    Answer::Failed { reason, message: "no".into() }
}

#[test]
fn add_asks_the_agent_and_passes_the_result_on_as_it_came() {
    let temp = tempfile::tempdir().unwrap();
    let socket = temp.path().join("s");
    let heard = agent(&socket, vec![Some(Answer::Steered), Some(Answer::Left)]);
    let call = Call::new("ADD", &socket);
    for _ in 0..2 {
        assert_eq!(call.make().unwrap().unwrap(), call.configuration["prevResult"]);
        let asked = heard.recv().unwrap();
        assert_eq!(asked["command"], "add");
        assert_eq!(asked["network"], "pods");
        assert_eq!(asked["container"], "c1");
        assert_eq!(asked["pod"], json!({ "namespace": "shop", "name": "cart", "uid": UID }));
        assert_eq!(asked["addresses"], json!(["10.0.0.5", "fd00::5"]));
        assert_eq!(asked["netns"]["path"], "/proc/self/ns/net");
        let own = fs::metadata("/proc/self/ns/net").unwrap();
        assert_eq!(asked["netns"]["inode"], own.ino());
    }
}

#[test]
fn result_of_an_older_version_keeps_its_form() {
    let temp = tempfile::tempdir().unwrap();
    let socket = temp.path().join("s");
    let _heard = agent(&socket, vec![Some(Answer::Left)]);
    let result = json!({ "ips": [{ "version": "4", "address": "10.0.0.5/24" }], "x": [1, 2.5] });
    let call = Call::new("ADD", &socket)
        .set("cniVersion", "0.3.1".into())
        .set("prevResult", result.clone());
    let mut wanted = result;
    wanted["cniVersion"] = "0.3.1".into();
    assert_eq!(call.make().unwrap().unwrap(), wanted);
}

#[test]
fn agent_that_is_replaced_meanwhile_is_asked_again() {
    let temp = tempfile::tempdir().unwrap();
    let socket = temp.path().join("s");
    let heard = agent(&socket, vec![None, Some(Answer::Steered)]);
    Call::new("ADD", &socket).make().unwrap().unwrap();
    assert_eq!(heard.iter().count(), 2);
}

#[test]
fn refusal_of_the_agent_is_an_error_of_its_kind() {
    let kinds = [
        (Reason::Later, 11),
        (Reason::Request, 100),
        (Reason::Namespace, 101),
        (Reason::Caller, 102),
    ];
    for (reason, code) in kinds {
        let temp = tempfile::tempdir().unwrap();
        let socket = temp.path().join("s");
        let _heard = agent(&socket, vec![Some(failed(reason))]);
        // Also where pods pass without an agent: this one is there and said no.
        let call = Call::new("ADD", &socket).set("whileAway", "pass".into());
        let error = call.make().unwrap_err();
        assert_eq!(error["code"], code);
        assert_eq!(error["msg"], "culvert agent: no");
        assert_eq!(error["cniVersion"], "1.1.0");
    }
}

#[test]
fn without_an_agent_a_pod_does_not_start_unless_it_may() {
    let temp = tempfile::tempdir().unwrap();
    let socket = temp.path().join("s");
    let shop = Call::new("ADD", &socket);
    let exempt = |namespace: &str| {
        let arguments = ARGS.replace("shop", namespace);
        Call::new("ADD", &socket).with("CNI_ARGS", &arguments)
    };
    for namespace in EXEMPT {
        exempt(namespace).make().unwrap().unwrap();
    }
    let own = exempt("mesh").set("exemptNamespaces", json!(["mesh"]));
    own.make().unwrap().unwrap();
    // Who is in no pod is none of our business.
    Call::new("ADD", &socket).with("CNI_ARGS", "IgnoreUnknown=1").make().unwrap().unwrap();

    let waits = [
        thread::spawn({
            let call = Call::new("ADD", &socket).set("whileAway", "pass".into());
            move || assert!(call.make().unwrap().is_some())
        }),
        thread::spawn(move || {
            let error = shop.make().unwrap_err();
            assert_eq!(error["code"], 11);
            assert!(error["msg"].as_str().unwrap().contains("no culvert agent answers"), "{error}");
            assert!(!error["details"].as_str().unwrap().is_empty(), "{error}");
        }),
    ];
    for wait in waits {
        wait.join().unwrap();
    }
}

#[test]
fn all_pass_once_the_agent_has_left_for_good() {
    let temp = tempfile::tempdir().unwrap();
    let socket = temp.path().join("s");
    off::set(&socket).unwrap();
    for command in ["ADD", "CHECK", "DEL", "GC", "STATUS"] {
        Call::new(command, &socket).make().unwrap();
    }
}

#[test]
fn what_ends_is_never_held_up_by_an_agent_that_is_away() {
    let temp = tempfile::tempdir().unwrap();
    let socket = temp.path().join("s");
    for command in ["DEL", "GC", "STATUS", "CHECK"] {
        assert_eq!(Call::new(command, &socket).make().unwrap(), None, "{command}");
    }
    let bare = Call::new("DEL", &socket).with("CNI_NETNS", "").set("prevResult", Value::Null);
    assert_eq!(bare.make().unwrap(), None);
}

#[test]
fn delete_and_collect_tell_the_agent() {
    let temp = tempfile::tempdir().unwrap();
    let socket = temp.path().join("s");
    let heard = agent(&socket, vec![Some(Answer::Done), Some(failed(Reason::Later))]);
    Call::new("DEL", &socket).make().unwrap();
    let asked = heard.recv().unwrap();
    assert_eq!((asked["command"].as_str(), asked["uid"].as_str()), (Some("delete"), Some(UID)));
    let valid = json!([{ "containerID": "c1", "ifname": "eth0" }]);
    Call::new("GC", &socket).set("cni.dev/valid-attachments", valid.clone()).make().unwrap();
    let asked = heard.recv().unwrap();
    assert_eq!((&asked["command"], &asked["valid"]), (&json!("collect"), &valid));
}

#[test]
fn check_fails_only_where_the_agent_says_so() {
    let temp = tempfile::tempdir().unwrap();
    let socket = temp.path().join("s");
    let _heard = agent(&socket, vec![Some(Answer::Left), Some(failed(Reason::Namespace))]);
    let call = Call::new("CHECK", &socket);
    assert_eq!(call.make().unwrap(), None);
    assert_eq!(call.code(), 101);
}

#[test]
fn call_that_is_none_is_refused_with_the_code_of_the_specification() {
    let temp = tempfile::tempdir().unwrap();
    let socket = temp.path().join("s");
    let add = || Call::new("ADD", &socket);
    for name in ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
        assert_eq!(add().with(name, "").code(), 4, "{name}");
    }
    assert_eq!(add().with("CNI_COMMAND", "EAT").code(), 4);
    assert_eq!(add().with("CNI_ARGS", "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart").code(), 4);
    assert_eq!(add().with("CNI_NETNS", "/nonexistent").code(), 5);
    assert_eq!(add().set("socket", json!(7)).code(), 6);
    assert_eq!(add().set("prevResult", Value::Null).code(), 7);
    assert_eq!(add().set("prevResult", json!({ "ips": [{ "address": "ten" }] })).code(), 7);
    for version in ["0.2.0", "2.0.0", ""] {
        assert_eq!(add().set("cniVersion", version.into()).code(), 1, "{version}");
    }
    assert_eq!(Call::new("CHECK", &socket).set("cniVersion", "0.3.1".into()).code(), 1);
    assert_eq!(Call::new("STATUS", &socket).set("cniVersion", "1.0.0".into()).code(), 1);
}

#[test]
fn versions_are_told_in_the_version_of_the_question() {
    let environment = |name: &str| (name == "CNI_COMMAND").then(|| "VERSION".to_owned());
    for (input, version) in [(&b"{\"cniVersion\":\"0.4.0\"}"[..], "0.4.0"), (b"", "1.1.0")] {
        let told = call(&environment, input).1.unwrap().unwrap();
        assert_eq!(told["cniVersion"], version);
        assert_eq!(told["supportedVersions"], json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    }
}
