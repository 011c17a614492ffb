//! `culvert config-dump`: everything that an agent has in force, without secrets.

use clap::Args;

use super::context::Context;
use super::error::CliError;
use super::exit::Exit;
use super::output::{Output, print};
use super::show::Asked;
use super::transport::{Answers, Ask};

/// `culvert config-dump`.
#[derive(Args)]
pub(super) struct Command {
    #[command(flatten)]
    asked: Asked,
}

/// Prints the dump: of one agent word by word, as `curl` would, or those of a cluster as a list.
/// There is no table of it.
pub(super) fn run(command: &Command, context: &Context) -> Result<Exit, CliError> {
    let transport = command.asked.transport(context)?;
    let yaml = command.asked.output == Output::Yaml;
    if !yaml {
        let mut texts = transport.text(&Ask::get("/config_dump"));
        let exit = texts.complete()?;
        if let ([one], false) = (&texts.good[..], texts.fleet) {
            print(one.answer.trim_end())?;
            print("\n")?;
            return Ok(exit);
        }
        let parsed = texts.map(|text| serde_json::from_str(&text).unwrap_or_default());
        let parsed: Answers<serde_json::Value> = parsed;
        Output::Json.print(&parsed.document(), |_| String::new())?;
        return Ok(exit);
    }
    command.asked.show(&transport, "/config_dump", |_: &Answers<serde_json::Value>, _| {
        // Not reached: this is YAML.
        String::new()
    })
}
