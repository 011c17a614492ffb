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

/// Commands with pages of their own; docs/cli.md has all others.
const PARTS: [&str; 7] = ["agent", "release", "controller", "cni", "ca", "explain", "tls-check"];

#[test]
fn every_command_that_asks_is_in_the_documentation() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    let text = fs::read_to_string(path).unwrap();
    let mut seen = 0;
    for command in Arguments::command().get_subcommands() {
        let name = command.get_name();
        if command.is_hide_set() || PARTS.contains(&name) {
            assert!(text.contains(name), "{name} is not even named");
            continue;
        }
        assert!(text.contains(&format!("\n### culvert {name}\n")), "no section for {name}");
        for option in command.get_arguments().filter_map(clap::Arg::get_long) {
            let common = ["socket", "output"].contains(&option);
            let named = common || text.contains(&format!("--{option}"));
            assert!(named, "--{option} of {name} is not in docs/cli.md");
        }
        seen += 1;
    }
    assert!(seen >= 9, "{seen}");
    for code in ["| 0 |", "| 1 |", "| 2 |", "| 3 |"] {
        assert!(text.contains(code), "{code}");
    }
}

#[test]
fn command_lines_are_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn what_people_type_is_understood() {
    for line in [
        "status --cluster -o wide",
        "status --programs",
        "connections --watch --workload shop/web-1 --interval 2",
        "connections -n shop -o json --limit 5 --address 127.0.0.1:15000",
        "preflight shop --context prod",
        "workloads -n shop",
        "policies -o yaml",
        "certs -o json",
        "certs show default/web --socket /tmp/x",
        "certs show --root --cluster",
        "config-dump --node node1",
        "logging",
        "logging info,culvert_agent::tunnel=debug",
        "logging --reset",
        "completion bash",
    ] {
        let words = std::iter::once("culvert").chain(line.split(' '));
        let parsed = Arguments::try_parse_from(words);
        assert!(parsed.is_ok(), "{line}: {}", parsed.err().unwrap());
    }
    for line in ["preflight", "connections --workload shop", "certs show", "logging debug --reset"]
    {
        let words = std::iter::once("culvert").chain(line.split(' '));
        assert_eq!(
            Arguments::try_parse_from(words).err().map(|e| e.exit_code()),
            Some(2),
            "{line}"
        );
    }
}
