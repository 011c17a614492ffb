//! `culvert explain --offline` and `culvert tls-check --offline` as a CI runs them: files, JSON and
//! exit codes.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

const WORKLOADS: &str = "workloads:
  - {name: a1, namespace: default, serviceAccount: frontend, node: node1, addresses: [10.1.1.2]}
  - {name: b1, namespace: default, serviceAccount: backend, node: node2, addresses: [10.1.2.2], labels: {app: b1}}
  - {name: c1, namespace: default, serviceAccount: legacy, node: node2, addresses: [10.1.2.3], enrolled: false}
";

const STRICT: &str = "apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata: {name: default, namespace: default}
spec: {mtls: {mode: STRICT}}
";

const ONLY_FRONTEND: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: backend, namespace: default}
spec:
  selector: {matchLabels: {app: b1}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/frontend]}}]
    to: [{operation: {ports: ['8080']}}]
";

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        fs::write(files.path("workloads.yaml"), WORKLOADS).unwrap();
        fs::write(files.path("strict.yaml"), STRICT).unwrap();
        fs::write(files.path("allow.yaml"), ONLY_FRONTEND).unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, command: &str, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_culvert"))
            .current_dir(self.0.path())
            .args([command, "--offline", "--workloads", "workloads.yaml"])
            .args(["--policies", "strict.yaml", "--policies", "allow.yaml"])
            .args(words)
            .output()
            .unwrap()
    }

    /// Exit code, verdict, reason and policy.
    fn explained(&self, words: &[&str]) -> (i32, String, String, Value) {
        let output = self.run("explain", &[words, &["-o", "json"]].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        let answer: Value = serde_json::from_str(&text).unwrap_or_else(|error| {
            panic!("{error}: {text} {}", String::from_utf8_lossy(&output.stderr))
        });
        let steps = answer["steps"].as_array().unwrap();
        assert!(steps.iter().all(|step| step["name"].is_string() && step["text"].is_string()));
        let word = |field: &str| answer[field].as_str().unwrap().to_owned();
        (output.status.code().unwrap(), word("verdict"), word("reason"), answer["policy"].clone())
    }
}

fn answer(code: i32, verdict: &str, reason: &str, policy: &str) -> (i32, String, String, Value) {
    let policy = if policy.is_empty() { Value::Null } else { policy.into() };
    (code, verdict.to_owned(), reason.to_owned(), policy)
}

#[test]
fn verdict_reason_policy_and_exit_code_agree() {
    let files = Files::new();
    for (words, expected) in [
        (&["a1", "b1:8080"][..], answer(0, "allow", "ok", "default/backend")),
        (&["a1", "b1:9090"], answer(3, "deny", "policy_denied", "default/backend")),
        (
            &["a1", "b1:8080", "--plaintext"],
            answer(3, "deny", "plaintext_refused", "default/default"),
        ),
        (
            &["default/c1", "b1.default:8080"],
            answer(3, "deny", "plaintext_refused", "default/default"),
        ),
        (&["c1", "10.1.1.2:80"], answer(3, "deny", "plaintext_refused", "default/default")),
        (&["b1", "a1:80"], answer(0, "allow", "ok", "")),
        (&["a1", "c1:80"], answer(0, "allow", "ok", "")),
    ] {
        assert_eq!(files.explained(words), expected, "{words:?}");
    }
}

#[test]
fn what_cannot_be_answered_ends_with_1_and_a_wrong_command_line_with_2() {
    let files = Files::new();
    for (words, code, told) in [
        (&["a2", "b1:8080"][..], 1, "there is no workload `a2`; there are default/a1"),
        (&["a1", "b1"], 1, "`b1` has no port"),
        (&["a1", "b1:80", "--policies", "none.yaml"], 1, "cannot read none.yaml"),
        (&["a1"], 2, "DST:PORT"),
    ] {
        let output = files.run("explain", words);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {error}");
        assert!(error.contains(told), "{error}");
        assert!(output.stdout.is_empty());
    }
    let alone = Command::new(env!("CARGO_BIN_EXE_culvert"))
        .args(["explain", "--offline", "a1", "b1:80"])
        .output()
        .unwrap();
    assert_eq!(alone.status.code(), Some(2), "--offline wants --workloads");
}

#[test]
fn people_get_the_fix_and_no_colours_where_there_is_no_terminal() {
    let output = Files::new().run("explain", &["c1", "b1:8080"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("DENY  default/c1 -> default/b1 (10.1.2.2:8080)\n"), "{text}");
    assert!(text.contains("FAIL  enrolled") && text.contains("fix: bring default/c1"), "{text}");
    assert!(!text.contains('\x1b'));
}

#[test]
fn tls_check_has_the_columns_of_istioctl() {
    let files = Files::new();
    let output = files.run("tls-check", &["a1", "b1:8080"]);
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "HOST:PORT        STATUS  SERVER  CLIENT  AUTHN POLICY\n\
         b1.default:8080  OK      mTLS    mTLS    default/default\n"
    );
    assert_eq!(output.status.code(), Some(0));
    let output = files.run("tls-check", &["c1"]);
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "HOST:PORT     STATUS    SERVER  CLIENT  AUTHN POLICY\n\
         a1.default:*  CONFLICT  mTLS    HTTP    default/default\n\
         b1.default:*  CONFLICT  mTLS    HTTP    default/default\n"
    );
    assert_eq!(output.status.code(), Some(3));
}
