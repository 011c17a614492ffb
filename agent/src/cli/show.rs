//! What commands that ask one thing have in common.

use clap::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::context::Context;
use super::error::CliError;
use super::exit::Exit;
use super::output::{Output, colours, print};
use super::transport::{Answers, Connect, Transport};

/// Which agents to ask, and in which form to print what they say.
#[derive(Args)]
pub(super) struct Asked {
    #[command(flatten)]
    pub(super) connect: Connect,
    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Output,
}

impl Asked {
    pub(super) fn transport(&self, context: &Context) -> Result<Transport, CliError> {
        Ok(Transport::open(&self.connect, context.plugin)?)
    }

    /// Asks every agent for `path`; prints what they said as it is, or for people what `table`
    /// makes of it.
    pub(super) fn show<T: DeserializeOwned>(
        &self,
        transport: &Transport,
        path: &str,
        table: impl FnOnce(&Answers<T>, bool) -> String,
    ) -> Result<Exit, CliError> {
        if self.output.is_table() {
            let mut answers: Answers<T> = transport.get(path);
            let exit = answers.complete()?;
            print(&table(&answers, colours()))?;
            return Ok(exit);
        }
        // Not by way of T, which leaves out what a newer agent says besides.
        let mut answers: Answers<serde_json::Value> = transport.get(path);
        let exit = answers.complete()?;
        self.document(&answers)?;
        Ok(exit)
    }

    /// Prints answers in a form for programs.
    pub(super) fn document<T: Serialize>(&self, answers: &Answers<T>) -> Result<(), CliError> {
        match self.output.document(&answers.document())? {
            Some(text) => print(&text),
            None => Ok(()),
        }
    }
}
