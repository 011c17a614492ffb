//! From files to documents: YAML streams, JSON, and Lists taken apart.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::OfflineError;
use crate::config::yaml;

/// The most a file may hold: some hundred thousand workloads.
const MOST_BYTES: u64 = 64 << 20;
/// How deep Lists may stand in Lists.
const MOST_NESTED: usize = 4;

/// A file that was read.
pub(super) struct Input {
    /// As it was named.
    pub(super) file: PathBuf,
    pub(super) text: String,
    pub(super) documents: Vec<Document>,
}

/// One document of a file, or one item of a List in it.
pub(super) struct Document {
    /// Its place among those of its file, from 1.
    pub(super) number: usize,
    pub(super) value: Value,
    /// Whether it was an item of a List.
    listed: bool,
}

impl Input {
    /// Whether no document was an item of a List.
    pub(super) fn is_stream(&self) -> bool {
        self.documents.iter().all(|document| !document.listed)
    }
}

impl Document {
    /// Its `kind`.
    pub(super) fn kind(&self) -> Option<&str> {
        self.value.get("kind").and_then(Value::as_str)
    }

    /// Its `apiVersion`.
    pub(super) fn api_version(&self) -> &str {
        self.value.get("apiVersion").and_then(Value::as_str).unwrap_or_default()
    }

    /// The group of its `apiVersion`; empty for the core's.
    pub(super) fn group(&self) -> &str {
        self.api_version().split_once('/').map_or("", |(group, _)| group)
    }

    /// The version of its `apiVersion`.
    pub(super) fn version(&self) -> &str {
        self.api_version().rsplit('/').next().unwrap_or_default()
    }
}

/// Reads every file, each once however often it is named.
pub(super) fn read(paths: &[PathBuf]) -> Result<Vec<Input>, OfflineError> {
    let mut inputs: Vec<Input> = Vec::new();
    for path in expanded(paths)? {
        if inputs.iter().any(|input| input.file == path) {
            continue;
        }
        let text = text(&path)?;
        inputs.push(parse(path, text)?);
    }
    Ok(inputs)
}

/// Directories are the files in them, in order.
fn expanded(paths: &[PathBuf]) -> Result<Vec<PathBuf>, OfflineError> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let refuse = |source| OfflineError::Read { path: path.clone(), source };
        let mut inside = Vec::new();
        for entry in fs::read_dir(path).map_err(refuse)? {
            let file = entry.map_err(refuse)?.path();
            let ending = file.extension().and_then(|ending| ending.to_str());
            if matches!(ending, Some("yaml" | "yml" | "json")) && file.is_file() {
                inside.push(file);
            }
        }
        inside.sort();
        files.extend(inside);
    }
    Ok(files)
}

fn text(path: &Path) -> Result<String, OfflineError> {
    let refuse = |source| OfflineError::Read { path: path.to_owned(), source };
    let source: Box<dyn io::Read> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(fs::File::open(path).map_err(refuse)?)
    };
    let mut text = String::new();
    source.take(MOST_BYTES + 1).read_to_string(&mut text).map_err(refuse)?;
    if u64::try_from(text.len()).is_ok_and(|length| length > MOST_BYTES) {
        return Err(OfflineError::TooLarge { path: path.to_owned(), most: MOST_BYTES });
    }
    Ok(text)
}

/// Takes the text of a file apart.
pub(super) fn parse(file: PathBuf, text: String) -> Result<Input, OfflineError> {
    let mut documents = Vec::new();
    for value in values(&file, &text)? {
        flatten(value, None, 0, &mut documents);
    }
    for (number, document) in (1..).zip(&mut documents) {
        document.number = number;
    }
    Ok(Input { file, text, documents })
}

fn values(file: &Path, text: &str) -> Result<Vec<Value>, OfflineError> {
    // JSON may be indented by what YAML does not take, and be several documents without a mark.
    if text.trim_start().starts_with(['{', '[']) {
        let read: Result<Vec<Value>, _> =
            serde_json::Deserializer::from_str(text).into_iter().collect();
        if let Ok(values) = read {
            return Ok(values);
        }
    }
    Ok(yaml::values(file, text)?)
}

/// A document, or the items of a List, which may leave `kind` and `apiVersion` to their list.
fn flatten(mut value: Value, of: Option<(&str, &str)>, depth: usize, found: &mut Vec<Document>) {
    if let (Some((kind, version)), Some(fields)) = (of, value.as_object_mut()) {
        fields.entry("kind").or_insert_with(|| json!(kind));
        fields.entry("apiVersion").or_insert_with(|| json!(version));
    }
    if let Value::Array(items) = value {
        items.into_iter().for_each(|item| flatten(item, None, depth + 1, found));
        return;
    }
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    let of_items = kind.strip_suffix("List");
    let items = of_items.and_then(|_| value.get_mut("items")).map(Value::take);
    match (of_items, items) {
        (Some(of_items), Some(Value::Array(items))) if depth < MOST_NESTED => {
            let version = value.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
            let of = (!of_items.is_empty()).then_some((of_items, version));
            items.into_iter().for_each(|item| flatten(item, of, depth + 1, found));
        }
        (Some(_), None | Some(Value::Null)) => {}
        (_, items) => {
            if let Some(items) = items {
                value["items"] = items;
            }
            found.push(Document { number: 0, value, listed: depth > 0 });
        }
    }
}
