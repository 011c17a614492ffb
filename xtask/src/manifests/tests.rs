//! The marks, and that the chart in the tree is what the base makes.

use super::{PARTS, generate, read, template};
use crate::{image, paths};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;

fn daemonset() -> PathBuf {
    paths::root().join("daemonset")
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The chart's default of a name.
fn default(values: &Value, path: &str) -> Value {
    let pointer = format!("/{}", path.replace('.', "/"));
    values.pointer(&pointer).unwrap_or_else(|| panic!("values.yaml lacks {path}")).clone()
}

fn values() -> Value {
    yaml(&read(&daemonset().join("chart/values.yaml")).unwrap())
}

#[test]
fn marks_become_templates_by_the_form_of_their_default() {
    let manifest = "\
a:
  one: 1 # value: n
  - item # value: i
  some: # value: b.m
    x: y
    z: {}
  # a comment
  text: | # value: t
    k: v

    l: w
  # chart: {{- if .Values.e }}
  last: true
";
    let expected = "\
a:
  one: {{ .Values.n | toJson }}
  - {{ .Values.i | toJson }}
  some:
{{- toYaml .Values.b.m | nindent 4 }}
  # a comment
  text: |
{{- toYaml .Values.t | nindent 4 }}
  {{- if .Values.e }}
  last: true
";
    assert_eq!(template::of(manifest, None).unwrap(), expected);
    let marks = template::marks(manifest).unwrap();
    let defaults: Vec<_> = marks.iter().map(|mark| (&*mark.path, yaml(&mark.default))).collect();
    assert_eq!(
        defaults,
        [
            ("n", yaml("1")),
            ("i", yaml("item")),
            ("b.m", yaml("{x: y, z: {}}")),
            ("t", yaml("{k: v, l: w}")),
        ]
    );
}

#[test]
fn condition_wraps_the_whole() {
    let text = template::of("a: 1\n", Some("x.enabled")).unwrap();
    assert_eq!(text, "{{- if .Values.x.enabled }}\na: 1\n{{- end }}\n");
}

#[test]
fn mark_that_would_do_nothing_is_refused() {
    for manifest in
        ["a: 1 # value:n\n", "a: {{ x }}\n", "a: 1 # chart: x\n", "a: # value: n\nb: 1\n"]
    {
        assert!(template::of(manifest, None).is_err(), "{manifest}");
    }
}

#[test]
fn chart_in_the_tree_is_what_the_base_makes() {
    generate(true).unwrap();
}

#[test]
fn line_that_an_overlay_changes_must_be_there_once() {
    use super::changed;
    let text = changed("a: 1\nb: 2\n", &[("b: 2\n", "b: 3\n")]).unwrap();
    assert!(text.ends_with("\na: 1\nb: 3\n"), "{text}");
    assert!(changed("a: 1\n", &[("b: 2\n", "b: 3\n")]).is_err());
    assert!(changed("b: 2\nb: 2\n", &[("b: 2\n", "b: 3\n")]).is_err());
}

#[test]
fn chart_has_every_manifest_of_the_base() {
    let kustomization = yaml(&read(&daemonset().join("base/kustomization.yaml")).unwrap());
    let listed = kustomization["resources"].as_array().unwrap();
    for name in listed.iter().filter_map(Value::as_str).filter(|name| *name != "namespace.yaml") {
        let source = format!("base/{name}");
        assert!(PARTS.iter().any(|part| part.source == source), "{source}");
    }
}

#[test]
fn defaults_of_the_chart_are_those_of_the_base() {
    let values = values();
    for part in PARTS {
        for mark in template::marks(&read(&daemonset().join(part.source)).unwrap()).unwrap() {
            let own = yaml(&mark.default);
            assert_eq!(default(&values, &mark.path), own, "{} in {}", mark.path, part.source);
        }
    }
}

#[test]
fn every_value_of_the_chart_is_used() {
    let mut used = BTreeSet::new();
    for part in PARTS {
        let text = template::of(&read(&daemonset().join(part.source)).unwrap(), part.condition);
        let text = text.unwrap();
        for place in text.split(".Values.").skip(1) {
            let end = place.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '.');
            used.insert(place[..end.unwrap_or(place.len())].to_owned());
        }
    }
    let mut unused = Vec::new();
    leaves(&values(), "", &used, &mut unused);
    assert!(unused.is_empty(), "nothing takes {unused:?}");
}

/// Values that no template names, neither themselves nor a map above them.
fn leaves(value: &Value, path: &str, used: &BTreeSet<String>, unused: &mut Vec<String>) {
    if used.contains(path) {
        return;
    }
    match value.as_object().filter(|map| !map.is_empty()) {
        Some(map) => {
            for (key, value) in map {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                leaves(value, &below, used, unused);
            }
        }
        None => unused.push(path.to_owned()),
    }
}

#[test]
fn versions_are_the_workspaces() {
    let version = env!("CARGO_PKG_VERSION");
    let chart = yaml(&read(&daemonset().join("chart/Chart.yaml")).unwrap());
    assert_eq!(chart["version"], version);
    assert_eq!(chart["appVersion"], version);
    assert_eq!(values()["image"], image::default_name());
}
