//! What a user asks Culvert on the cluster, by `kubectl culvert`, and what it answers.

use super::applications::{self, BANK, OUTSIDE, SHOP};
use super::kubectl::Said;
use super::strict;
use super::subject::{SYSTEM, Subject};
use crate::checks::{self, Checks};
use crate::paths;
use anyhow::{Context, Result, ensure};
use culvert_tests::until;
use serde_json::Value;
use std::env;
use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;

/// Exit code of a command whose answer is no.
const DENIED: i32 = 3;
/// Longest until what happened can be seen from outside.
const TOLD: Duration = Duration::from_secs(20);

/// The plugin, as kubectl finds it.
struct Plugin<'a> {
    subject: &'a Subject,
    path: OsString,
    _directory: TempDir,
}

impl<'a> Plugin<'a> {
    /// Puts the program under the plugin's name on a `PATH` of its own.
    fn install(subject: &'a Subject) -> Result<Self> {
        let program = paths::target().join("debug/culvert");
        ensure!(program.is_file(), "there is no {}; run `cargo xtask build`", program.display());
        let directory = tempfile::tempdir().context("no place for the plugin")?;
        let link = directory.path().join("kubectl-culvert");
        std::os::unix::fs::symlink(program, link).context("could not name the plugin")?;
        let own = env::var_os("PATH").unwrap_or_default();
        let all = [directory.path().to_owned()].into_iter().chain(env::split_paths(&own));
        let path = env::join_paths(all).context("PATH")?;
        Ok(Self { subject, path, _directory: directory })
    }

