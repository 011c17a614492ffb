//! Objects that are wrong, huge or odd: refused by the API server, or told of in status and log;
//! no agent may fall over one.

use super::applications::{self, BANK, PAGE, SHOP};
use super::subject::{SYSTEM, Subject};
use crate::checks::{self, Checks};
use anyhow::{Context, Result, bail, ensure};
use culvert_tests::until;
use std::time::Duration;

/// Longest until something is told of an object.
const TOLD: Duration = Duration::from_secs(30);

/// Policies that the API server itself must refuse.
const REFUSED: &[(&str, &str)] = &[
    ("a mode that does not exist", "PeerAuthentication spec: {mtls: {mode: SOMETIMES}}"),
    (
        "a port mode without a selector",
        "PeerAuthentication spec: {portLevelMtls: {80: {mode: STRICT}}}",
    ),
    (
        "port 70000",
        "PeerAuthentication spec: {selector: {matchLabels: {app: x}}, \
         portLevelMtls: {70000: {mode: STRICT}}}",
    ),
    ("an action that does not exist", "AuthorizationPolicy spec: {action: PERHAPS}"),
    (
        "accounts and principals in one source",
        "AuthorizationPolicy spec: {rules: [{from: [{source: {serviceAccounts: [a], \
         principals: [b]}}]}]}",
    ),
];

/// Policies that its schema lets through and that cannot be obeyed.
const REPORTED: &[(&str, &str)] = &[
    ("a port that is no number", "spec: {rules: [{to: [{operation: {ports: [http]}}]}]}"),
    (
        "a block that is no address",
        "spec: {rules: [{from: [{source: {ipBlocks: [10.0.0.0/99]}}]}]}",
    ),
    (
        "a condition that needs HTTP",
        "spec: {rules: [{when: [{key: 'request.headers[x]', values: [a]}]}]}",
    ),
];

/// Applies each and looks what becomes of it.
pub(crate) fn part(subject: &Subject, checks: &mut Checks) {
    checks::part("bad objects");
    let before = restarts(subject);
    for (what, policy) in REFUSED {
        checks.add(&format!("{what}: refused by the API server"), refused(subject, policy));
    }
    for (what, spec) in REPORTED {
        checks.add(&format!("{what}: told in its status"), reported(subject, spec));
    }
    checks.add("a label with a wrong value is told of", wrong_label(subject));
    checks.add("a pod with a quarter of a megabyte of annotation", huge_pod(subject));
    checks.add("names at their greatest length", long_names(subject));
    checks.add("no agent fell over any of them", unharmed(subject, before));
}

fn refused(subject: &Subject, policy: &str) -> Result<String> {
    let (kind, spec) = policy.split_once(' ').context("a kind and a spec")?;
    let said = subject.kubectl().try_apply(&document(kind, spec))?;
    if said.good {
        subject.kubectl().delete(&["-n", BANK, kind, "bad"])?;
        bail!("it was taken");
    }
    Ok(said.stderr.lines().next().unwrap_or_default().chars().take(160).collect())
}

fn document(kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: bad, namespace: {BANK}}}\n\
         {spec}\n"
    )
}

fn reported(subject: &Subject, spec: &str) -> Result<String> {
    let said = subject.kubectl().try_apply(&document("AuthorizationPolicy", spec))?;
    if !said.good {
        return Ok(format!("refused by the API server: {}", said.stderr.trim()));
    }
    let told = until("a condition", TOLD, || {
        let words = ["-n", BANK, "authorizationpolicy", "bad"];
        let object = subject.kubectl().get(&words).ok()?;
        let conditions = object["status"]["conditions"].as_array()?;
        conditions.iter().find_map(|condition| {
            let text = condition["message"].as_str()?;
            (!text.is_empty()).then(|| text.to_owned())
        })
    });
    subject.kubectl().delete(&["-n", BANK, "authorizationpolicy", "bad"])?;
    told
}

fn wrong_label(subject: &Subject) -> Result<String> {
    let words = ["-n", SHOP, "label", "--overwrite", "pod", "neighbour"];
    let label = |value: &str| {
        let mut words = words.to_vec();
        words.push(value);
        subject.kubectl().ok(&words).map(drop)
    };
    label("istio.io/dataplane-mode=ambiant")?;
    let agent = subject.agent_on(subject.nodes()[1])?;
    let told = until("a line of the agent's log", TOLD, || {
        let words = ["-n", SYSTEM, "logs", &agent, "-c", "agent", "--tail=100"];
        let log = subject.kubectl().ok(&words).ok()?;
        log.lines().rfind(|line| line.contains("ambiant")).map(str::to_owned)
    });
    label("istio.io/dataplane-mode-")?;
    told
}

fn huge_pod(subject: &Subject) -> Result<String> {
    let text = "x".repeat(250 * 1024);
    let document = format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: huge\n  namespace: {SHOP}\n  \
         annotations: {{note: {text}}}\nspec:\n  containers:\n  - name: main\n    image: {}\n    \
         imagePullPolicy: IfNotPresent\n    command: [sleep, '100000']\n  \
         terminationGracePeriodSeconds: 1\n",
        subject.applications_image()
    );
    // `kubectl apply` would keep a second copy in an annotation, which is too much for the server.
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), document)?;
    let path = file.path().to_str().context("a path that is text")?;
    subject.kubectl().ok(&["create", "-f", path])?;
    works_from(subject, "huge")
}

fn long_names(subject: &Subject) -> Result<String> {
    // A pod may have 253, but the kubelet makes a folder of namespace, name and UID: 255 in all.
    let name = format!("n{}", ".abcdefg".repeat(26));
    let account = format!("a{}", "-bcdefgh".repeat(31));
    let document = format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {account}, namespace: {SHOP}}}\n\
         ---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {SHOP}}}\nspec:\n  \
         serviceAccountName: {account}\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - name: main\n    image: {}\n    imagePullPolicy: IfNotPresent\n    \
         command: [sleep, '100000']\n",
        subject.applications_image()
    );
    subject.kubectl().apply(&document)?;
    let seen = works_from(subject, &name)?;
    subject.kubectl().delete(&["-n", SHOP, "serviceaccount", &account])?;
    Ok(format!("names of {} and {} characters; {seen}", name.len(), account.len()))
}

/// A pod of this name reaches the shop through the mesh; it is deleted afterwards.
fn works_from(subject: &Subject, pod: &str) -> Result<String> {
    applications::ready(subject.kubectl(), SHOP, &format!("pod/{pod}"))?;
    let address = applications::cluster_address(subject.kubectl(), SHOP, "backend")?;
    let page = applications::fetch(subject, (SHOP, pod), &format!("http://{address}/"))?;
    ensure!(page.contains(PAGE), "another page came");
    subject.kubectl().delete(&["-n", SHOP, "pod", pod])?;
    Ok("it is in the mesh".into())
}

fn restarts(subject: &Subject) -> Result<Vec<(String, u64)>> {
    subject
        .nodes()
        .iter()
        .map(|node| {
            let agent = subject.agent_on(node)?;
            let pod = subject.kubectl().get(&["-n", SYSTEM, "pod", &agent])?;
            let count = pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
            Ok((agent, count.context("a count of restarts")?))
        })
        .collect()
}

fn unharmed(subject: &Subject, before: Result<Vec<(String, u64)>>) -> Result<String> {
    let (before, now) = (before?, restarts(subject)?);
    ensure!(before == now, "before: {before:?}, now: {now:?}");
    for (agent, _) in &now {
        applications::ready(subject.kubectl(), SYSTEM, &format!("pod/{agent}"))?;
    }
    Ok("none was restarted, all are ready".into())
}
