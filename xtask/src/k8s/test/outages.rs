//! What goes on when a part is away: the authority, the API server, an agent, a namespace.

use super::applications::{self, Pod, SHOP};
use super::load::Load;
use super::subject::{SYSTEM, Subject};
use crate::checks::{self, Checks};
use crate::run;
use anyhow::{Context, Result, ensure};
use culvert_tests::until;
use std::thread;
use std::time::{Duration, Instant};

/// Longest until what was away is back.
const BACK: Duration = Duration::from_mins(3);

/// Takes one part away after the other, under load.
pub(crate) fn part(subject: &Subject, checks: &mut Checks, away: Duration) {
    checks::part("parts of it are away, under load");
    checks.add("the authority's pods are deleted", authority(subject));
    checks.add("a namespace is deleted while its pods are connected", namespace(subject));
    if subject.is_own() {
        checks.add("an agent is killed", agent(subject));
        checks.add("the API server is away", api_server(subject, away));
    } else {
        checks::note(
            "skipped: only the lab's own agents may be killed, and its API server stopped",
        );
    }
}

fn authority(subject: &Subject) -> Result<String> {
    let load = Load::start(subject, "authority", 2)?;
    let label = "app.kubernetes.io/name=culvert-ca";
    subject.kubectl().ok(&["-n", SYSTEM, "delete", "pod", "-l", label, "--wait=true"])?;
    let told = load.news()?.whole()?;
    subject.kubectl().rolled_out(SYSTEM, "deployment/culvert-ca")?;
    // A new identity is what only the authority can give.
    let idle = ["sleep", "100000"];
    let image = subject.applications_image();
    subject.kubectl().apply(&Pod::new(SHOP, "newcomer", &idle).document(image))?;
    applications::ready(subject.kubectl(), SHOP, "pod/newcomer")?;
    let address = applications::cluster_address(subject.kubectl(), SHOP, "backend")?;
    applications::fetch(subject, (SHOP, "newcomer"), &format!("http://{address}/"))?;
    subject.kubectl().delete(&["-n", SHOP, "pod", "newcomer"])?;
    Ok(format!("{told}; a new pod has its identity afterwards"))
}

/// The agent of the first node is killed as the kernel would: no chance to clean up.
fn agent(subject: &Subject) -> Result<String> {
    let load = Load::start(subject, "killed", 2)?;
    let node = subject.nodes()[0];
    let agent = subject.agent_on(node)?;
    let restarts = |subject: &Subject| -> Result<u64> {
        let pod = subject.kubectl().get(&["-n", SYSTEM, "pod", &agent])?;
        let count = &pod["status"]["containerStatuses"][0]["restartCount"];
        count.as_u64().context("a count of restarts")
    };
    let before = restarts(subject)?;
    kill(subject, node)?;
    until("the agent's restart", BACK, || restarts(subject).ok().filter(|now| *now > before))?;
    applications::ready(subject.kubectl(), SYSTEM, &format!("pod/{agent}"))?;
    let told = load.news()?;
    let errors = load.errors()?;
    let odd = errors.split(", ").filter(|error| !error.is_empty()).find(|error| {
        !["ConnectionRefused", "ConnectionReset", "BrokenPipe", "UnexpectedEof"]
            .iter()
            .any(|fair| error.contains(fair))
    });
    ensure!(odd.is_none(), "not what a lost peer looks like: {errors}");
    Ok(format!("{told} ({errors}); it goes on after the restart"))
}

/// Ends the agent's process on a node, which is looked for by its arguments: nobody else there has
/// them.
fn kill(subject: &Subject, node: &str) -> Result<()> {
    const KILL: &str = "
        for p in /proc/[0-9]*; do
            tr '\\0' ' ' < $p/cmdline 2>/dev/null | grep -q '^[^ ]*culvert agent ' || continue
            kill -9 ${p#/proc/} && echo killed
        done";
    let said = subject.node(node, &["sh", "-c", KILL])?.output()?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(text.trim() == "killed", "one agent was to be killed: {text:?}");
    Ok(())
}

fn namespace(subject: &Subject) -> Result<String> {
    const GONE: &str = "gone";
    let document = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {GONE}\n  \
         labels: {{istio.io/dataplane-mode: ambient}}\n"
    );
    let echo = ["culvert-testapp", "echo", "--listen", "[::]:7000"];
    let pod = Pod::new(GONE, "echo", &echo).on(subject.nodes()[1]);
    subject.kubectl().apply(&(document + &pod.document(subject.applications_image())))?;
    applications::ready(subject.kubectl(), GONE, "pod/echo")?;
    let to = format!("{}:7000", applications::address(subject.kubectl(), GONE, "echo")?);
    let words = ["culvert-testapp", "ping", "--to", &to, "--every-ms", "50"];
    let mut child = subject.kubectl().exec_held(SHOP, "frontend", &words)?;
    subject.kubectl().delete(&["namespace", GONE])?;
    let ended =
        until("the connection to end", Duration::from_secs(30), || child.try_wait().ok().flatten());
    if ended.is_err() {
        child.kill()?;
        child.wait()?;
    }
    ended?;
    for node in subject.nodes() {
        let agent = subject.agent_on(node)?;
        applications::ready(subject.kubectl(), SYSTEM, &format!("pod/{agent}"))?;
    }
    Ok("the connection ended, the agents are well".into())
}

fn api_server(subject: &Subject, away: Duration) -> Result<String> {
    let load = Load::start(subject, "blind", 2)?;
    let before = load.told()?;
    let cluster = subject.own()?;
    cluster.stop_api_server()?;
    run::say(format!("the API server is away for {} s", away.as_secs()));
    let started = Instant::now();
    // How long it is away is what is played here, not a condition that is waited for.
    thread::sleep(away);
    cluster.start_api_server()?;
    let told = until("news of the clients", BACK, || load.told().ok())?;
    let gone = started.elapsed().as_secs();
    let errors = load.errors()?;
    let told = told.whole().with_context(|| errors)?;
    ensure!(told.kept_broken == before.kept_broken, "kept connections broke: {told}");
    ensure!(told.ok > before.ok, "no connection was made meanwhile");
    // And the agents see the world again: a new pod gets in.
    drop(load);
    let again = Load::start(subject, "again", 0)?;
    Ok(format!("{gone} s: {told}; then new pods get in: {}", again.stop()?))
}
