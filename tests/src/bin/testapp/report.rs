//! What the programs print.

use serde_json::{Value, json};
use std::io::{self, Write};

/// Prints one line at once, whatever the output is.
pub(crate) fn line(value: &Value) {
    let mut out = io::stdout().lock();
    // A reader that is gone is no fault of the program's.
    let _ = writeln!(out, "{value}");
    let _ = out.flush();
}

/// Prints `listening ADDRESS`, the sign that a server is ready.
pub(crate) fn listening(address: impl std::fmt::Display) {
    let mut out = io::stdout().lock();
    // As above.
    let _ = writeln!(out, "listening {address}");
    let _ = out.flush();
}

/// An error as an application would name it.
pub(crate) fn error(error: &io::Error) -> Value {
    json!({ "error": format!("{:?}", error.kind()), "errno": error.raw_os_error(),
            "text": error.to_string() })
}

/// How a stream ended, in one word or an error's name.
pub(crate) fn end(end: &io::Result<()>) -> Value {
    match end {
        Ok(()) => json!("fin"),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => json!("reset"),
        Err(error) => json!(format!("{:?}", error.kind())),
    }
}
