//! The files that a lab gives its agents.

use crate::lab::NodeId;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

/// What a pod is to be.
#[derive(Debug, Clone)]
pub struct PodSpec {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) service_account: String,
    pub(crate) node: NodeId,
    pub(crate) enrolled: bool,
    pub(crate) listed: bool,
    pub(crate) labels: BTreeMap<String, String>,
}

impl PodSpec {
    /// An enrolled pod of namespace `default` whose service account is called like itself, with
    /// the label `app` of the same value.
    pub fn new(name: &str, node: NodeId) -> Self {
        Self {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            service_account: name.to_owned(),
            node,
            enrolled: true,
            listed: true,
            labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
        }
    }

    /// Puts it into another namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// Gives it another service account.
    #[must_use]
    pub fn service_account(mut self, service_account: &str) -> Self {
        service_account.clone_into(&mut self.service_account);
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// In the file, with `enrolled: false`.
    #[must_use]
    pub fn not_enrolled(mut self) -> Self {
        self.enrolled = false;
        self
    }

    /// Not in the file at all: an address that the mesh knows nothing of.
    #[must_use]
    pub fn unlisted(mut self) -> Self {
        self.enrolled = false;
        self.listed = false;
        self
    }
}

/// One entry of `workloads.yaml`.
pub(crate) struct Entry<'a> {
    pub(crate) spec: &'a PodSpec,
    pub(crate) addresses: [IpAddr; 2],
    pub(crate) netns: &'a Path,
}

/// The text of `workloads.yaml`.
pub(crate) fn workloads<'a>(entries: impl Iterator<Item = Entry<'a>>) -> String {
    let mut text = String::from("workloads:\n");
    let mut none = true;
    for Entry { spec, addresses, netns } in entries.filter(|entry| entry.spec.listed) {
        none = false;
        let labels: Vec<_> =
            spec.labels.iter().map(|(key, value)| format!("{key:?}: {value:?}")).collect();
        let [v4, v6] = addresses;
        let _ = write!(
            text, // writing to a String does not fail
            "  - name: {}\n    namespace: {}\n    serviceAccount: {}\n    node: {}\n    \
             addresses: [\"{v4}\", \"{v6}\"]\n    labels: {{{}}}\n    enrolled: {}\n    \
             netns: {}\n",
            spec.name,
            spec.namespace,
            spec.service_account,
            spec.node.name(),
            labels.join(", "),
            spec.enrolled,
            netns.display(),
        );
    }
    if none {
        return "workloads: []\n".to_owned();
    }
    text
}

/// Settings of `agent.yaml`, by section; the empty section is the top of the file.
#[derive(Debug, Clone, Default)]
pub struct AgentSettings(BTreeMap<String, BTreeMap<String, String>>);

impl AgentSettings {
    /// Sets `section.key` to a value written as YAML has it.
    pub fn set(&mut self, section: &str, key: &str, value: impl Into<String>) {
        self.0.entry(section.to_owned()).or_default().insert(key.to_owned(), value.into());
    }

    /// These settings, with those of `other` over them.
    pub(crate) fn over(mut self, other: &Self) -> Self {
        for (section, values) in &other.0 {
            self.0.entry(section.clone()).or_default().extend(values.clone());
        }
        self
    }

    /// The text of the file.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (section, values) in &self.0 {
            let indent = if section.is_empty() { "" } else { "  " };
            if !section.is_empty() {
                let _ = writeln!(text, "{section}:"); // writing to a String does not fail
            }
            for (key, value) in values {
                let _ = writeln!(text, "{indent}{key}: {value}"); // the same
            }
        }
        text
    }
}

/// Replaces a file as a whole: a reader sees the old text or the new one.
pub(crate) fn replace(path: &Path, text: &str) -> Result<()> {
    let beside = path.with_extension("new");
    fs::write(&beside, text)
        .and_then(|()| fs::rename(&beside, path))
        .with_context(|| format!("could not write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::AgentSettings;

    #[test]
    fn settings_of_the_caller_win() {
        let mut ours = AgentSettings::default();
        ours.set("", "node", "node1");
        ours.set("ca", "address", "10.0.0.1:15012");
        ours.set("ca", "certificateTtl", "24h");
        let mut theirs = AgentSettings::default();
        theirs.set("ca", "certificateTtl", "10s");
        assert_eq!(
            ours.over(&theirs).text(),
            "node: node1\nca:\n  address: 10.0.0.1:15012\n  certificateTtl: 10s\n"
        );
    }
}
