//! What Kustomize and Helm make of the manifests, by the real programs: that both take them, and
//! that both say the same.

use crate::{k8s, paths, run};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

/// Objects by API version, kind, namespace and name.
type Objects = BTreeMap<String, Value>;

/// The programs.
pub(super) struct Programs {
    helm: PathBuf,
    kubectl: PathBuf,
}

/// Values of the chart that make what a directory of Kustomize makes, besides the namespace.
const SAME: &[(&str, &[&str])] = &[
    ("overlays/default", &[]),
    ("overlays/permissive", &["agent.config.capture.whenAgentDown=pass", "cni.whileAway=pass"]),
    (
        "overlays/development",
        &["ca.replicas=1", "imagePullPolicy=Never", "agent.config.observe.log=debug"],
    ),
];

/// Values that the chart must refuse, each for one reason.
const REFUSED: &[&[&str]] = &[
    // A slip of the pen is no setting.
    &["--set", "agnet.priorityClassName=x"],
    &["--set", "cni.whileAway=perhaps"],
    &["--set", "image=localhost/culvert"],
    // The authority's own identity has the namespace in it.
    &["--namespace", "default"],
];

impl Programs {
    /// Checks all of it.
    pub(super) fn check(&self) -> Result<()> {
        run::say("rendering the manifests with kubectl and helm");
        let mut lint = self.helm();
        lint.args(["lint", "--strict", "--namespace", "culvert-system"]).arg(chart());
        run::read(&mut lint)?;
        for (directory, values) in SAME {
            let kustomized = self.kustomized(directory)?;
            let values: Vec<&str> = values.iter().flat_map(|value| ["--set", value]).collect();
            equal(directory, &kustomized, &self.charted(&values)?)?;
        }
        let with_istio = self.kustomized("overlays/with-istio")?;
        if with_istio.keys().any(|key| key.contains("CustomResourceDefinition")) {
            bail!("overlays/with-istio brings definitions of its own");
        }
        self.parts()?;
        for words in REFUSED {
            if self.charted(words).is_ok() {
                bail!("the chart takes `{}`", words.join(" "));
            }
        }
        Ok(())
    }

    /// What is turned on or off by a value.
    fn parts(&self) -> Result<()> {
        let usual = self.charted(&[])?;
        let cases = [
            ("podMonitor.enabled=true", "PodMonitor culvert-system/culvert", true),
            ("priorityQuota.enabled=true", "ResourceQuota culvert-system/culvert-priority", true),
            ("networkPolicy.enabled=false", "NetworkPolicy culvert-system/culvert-ca", false),
        ];
        for (value, object, there) in cases {
            let has = |objects: &Objects| objects.keys().any(|key| key.ends_with(object));
            let changed = self.charted(&["--set", value])?;
            if has(&changed) != there || has(&usual) == there {
                bail!("{value} does not decide about {object}");
            }
        }
        let without = self.charted(&["--set", "cni.enabled=false"])?;
        let agent = |objects: &Objects| {
            objects
                .iter()
                .find(|(key, _)| key.contains("DaemonSet"))
                .map(|(_, agent)| agent.pointer("/spec/template/spec").map(Value::to_string))
        };
        let mentions =
            |objects: &Objects| agent(objects).flatten().is_some_and(|spec| spec.contains("cni-"));
        if mentions(&without) || !mentions(&usual) {
            bail!("cni.enabled does not decide about the plugin");
        }
        Ok(())
    }

    fn kustomized(&self, directory: &str) -> Result<Objects> {
        let mut kubectl = Command::new(&self.kubectl);
        kubectl.arg("kustomize").arg(paths::root().join("daemonset").join(directory));
        let mut objects = objects(&run::read(&mut kubectl)?)?;
        objects.remove("v1 Namespace /culvert-system");
        Ok(objects)
    }

    fn charted(&self, words: &[&str]) -> Result<Objects> {
        let mut helm = self.helm();
        helm.args(["template", "culvert"]).arg(chart()).arg("--include-crds");
        if !words.contains(&"--namespace") {
            helm.args(["--namespace", "culvert-system"]);
        }
        helm.args(words);
        objects(&run::read(&mut helm)?)
    }

    /// Helm, with no settings of whoever runs this.
    fn helm(&self) -> Command {
        let mut helm = Command::new(&self.helm);
        helm.env_remove("HELM_NAMESPACE").env_remove("KUBECONFIG");
        helm
    }
}

fn chart() -> PathBuf {
    paths::root().join("daemonset/chart")
}

/// Reads a stream of documents. What only the chart has, and how a text is laid out, is evened out.
fn objects(text: &str) -> Result<Objects> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)
        .map_err(|error| anyhow::anyhow!("what was rendered is no YAML: {error}"))?;
    let mut objects = Objects::new();
    for mut document in documents.into_iter().filter(|document| !document.is_null()) {
        let word = |pointer: &str| {
            document.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let key = format!(
            "{} {} {}/{}",
            word("/apiVersion"),
            word("/kind"),
            word("/metadata/namespace"),
            word("/metadata/name")
        );
        if let Some(annotations) = document.pointer_mut("/spec/template/metadata/annotations") {
            annotations.as_object_mut().map(|map| map.remove("checksum/config"));
        }
        if let Some(text) = document.pointer_mut("/data/agent.yaml") {
            *text = serde_saphyr::from_str(text.as_str().unwrap_or_default())
                .with_context(|| format!("{key}: agent.yaml"))?;
        }
        if objects.insert(key.clone(), document).is_some() {
            bail!("{key} is there twice");
        }
    }
    Ok(objects)
}

fn equal(directory: &str, kustomized: &Objects, charted: &Objects) -> Result<()> {
    for key in kustomized.keys().chain(charted.keys()) {
        let (ours, theirs) = (kustomized.get(key), charted.get(key));
        if ours != theirs {
            let shown = |value: Option<&Value>| {
                value.map_or_else(|| "nothing".to_owned(), |value| format!("{value:#}"))
            };
            bail!("{key}: {directory} has\n{}\nthe chart has\n{}", shown(ours), shown(theirs));
        }
    }
    Ok(())
}

/// The programs of the Kubernetes lab.
pub(super) fn found() -> Result<Programs> {
    let (kubectl, helm) = k8s::clients()?;
    Ok(Programs { helm, kubectl })
}