    /// `kubectl culvert WORDS`, and its exit code.
    fn run(&self, words: &[&str]) -> Result<(i32, Said)> {
        let kubectl = self.subject.kubectl();
        let output = std::process::Command::new(kubectl.program())
            .arg("culvert")
            .args(words)
            .env("KUBECONFIG", kubectl.kubeconfig())
            .env("PATH", &self.path)
            .stdin(Stdio::null())
            .output()
            .context("could not start kubectl")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = Said {
            good: output.status.success(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        };
        Ok((output.status.code().unwrap_or(-1), said))
    }

    /// The same; it must end with `code`.
    fn answer(&self, code: i32, words: &[&str]) -> Result<String> {
        let (ended, said) = self.run(words)?;
        let (stdout, stderr) = (said.stdout.trim(), said.stderr.trim());
        ensure!(ended == code, "kubectl culvert {words:?}: {ended}, not {code}: {stdout} {stderr}");
        Ok(said.stdout)
    }

    /// The same, as JSON.
    fn json(&self, code: i32, words: &[&str]) -> Result<Value> {
        let words: Vec<_> = words.iter().copied().chain(["-o", "json"]).collect();
        let text = self.answer(code, &words)?;
        serde_json::from_str(&text).with_context(|| format!("kubectl culvert {words:?}: {text}"))
    }
}

/// Asks before and after STRICT.
pub(crate) fn part(subject: &Subject, checks: &mut Checks) {
    checks::part("asked by kubectl culvert");
    let plugin = match Plugin::install(subject) {
        Ok(plugin) => plugin,
        Err(error) => return checks.add("the plugin is installed", Err(error)),
    };
    checks.add("status names every node's agent", status(&plugin));
    checks.add("preflight names who STRICT would cut", preflight(&plugin));
    checks.add("STRICT, and the Event on the pod that refused", event(subject));
    checks.add("tls-check shows the classic table", tls_check(&plugin));
    checks.add("explain says why a stranger is refused, and what to do", refused(&plugin));
    checks.add("explain says why a pod of the mesh is let in", allowed(&plugin));
    checks.add("an open connection is listed with both identities", connections(&plugin));
    checks.add("the config dump requires a client's certificate", config_dump(&plugin));
    let lifted = subject.kubectl().delete(&["-n", SHOP, "peerauthentication", "default"]);
    checks.add("STRICT is lifted", lifted.map(|()| "as before".into()));
}

fn status(plugin: &Plugin<'_>) -> Result<String> {
    let table = plugin.answer(0, &["status"])?;
    for node in plugin.subject.nodes() {
        ensure!(table.contains(node), "{node} is missing: {table}");
    }
    checks::note(table.trim_end());
    Ok("one line a node".into())
}

fn preflight(plugin: &Plugin<'_>) -> Result<String> {
    let subject = plugin.subject;
    let address = applications::address(subject.kubectl(), SHOP, "backend")?;
    applications::fetch(subject, (OUTSIDE, "stranger"), &format!("http://{address}/"))?;
    let table = plugin.answer(DENIED, &["preflight", SHOP])?;
    let stranger = format!("{OUTSIDE}/stranger");
    let line = table.lines().find(|line| line.contains(&stranger));
    let line = line.with_context(|| format!("{stranger} is missing: {table}"))?;
    Ok(line.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// A pod outside is refused, and the refused pod's own Events say so.
fn event(subject: &Subject) -> Result<String> {
    let kubectl = subject.kubectl();
    kubectl.apply(strict::STRICT)?;
    let url = format!("http://{}/", applications::address(kubectl, SHOP, "backend")?);
    until("the refusal", TOLD, || applications::fetch(subject, (OUTSIDE, "stranger"), &url).err())?;
    let which = "--field-selector=involvedObject.name=backend,reason=PlaintextRefused";
    let note = until("the Event", TOLD, || {
        let found = kubectl.get(&["-n", SHOP, "events", which]).ok()?;
        let first = found["items"].as_array()?.first()?;
        Some(first["message"].as_str()?.to_owned())
    })?;
    ensure!(note.contains("stranger"), "it does not say who: {note}");
    Ok(note)
}

fn tls_check(plugin: &Plugin<'_>) -> Result<String> {
    let (frontend, backend) = (format!("frontend.{SHOP}"), format!("backend.{SHOP}:80"));
    let table = plugin.answer(0, &["tls-check", &frontend, &backend])?;
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    let header = lines.next().unwrap_or_default();
    ensure!(header.starts_with("HOST:PORT STATUS SERVER CLIENT AUTHN POLICY"), "{table}");
    let line = lines.find(|line| line.starts_with("backend")).context("no line of the backend")?;
    ensure!(line.contains(&format!("OK mTLS mTLS {SHOP}/default")), "{line}");
    checks::note(table.trim_end());
    Ok(line)
}

fn refused(plugin: &Plugin<'_>) -> Result<String> {
    let (from, to) = (format!("{OUTSIDE}/stranger"), format!("backend.{SHOP}:80"));
    let answer = plugin.json(DENIED, &["explain", &from, &to])?;
    ensure!(answer["verdict"] == "deny", "{answer}");
    ensure!(answer["policy"] == format!("{SHOP}/default"), "{answer}");
    ensure!(answer.to_string().contains("dataplane-mode"), "no label to set is named: {answer}");
    Ok(format!("{}: {}", answer["reason"], answer["policy"]))
}

fn allowed(plugin: &Plugin<'_>) -> Result<String> {
    let (from, to) = (format!("{SHOP}/frontend"), format!("ledger.{BANK}:7000"));
    let answer = plugin.json(0, &["explain", &from, &to])?;
    ensure!(answer["verdict"] == "allow", "{answer}");
    let steps = answer["steps"].as_array().context("no steps")?.len();
    Ok(format!("{steps} steps"))
}

fn connections(plugin: &Plugin<'_>) -> Result<String> {
    let subject = plugin.subject;
    let to = applications::cluster_address(subject.kubectl(), BANK, "ledger")?;
    let to = format!("{to}:{}", applications::ECHO);
    let words = ["culvert-testapp", "hold", "--count", "1", "--to", &to];
    let mut held = subject.kubectl().exec_held(SHOP, "frontend", &words)?;
    let listed = until("the connection in the list", TOLD, || {
        let answer = plugin.answer(0, &["connections"]).ok()?;
        let line = answer.lines().find(|line| line.contains("frontend") && line.contains("ledger"));
        line.map(str::to_owned)
    });
    // It ends when its standard input does.
    drop(held.stdin.take());
    held.wait().context("the held connection")?;
    Ok(listed?.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The line that users of the classic lab look for, by the very port that it asks.
fn config_dump(plugin: &Plugin<'_>) -> Result<String> {
    let agent = plugin.subject.agent_on(plugin.subject.nodes()[1])?;
    let dump = plugin.answer(0, &["config-dump", "--node", plugin.subject.nodes()[1]])?;
    let line = dump.lines().find(|line| line.contains("\"require_client_certificate\": true"));
    let line = line.with_context(|| format!("{SYSTEM}/{agent} has no such line"))?;
    ensure!(!dump.contains("PRIVATE KEY"), "a private key is in the dump");
    Ok(line.trim().to_owned())
}
