//! That dashboards, rules, their tests and their pages are whole and fit together.

use super::dashboards::{self, Dashboard, list, text};
use super::{Ask, expression, others, rules};
use crate::paths;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;

fn page(name: &str) -> String {
    fs::read_to_string(paths::root().join("docs").join(name)).unwrap()
}

/// The metrics that are documented, without the recorded ones.
fn documented() -> BTreeSet<String> {
    let page = page("metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned())).collect()
}

/// The name under which docs/metrics.md has a metric: a histogram is one there.
fn family(metric: &str) -> &str {
    ["_bucket", "_count", "_sum"]
        .iter()
        .find_map(|suffix| metric.strip_suffix(suffix))
        .unwrap_or(metric)
}

fn unknown(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut known = documented();
    known
        .extend(rules::all().unwrap().into_iter().filter(|rule| !rule.alert).map(|rule| rule.name));
    let is_known = |name: &String| known.contains(name) || known.contains(family(name));
    names.into_iter().filter(|name| !is_known(name)).collect()
}

#[test]
fn names_are_found_outside_of_texts() {
    let found = expression::metrics(
        "sum by (x) (rate(culvert_a_total{b=\"culvert_no\"}[5m])) / culvert:rate:5m or vector(0)",
    );
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["culvert:rate:5m", "culvert_a_total"]);
    assert_eq!(family("culvert_x_seconds_bucket"), "culvert_x_seconds");
}

#[test]
fn variables_are_filled_with_all() {
    let filled = expression::filled("rate(a{n=~\"$node\"}[$__rate_interval])", &["node".into()]);
    assert_eq!(filled, "rate(a{n=~\".*\"}[30s])");
}

#[test]
fn every_metric_asked_for_is_documented() {
    for dashboard in dashboards::all().unwrap() {
        for query in dashboard.queries().unwrap() {
            let unknown = unknown(query.ask.metrics());
            assert!(unknown.is_empty(), "{}: {unknown:?}", query.place);
            assert!(!query.ask.to_string().contains('$'), "{}: {}", query.place, query.ask);
        }
    }
    for rule in rules::all().unwrap() {
        let unknown = unknown(expression::metrics(&rule.expression));
        assert!(unknown.is_empty(), "{}: {unknown:?}", rule.name);
    }
    for query in others::all() {
        let Ask::Value(asked) = &query.ask else { panic!("{}", query.place) };
        assert!(unknown(expression::metrics(asked)).is_empty(), "{asked}");
    }
}

#[test]
fn every_alert_has_a_severity_a_text_and_its_runbook() {
    let page = page("alerts.md");
    let rules = rules::documents().unwrap();
    let alerts: Vec<_> = rules.iter().filter(|rule| rule["alert"].is_string()).collect();
    for alert in &alerts {
        let name = text(alert, "alert");
        let annotations = &alert["annotations"];
        let severity = text(&alert["labels"], "severity");
        assert!(["critical", "warning", "info"].contains(&&*severity), "{name}: {severity}");
        for key in ["summary", "description"] {
            assert!(!text(annotations, key).is_empty(), "{name} has no {key}");
        }
        let anchor = format!("docs/alerts.md#{}", name.to_lowercase());
        assert_eq!(text(annotations, "runbook"), anchor, "{name}");
        assert!(page.contains(&format!("\n### {name}\n")), "docs/alerts.md lacks {name}");
    }
    for heading in page.lines().filter_map(|line| line.strip_prefix("### ")) {
        assert!(alerts.iter().any(|alert| alert["alert"] == heading), "{heading} is no alert");
    }
}

#[test]
fn every_alert_is_tested_silent_and_firing() {
    let mut silent = BTreeSet::new();
    let mut firing = BTreeSet::new();
    for file in rules::tests().unwrap() {
        let tests = rules::yaml(&file).unwrap();
        for test in list(&tests["tests"]) {
            let name = text(test, "name");
            for check in list(&test["promql_expr_test"]) {
                let asked = text(check, "expr");
                assert!(asked.contains(&format!("alertname=\"{name}\",alertstate=\"firing\"")));
                let fires = list(&check["exp_samples"]).next().is_some();
                if fires { &mut firing } else { &mut silent }.insert(name.clone());
            }
        }
    }
    for alert in rules::all().unwrap().into_iter().filter(|rule| rule.alert) {
        assert!(silent.contains(&alert.name), "{} is never expected silent", alert.name);
        assert!(firing.contains(&alert.name), "{} is never expected to fire", alert.name);
    }
}

#[test]
fn dashboards_are_whole() {
    let all = dashboards::all().unwrap();
    let names: Vec<_> = all.iter().map(|dashboard| dashboard.uid.as_str()).collect();
    assert_eq!(names, ["culvert-identity", "culvert-node", "culvert-overview", "culvert-policy"]);
    for dashboard in &all {
        panels_are_whole(dashboard);
        let first = &dashboard.json["templating"]["list"][0];
        assert_eq!(
            (text(first, "type").as_str(), text(first, "name").as_str()),
            ("datasource", "datasource")
        );
        for variable in dashboard.variables() {
            assert_eq!(variable["datasource"]["uid"], "${datasource}");
        }
    }
}

fn panels_are_whole(dashboard: &Dashboard) {
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in list(&dashboard.json["panels"]) {
        let what = format!("{}: {}", dashboard.uid, panel["title"]);
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{what}: its id is taken");
        let side = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(side("x") + side("w") <= 24, "{what} is too wide");
        for x in side("x")..side("x") + side("w") {
            for y in side("y")..side("y") + side("h") {
                assert!(taken.insert((x, y)), "{what} lies on another");
            }
        }
        assert!(panel["libraryPanel"].is_null(), "{what} is a library panel");
    }
    for panel in dashboard.panels() {
        let what = format!("{}: {}", dashboard.uid, panel["title"]);
        assert!(!text(panel, "description").is_empty(), "{what} has no description");
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{what} has no unit");
        assert!(list(&panel["targets"]).next().is_some(), "{what} asks nothing");
        let sources = list(&panel["targets"]).map(|target| &target["datasource"]);
        for source in sources.chain([&panel["datasource"]]) {
            assert_eq!(source["uid"], "${datasource}", "{what}");
        }
    }
}

/// What Kustomize makes into objects are the files that are tested.
#[test]
fn components_name_every_file() {
    let dashboards =
        rules::yaml(&super::directory().join("dashboards/kustomization.yaml")).unwrap();
    let named: BTreeSet<_> = list(&dashboards["configMapGenerator"])
        .flat_map(|map| list(&map["files"]))
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let there: BTreeSet<_> =
        dashboards::all().unwrap().iter().map(|one| format!("{}.json", one.uid)).collect();
    assert_eq!(named, there);
    let resource = rules::yaml(&super::directory().join("alerts/prometheusrule.yaml")).unwrap();
    assert_eq!(resource["spec"], rules::yaml(&rules::file()).unwrap());
}
