//! What the manifests call, and every command.

use std::{fs, path::Path};

use serde_json::Value;

use super::*;

/// Every document of a manifest of the cluster.
fn manifest(path: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../daemonset").join(path);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

#[test]
fn every_container_of_the_manifests_runs_a_command_of_this_program() {
    let mut seen = 0;
    for document in ["base/agent.yaml", "base/ca.yaml"].into_iter().flat_map(manifest) {
        for kind in ["containers", "initContainers"] {
            let pointer = format!("/spec/template/spec/{kind}");
            let containers = document.pointer(&pointer).and_then(Value::as_array);
            for container in containers.into_iter().flatten() {
                let words = container["args"].as_array().unwrap().iter();
                let mut words: Vec<_> = words.map(|word| word.as_str().unwrap()).collect();
                words.insert(0, "culvert");
                if words[1] == "controller" {
                    // It has its name from a variable, which a test does not set.
                    assert!(container["env"].to_string().contains("CULVERT_POD_NAME"));
                    words.push("--name=replica");
                }
                let parsed = Arguments::try_parse_from(words);
                assert!(parsed.is_ok(), "{}: {}", container["name"], parsed.err().unwrap());
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 4, "agent, its CNI plugin, authority and controller");
}

#[test]
fn configuration_of_the_manifests_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("agent.yaml");
    for path in [
        "base/agent-config.yaml",
        "overlays/permissive/agent-config.yaml",
        "overlays/development/agent-config.yaml",
    ] {
        let config = manifest(path).remove(0);
        let text = config["data"]["agent.yaml"].as_str().unwrap();
        fs::write(&file, format!("node: node1\n{text}")).unwrap();
        let config = Config::load(&file).unwrap_or_else(|error| panic!("{path}: {error}"));
        // What the manifests mount, and what they must not leave to a default.
        assert!(config.print().unwrap().contains("/host/proc"), "{path}");
    }
}
