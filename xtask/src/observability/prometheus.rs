//! A real Prometheus in the lab, and its answers.

use super::dashboards::list;
use super::{Ask, rules};
use anyhow::{Context, Result, ensure};
use culvert_tests::{Netns, Place, Process, SOON, until};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

/// Where it listens, in the network namespace of node 1.
const PORT: u16 = 9090;

/// Something that it scrapes.
pub(super) struct Target {
    /// Address and port.
    pub(super) address: String,
    /// The label that the pod monitor gives.
    pub(super) node: &'static str,
}

/// The running program.
pub(super) struct Prometheus {
    netns: Netns,
    targets: usize,
    // Ended with it.
    _process: Process,
}

impl Prometheus {
    /// Starts it in a place, with our rules, and waits until it answers. It scrapes and evaluates
    /// each second.
    pub(super) fn start(place: &Place, directory: &Path, targets: &[Target]) -> Result<Self> {
        let settings = directory.join("prometheus.yml");
        fs::write(&settings, configuration(targets))?;
        let words = [
            "prometheus".to_owned(),
            format!("--config.file={}", settings.display()),
            format!("--storage.tsdb.path={}", directory.join("prometheus").display()),
            format!("--web.listen-address=127.0.0.1:{PORT}"),
        ];
        let process = place.spawn(&words)?;
        let netns = place.netns().clone();
        let prometheus = Self { netns, targets: targets.len(), _process: process };
        until("Prometheus to be ready", SOON, || prometheus.get("/-/ready").ok())?;
        Ok(prometheus)
    }

    /// Whether a question has an answer that is not empty and not only NaN.
    pub(super) fn has_data(&self, ask: &Ask) -> Result<bool> {
        match ask {
            Ask::Value(expression) => {
                let data = self.query(expression)?;
                Ok(list(&data["result"])
                    .any(|sample| sample["value"][1].as_str().is_some_and(|value| value != "NaN")))
            }
            Ask::Labels { label, series } => {
                let series = encoded(series);
                let values = self.api(&format!("/api/v1/label/{label}/values?match[]={series}"))?;
                Ok(list(&values).next().is_some())
            }
        }
    }

    /// An expression's value now.
    pub(super) fn query(&self, expression: &str) -> Result<Value> {
        self.api(&format!("/api/v1/query?query={}", encoded(expression)))
    }

    /// Every name of a metric that it has.
    pub(super) fn names(&self) -> Result<BTreeSet<String>> {
        let names = self.api("/api/v1/label/__name__/values")?;
        Ok(list(&names).filter_map(Value::as_str).map(str::to_owned).collect())
    }

    /// Its rules, with how they fared.
    pub(super) fn rules(&self) -> Result<Vec<Value>> {
        let data = self.api("/api/v1/rules")?;
        Ok(list(&data["groups"]).flat_map(|group| list(&group["rules"])).cloned().collect())
    }

    /// Waits until every target has answered.
    pub(super) fn scraped(&self) -> Result<String> {
        let up = || Some(list(&self.query("up == 1").ok()?["result"]).count());
        let all = until("every target to answer", SOON, || (up()? == self.targets).then_some(()));
        all.with_context(|| format!("targets: {:?}", self.query("up").ok()))?;
        let series = self.query("sum(scrape_samples_scraped)")?;
        Ok(format!("{} targets, {} samples", self.targets, series["result"][0]["value"][1]))
    }

    fn api(&self, path: &str) -> Result<Value> {
        let body = self.get(path)?;
        let answer: Value = serde_json::from_str(&body).context("Prometheus answered no JSON")?;
        ensure!(answer["status"] == "success", "Prometheus says {}", answer["error"]);
        Ok(answer["data"].clone())
    }

    fn get(&self, path: &str) -> Result<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        let (status, body) = culvert_tests::get(&self.netns, address, path)?;
        ensure!(status == 200, "Prometheus answers {status}: {}", body.trim());
        Ok(body)
    }
}

fn configuration(targets: &[Target]) -> String {
    let mut text = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{:?}]\n\
         scrape_configs:\n  - job_name: culvert\n    static_configs:\n",
        rules::file(),
    );
    for Target { address, node } in targets {
        let _ = writeln!(
            text, // writing to a String does not fail
            "      - targets: [\"{address}\"]\n        labels: {{node: {node}}}",
        );
    }
    text
}

/// A text as it may stand in the query of an address.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}"); // writing to a String does not fail
        }
    }
    out
}
