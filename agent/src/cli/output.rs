//! In which form an answer is printed: a table for people, JSON or YAML for programs.

use std::io::{IsTerminal as _, Write as _};

use clap::ValueEnum;
use serde::Serialize;

use super::error::CliError;

/// Form of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns for people.
    #[default]
    Table,
    /// Columns for people, more of them.
    Wide,
    /// For programs.
    Json,
    /// For programs and people.
    Yaml,
}

impl Output {
    /// Prints `value` as JSON or YAML, or else what `table` makes; the argument of `table` says
    /// whether colours are wanted.
    pub fn print<T: Serialize>(
        self,
        value: &T,
        table: impl FnOnce(bool) -> String,
    ) -> Result<(), CliError> {
        match self.document(value)? {
            Some(text) => print(&text),
            None => print(&table(colours())),
        }
    }

    /// The text of a value in a form for programs; none in the form for people.
    pub fn document<T: Serialize>(self, value: &T) -> Result<Option<String>, CliError> {
        match self {
            Self::Table | Self::Wide => Ok(None),
            Self::Json => {
                let mut text = serde_json::to_string_pretty(value).map_err(CliError::Json)?;
                text.push('\n');
                Ok(Some(text))
            }
            Self::Yaml => {
                let mut text = serde_saphyr::to_string(value).map_err(CliError::Yaml)?;
                if !text.ends_with('\n') {
                    text.push('\n');
                }
                Ok(Some(text))
            }
        }
    }

    /// Whether people read it.
    pub fn is_table(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}

/// Whether standard output is a terminal that nobody asked to keep colours from
/// (<https://no-color.org>).
pub fn colours() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
    !unwanted && !dumb && std::io::stdout().is_terminal()
}

/// Like `print!`, but a reader that has seen enough is no error.
pub fn print(text: &str) -> Result<(), CliError> {
    is_read(text).map(|_| ())
}

/// Prints, and says whether somebody still reads: for what would go on for ever.
pub(super) fn is_read(text: &str) -> Result<bool, CliError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(CliError::Print(error)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_form_for_programs_holds_the_whole_value() {
        let value = json!({"node": "node1", "identities": [{"id": "x", "failures": 0}]});
        let text = Output::Json.document(&value).unwrap().unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
        let text = Output::Yaml.document(&value).unwrap().unwrap();
        assert_eq!(serde_saphyr::from_str::<serde_json::Value>(&text).unwrap(), value);
        assert!(text.ends_with('\n') && text.contains("node: node1"), "{text}");
        assert_eq!(Output::Table.document(&value).unwrap(), None);
    }
}
