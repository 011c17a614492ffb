//! What counts of a document's metadata.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::REVISION;

/// What counts of a document's metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Name, unique in its namespace.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// `creationTimestamp` in nanoseconds since 1970.
    pub created: Option<i128>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

impl Metadata {
    /// The label `istio.io/rev`, when it names another revision than ours.
    pub fn other_revision(&self) -> Option<&str> {
        let revision = self.labels.get("istio.io/rev")?;
        (revision != REVISION).then_some(revision)
    }
}

impl From<&ObjectMeta> for Metadata {
    fn from(meta: &ObjectMeta) -> Self {
        Self {
            name: meta.name.clone().unwrap_or_default(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            created: meta.creation_timestamp.as_ref().map(|time| time.0.as_nanosecond()),
            labels: meta.labels.clone().unwrap_or_default(),
            annotations: meta.annotations.clone().unwrap_or_default(),
        }
    }
}
