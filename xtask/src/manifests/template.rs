//! A manifest turned into a template of the chart, by two marks in its comments:
//!
//! - `key: default # value: some.path` takes the value of that name instead. The default may be a
//!   scalar or flow on the line, a block below it, or a literal text (`|`).
//! - `# chart: TEXT` on a line of its own stands in the chart without the mark.
//!
//! In the base both are comments, and say to its reader what the chart makes of the place.

use anyhow::{Result, bail};

const VALUE: &str = " # value: ";
const CHART: &str = "# chart: ";

/// A place of a manifest that takes a value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The value's name, `agent.resources`.
    pub(super) path: String,
    /// Its default as the base has it: YAML, not indented.
    pub(super) default: String,
}

/// One thing of a manifest.
enum Piece<'a> {
    /// A line that stays as it is.
    Plain(&'a str),
    /// A line for the chart only.
    Chart { indent: &'a str, text: &'a str },
    /// A line with a mark: what stands before its value, and the value with its form.
    Marked { before: &'a str, form: Form, mark: Mark },
}

/// How a default is written.
#[derive(Clone, Copy)]
enum Form {
    Inline,
    Block { indent: usize },
    Literal { indent: usize },
}

/// The chart's template of a manifest.
pub(super) fn of(manifest: &str, condition: Option<&str>) -> Result<String> {
    let mut out = String::new();
    let mut put = |line: &str| {
        out.push_str(line);
        out.push('\n');
    };
    if let Some(condition) = condition {
        put(&format!("{{{{- if .Values.{condition} }}}}"));
    }
    for piece in pieces(manifest)? {
        match piece {
            Piece::Plain(line) => put(line),
            Piece::Chart { indent, text } => put(&format!("{indent}{text}")),
            Piece::Marked { before, form, mark } => match form {
                Form::Inline => put(&format!("{before} {{{{ .Values.{} | toJson }}}}", mark.path)),
                Form::Block { indent } => {
                    put(before);
                    put(&format!("{{{{- toYaml .Values.{} | nindent {indent} }}}}", mark.path));
                }
                Form::Literal { indent } => {
                    put(&format!("{before} |"));
                    put(&format!("{{{{- toYaml .Values.{} | nindent {indent} }}}}", mark.path));
                }
            },
        }
    }
    if condition.is_some() {
        put("{{- end }}");
    }
    Ok(out)
}

/// Every mark of a manifest.
#[cfg(test)]
pub(super) fn marks(manifest: &str) -> Result<Vec<Mark>> {
    let pieces = pieces(manifest)?.into_iter();
    Ok(pieces
        .filter_map(|piece| match piece {
            Piece::Marked { mark, .. } => Some(mark),
            _ => None,
        })
        .collect())
}

fn pieces(manifest: &str) -> Result<Vec<Piece<'_>>> {
    let lines: Vec<&str> = manifest.lines().collect();
    let mut pieces = Vec::new();
    let mut at = 0;
    while let Some(line) = lines.get(at).copied() {
        at += 1;
        let body = line.trim_start();
        let indent = &line[..line.len() - body.len()];
        if let Some(text) = body.strip_prefix(CHART) {
            pieces.push(Piece::Chart { indent, text });
            continue;
        }
        let Some((text, path)) = line.split_once(VALUE) else {
            if line.contains("{{") || line.contains("# value:") || line.contains("# chart:") {
                bail!("line {at}: not a mark, and not a plain line: {line}");
            }
            pieces.push(Piece::Plain(line));
            continue;
        };
        let below = lines[at..].iter().take_while(|next| is_below(next, indent.len())).count();
        let (piece, taken) =
            marked(text, path.trim(), &lines[at..at + below]).ok_or_else(|| {
                anyhow::anyhow!("line {at}: no value that a mark can stand for: {line}")
            })?;
        at += taken;
        pieces.push(piece);
    }
    Ok(pieces)
}

/// Whether a line belongs to the value of a key at this depth.
fn is_below(line: &str, indent: usize) -> bool {
    let own = line.len() - line.trim_start().len();
    line.trim().is_empty() || own > indent
}

/// A marked line, and how many of the lines below it are its value.
fn marked<'a>(text: &'a str, path: &str, below: &[&str]) -> Option<(Piece<'a>, usize)> {
    let body = text.trim_start();
    let start = text.len() - body.len();
    // The value stands behind the key, or behind the dash of an item without one.
    let end = match body.find(": ") {
        Some(colon) => start + colon + 1,
        None if body.ends_with(':') => text.len(),
        None if body.starts_with("- ") => start + 1,
        None => return None,
    };
    let (before, inline) = (&text[..end], text[end..].trim());
    let path = path.to_owned();
    if !inline.is_empty() && inline != "|" {
        let mark = Mark { path, default: inline.to_owned() };
        return Some((Piece::Marked { before, form: Form::Inline, mark }, 0));
    }
    let indent = below
        .iter()
        .find(|line| !line.trim().is_empty())
        .map(|line| line.len() - line.trim_start().len())?;
    let lines: Vec<&str> =
        below.iter().map(|line| line.get(indent..).unwrap_or_default()).collect();
    let default = lines.join("\n") + "\n";
    let form = if inline == "|" { Form::Literal { indent } } else { Form::Block { indent } };
    Some((Piece::Marked { before, form, mark: Mark { path, default } }, below.len()))
}
