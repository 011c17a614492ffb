//! YAML with errors that point at the file, the line and the column, and say what was expected.
//!
//! Shared by all files that a person writes for the agent.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_saphyr::{Location, MessageFormatter as _, UserMessageFormatter};

/// What is wrong at one place of a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}:{column}: {problem}", file.display())]
pub struct YamlError {
    /// The file as it was named.
    pub file: PathBuf,
    /// Line, from 1; 0 when the place is not known.
    pub line: u64,
    /// Column in characters, from 1; 0 when the place is not known.
    pub column: u64,
    /// The field, what is wrong with it, and what was expected.
    pub problem: String,
}

impl YamlError {
    /// An error at a place that the parser remembered.
    pub fn at(file: &Path, location: Location, problem: impl fmt::Display) -> Self {
        Self {
            file: file.to_owned(),
            line: location.line(),
            column: location.column(),
            problem: problem.to_string(),
        }
    }

    fn from_parser(file: &Path, text: &str, error: &serde_saphyr::Error) -> Self {
        let location = error.location().unwrap_or(Location::UNKNOWN);
        Self::at(file, location, describe(text, location, error.without_snippet()))
    }
}

/// Reads a file of one document.
///
/// # Errors
///
/// [`YamlError`] for a syntax error, an unknown, duplicate or missing field, a value of the wrong
/// type, or more than one document.
pub fn document<T: DeserializeOwned>(file: &Path, text: &str) -> Result<T, YamlError> {
    serde_saphyr::from_str_with_options(text, options())
        .map_err(|error| YamlError::from_parser(file, text, &error))
}

/// Reads a stream of documents; empty ones are left out.
///
/// # Errors
///
/// As [`document`], for any of the documents.
pub fn stream<T: DeserializeOwned>(file: &Path, text: &str) -> Result<Vec<T>, YamlError> {
    serde_saphyr::from_multiple_with_options(text, options())
        .map_err(|error| YamlError::from_parser(file, text, &error))
}

/// Reads a stream of documents of any form, in which only `true` and `false` are truth values: a
/// namespace may be called `n`.
///
/// # Errors
///
/// [`YamlError`] for a syntax error or a field that is given twice.
pub fn values(file: &Path, text: &str) -> Result<Vec<serde_json::Value>, YamlError> {
    let mut options = options();
    options.strict_booleans = true;
    let values: Vec<Option<serde_json::Value>> =
        serde_saphyr::from_multiple_with_options(text, options)
            .map_err(|error| YamlError::from_parser(file, text, &error))?;
    Ok(values.into_iter().flatten().collect())
}

/// Room for a mesh of a hundred thousand workloads; the parser's defaults end at some ten thousand.
/// What an alias can blow a small file up to stays as bounded as it is by default.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 20_000_000,
            max_nodes: 10_000_000,
            max_documents: 100_000,
        },
        with_snippet: false,
    }
}

fn describe(text: &str, location: Location, error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error as E;
    let field = field_at(text, location);
    let of_field = |problem: String| match &field {
        Some(field) => format!("`{field}`: {problem}"),
        None => problem,
    };
    match error {
        E::SerdeUnknownField { field, expected, .. } => {
            format!("unknown field `{field}`; expected one of {}", quoted(expected))
        }
        E::SerdeMissingField { field, .. } => format!("field `{field}` is missing"),
        E::DuplicateMappingKey { key: Some(key), .. } => {
            format!("field `{key}` is given twice; keep one of them")
        }
        E::SerdeUnknownVariant { variant, expected, .. } => {
            of_field(format!("unknown value `{variant}`; expected one of {}", quoted(expected)))
        }
        E::SerdeInvalidType { unexpected, expected, .. }
        | E::SerdeInvalidValue { unexpected, expected, .. } => {
            of_field(format!("found {unexpected}, expected {expected}"))
        }
        E::InvalidScalar { ty, .. } => of_field(format!("expected a value of type {ty}")),
        E::Unexpected { expected, .. } => of_field(format!("expected {expected}")),
        E::Message { msg, .. } => of_field(msg.clone()),
        other => of_field(UserMessageFormatter.format_message(other).into_owned()),
    }
}

fn quoted(names: &[&str]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

/// The dotted name of the field that the line belongs to, read off the indentation.
///
/// Good for block style, which is what people write; inside `{}` it names the field around them.
fn field_at(text: &str, location: Location) -> Option<String> {
    let line = usize::try_from(location.line()).ok()?.checked_sub(1)?;
    let lines: Vec<_> = text.lines().take(line + 1).collect();
    let mut depth = usize::MAX;
    let mut path = Vec::new();
    for line in lines.iter().skip(line).chain(lines.iter().take(line).rev()) {
        let Some((column, key)) = key_of(line) else { continue };
        if column < depth {
            depth = column;
            path.push(key);
        }
        if depth == 0 {
            break;
        }
    }
    path.reverse();
    (!path.is_empty()).then(|| path.join("."))
}

/// The column and the name of the key that a line begins with.
fn key_of(line: &str) -> Option<(usize, &str)> {
    let rest = line.trim_start_matches([' ', '-']);
    let column = line.len() - rest.len();
    let (key, after) = rest.split_once(':')?;
    let plain = !key.is_empty()
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/'));
    (plain && (after.is_empty() || after.starts_with(' '))).then_some((column, key))
}
