//! The dashboards, as Grafana reads them.

use super::{Ask, Query, directory, expression};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;

/// One dashboard.
pub(super) struct Dashboard {
    /// Its name in Grafana's addresses.
    pub(super) uid: String,
    /// The whole of it.
    pub(super) json: Value,
}

/// All of them, by name.
pub(super) fn all() -> Result<Vec<Dashboard>> {
    let folder = directory().join("dashboards");
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let text = fs::read_to_string(&path)?;
            let json: Value =
                serde_json::from_str(&text).with_context(|| path.display().to_string())?;
            let uid = json["uid"].as_str().context("a dashboard has no uid")?.to_owned();
            found.push(Dashboard { uid, json });
        }
    }
    found.sort_by(|a, b| a.uid.cmp(&b.uid));
    Ok(found)
}

impl Dashboard {
    /// Its panels, without the headings of rows.
    pub(super) fn panels(&self) -> impl Iterator<Item = &Value> {
        list(&self.json["panels"]).filter(|panel| panel["type"] != "row")
    }

    /// Its variables that Prometheus fills.
    pub(super) fn variables(&self) -> impl Iterator<Item = &Value> {
        list(&self.json["templating"]["list"]).filter(|variable| variable["type"] == "query")
    }

    /// Everything that it asks.
    pub(super) fn queries(&self) -> Result<Vec<Query>> {
        let names: Vec<_> = self.variables().map(|variable| text(variable, "name")).collect();
        let mut queries = Vec::new();
        for panel in self.panels() {
            for target in list(&panel["targets"]) {
                let place = format!("{} / {}", self.uid, text(panel, "title"));
                let asked = expression::filled(&text(target, "expr"), &names);
                queries.push(Query { place, ask: Ask::Value(asked) });
            }
        }
        for variable in self.variables() {
            let place = format!("{} / ${}", self.uid, text(variable, "name"));
            queries.push(Query { place, ask: label_values(&text(&variable["query"], "query"))? });
        }
        for annotation in list(&self.json["annotations"]["list"]) {
            let place = format!("{} / {}", self.uid, text(annotation, "name"));
            queries.push(Query { place, ask: Ask::Value(text(annotation, "expr")) });
        }
        Ok(queries)
    }
}

/// `label_values(SERIES, LABEL)`, the one form of Grafana's that is used.
fn label_values(query: &str) -> Result<Ask> {
    let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
    let Some((series, label)) = inner.and_then(|inner| inner.rsplit_once(", ")) else {
        bail!("`{query}` is no label_values(SERIES, LABEL)");
    };
    Ok(Ask::Labels { label: label.to_owned(), series: series.to_owned() })
}

/// The members of a list that may be absent.
pub(super) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A text that may be absent.
pub(super) fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}
