//! Walking through a document, with a note of all that is not as it should be.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::finding::{Code, Effect, Findings, Path, shown};

/// A mapping at its place. What is null is as if it were not there.
#[derive(Clone)]
pub(super) struct Fields<'a> {
    map: Option<&'a Map<String, Value>>,
    /// Where it stands.
    pub(super) path: Path,
}

/// A value that is not of the type that it should be; it was noted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unreadable;

impl<'a> Fields<'a> {
    /// The value as a mapping, of which only the fields `known` may be there.
    ///
    /// A field that is not known is noted and otherwise passed by; `unknown` is told of it.
    pub(super) fn new(
        value: &'a Value,
        path: Path,
        known: &[&str],
        findings: &mut Findings,
    ) -> Result<(Self, bool), Unreadable> {
        let map = match value {
            Value::Null => None,
            Value::Object(map) => Some(map),
            other => return Err(wrong_type(other, "a mapping", &path, findings)),
        };
        let mut unknown = false;
        for key in map.into_iter().flat_map(Map::keys) {
            if !known.contains(&key.as_str()) {
                unknown = true;
                let known = known.iter().map(|field| format!("`{field}`")).collect::<Vec<_>>();
                let text = format!("unknown field; expected one of {}", known.join(", "));
                findings.push(Effect::Refused, Code::UnknownField, path.key(key), text);
            }
        }
        Ok((Self { map, path }, unknown))
    }

    /// A field that is there and not null, with its place.
    pub(super) fn get(&self, key: &str) -> Option<(&'a Value, Path)> {
        let value = self.map?.get(key).filter(|value| !value.is_null())?;
        Some((value, self.path.key(key)))
    }

    /// A field that is a list; an empty one if it is not there.
    pub(super) fn list(
        &self,
        key: &str,
        findings: &mut Findings,
    ) -> Result<(&'a [Value], Path), Unreadable> {
        match self.get(key) {
            None => Ok((&[], self.path.key(key))),
            Some((Value::Array(items), path)) => Ok((items, path)),
            Some((other, path)) => Err(wrong_type(other, "a list", &path, findings)),
        }
    }

    /// A field that is a text.
    pub(super) fn text(
        &self,
        key: &str,
        findings: &mut Findings,
    ) -> Result<Option<(&'a str, Path)>, Unreadable> {
        self.get(key).map(|(value, path)| Ok((text(value, &path, findings)?, path))).transpose()
    }

    /// `selector.matchLabels`.
    pub(super) fn selector(
        &self,
        findings: &mut Findings,
    ) -> Result<BTreeMap<String, String>, Unreadable> {
        let Some((selector, path)) = self.get("selector") else { return Ok(BTreeMap::new()) };
        let (selector, unknown) = Fields::new(selector, path, &["matchLabels"], findings)?;
        if unknown {
            return Err(Unreadable);
        }
        let Some((labels, path)) = selector.get("matchLabels") else { return Ok(BTreeMap::new()) };
        let Value::Object(labels) = labels else {
            return Err(wrong_type(labels, "a mapping", &path, findings));
        };
        let pair = |(key, value): (&String, &Value)| {
            Ok((key.clone(), text(value, &path.key(key), findings)?.to_owned()))
        };
        labels.iter().map(pair).collect()
    }
}

/// The value as a text.
pub(super) fn text<'a>(
    value: &'a Value,
    path: &Path,
    findings: &mut Findings,
) -> Result<&'a str, Unreadable> {
    value.as_str().ok_or_else(|| wrong_type(value, "a string", path, findings))
}

/// Notes a value of the wrong type.
pub(super) fn wrong_type(
    value: &Value,
    expected: &str,
    path: &Path,
    findings: &mut Findings,
) -> Unreadable {
    let found = match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => format!("`{value}`"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("`{}`", shown(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    };
    let text = format!("found {found}; expected {expected}");
    findings.push(Effect::Refused, Code::Malformed, path.clone(), text);
    Unreadable
}
