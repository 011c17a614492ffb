//! `culvert ca status`, `rotate-root`, `taint`, `revoke`: orders to the store, with or without a
//! server running on it.

use std::fmt::Write as _;

use clap::{Args, ValueEnum};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::place::Place;
use crate::authority::operate::{self, Sight, describe};

mod report;

use report::Report;

/// Arguments of `culvert ca status`.
#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    place: Place,
    /// How to show it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// How something is shown.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Arguments of `culvert ca rotate-root`.
#[derive(Debug, Args)]
pub struct RotateRoot {
    #[command(flatten)]
    place: Place,
    /// Only show the next step and what holds it.
    #[arg(long, conflicts_with = "force")]
    plan: bool,
    /// Make the next step though nodes have not acknowledged the bundle: they may refuse others,
    /// and be refused, until they do. Does not shorten the time that certificates need.
    #[arg(long)]
    force: bool,
}

/// Arguments of `culvert ca taint` and `culvert ca revoke`.
#[derive(Debug, Args)]
pub struct Named {
    /// Number of the root, as `culvert ca status` has it.
    generation: u64,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn status(arguments: Status) -> anyhow::Result<()> {
    let now = OffsetDateTime::now_utc();
    let sight = operate::look(&*arguments.place.store().await?, None, now).await?;
    let report = Report::of(&sight, now.unix_timestamp());
    match arguments.output {
        Format::Table => print!("{}", report.table()),
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(())
}

pub(super) async fn rotate(arguments: RotateRoot) -> anyhow::Result<()> {
    let store = arguments.place.store().await?;
    let now = OffsetDateTime::now_utc();
    let sight = if arguments.plan {
        operate::look(&*store, None, now).await?
    } else if arguments.force {
        let sight = operate::force(&*store, now).await?;
        if let Some(forced) = sight.state.forced.last() {
            eprintln!(
                "FORCED: {}; {} nodes may refuse others and be refused until they are back: {}",
                forced.step,
                forced.nodes.len(),
                forced.nodes.join(", ")
            );
        }
        sight
    } else {
        operate::rotate(&*store, now).await?
    };
    print!("{}", plan(&sight));
    Ok(())
}

pub(super) async fn taint(arguments: Named) -> anyhow::Result<()> {
    let store = arguments.place.store().await?;
    let sight = operate::taint(&*store, arguments.generation, OffsetDateTime::now_utc()).await?;
    println!(
        "root {} is tainted, root {} signs; agents replace their certificates within 5 minutes of \
         hearing. Then: culvert ca revoke {}",
        arguments.generation,
        sight.live.generation().root,
        arguments.generation
    );
    print!("{}", plan(&sight));
    Ok(())
}

pub(super) async fn revoke(arguments: Named) -> anyhow::Result<()> {
    let store = arguments.place.store().await?;
    let sight = operate::revoke(&*store, arguments.generation, OffsetDateTime::now_utc()).await?;
    println!(
        "root {} is revoked: agents refuse what is under it, and close its connections, as they \
         hear of bundle {}",
        arguments.generation, sight.state.sequence
    );
    print!("{}", plan(&sight));
    Ok(())
}

/// The next step and what holds it.
fn plan(sight: &Sight) -> String {
    let mut text = format!("next: {}\n", sight.plan.step);
    for hold in &sight.plan.holds {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  held: {}", describe(hold));
    }
    if sight.plan.is_ready() {
        text.push_str("  ready: a running server makes it within a second\n");
    }
    text
}

/// Seconds since 1970 as RFC 3339, UTC.
pub(crate) fn moment(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{seconds} s after 1970"))
}

#[cfg(test)]
mod tests;
