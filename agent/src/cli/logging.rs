//! `culvert logging [LEVEL]`: the level of agents' logs, told and changed while they run.

use clap::Args;

use super::context::Context;
use super::error::CliError;
use super::exit::Exit;
use super::output::{colours, print};
use super::show::Asked;
use super::table::{Cell, Table};
use super::transport::{Answers, Ask};
use crate::admin::model::Logging;

/// `culvert logging`.
#[derive(Args)]
pub(super) struct Command {
    #[command(flatten)]
    asked: Asked,
    /// The filter to put in force, such as `debug` or `info,culvert_agent::tunnel=debug`.
    level: Option<String>,
    /// Put what the configuration says in force again.
    #[arg(long, conflicts_with = "level")]
    reset: bool,
}

/// Prints the filter in force, after putting another in force where one was given.
pub(super) fn run(command: &Command, context: &Context) -> Result<Exit, CliError> {
    let transport = command.asked.transport(context)?;
    let mut answers: Answers<Logging> = transport.ask(&ask(command));
    let exit = answers.complete()?;
    if command.asked.output.is_table() {
        let mut table = Table::new(["NODE", "LEVEL"]);
        for good in &answers.good {
            table.push([Cell::or_dash(good.node.as_deref()), good.answer.level.as_str().into()]);
        }
        print(&table.render(colours()))?;
    } else {
        command.asked.document(&answers)?;
    }
    Ok(exit)
}

fn ask(command: &Command) -> Ask {
    match &command.level {
        Some(level) => Ask::post(format!("/logging?level={}", encoded(level))),
        None if command.reset => Ask::post("/logging?reset=1"),
        None => Ask::get("/logging"),
    }
}

/// A value of a query (RFC 3986, section 2.3): all but unreserved letters as `%XX`.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_survives_the_query() {
        assert_eq!(encoded("info,a::b=debug"), "info%2Ca%3A%3Ab%3Ddebug");
        assert_eq!(encoded("ü \n"), "%C3%BC%20%0A");
    }
}
