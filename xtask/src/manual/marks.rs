//! Finds the commands of a manual by their marks.

use anyhow::{Result, anyhow, bail};
use std::time::Duration;

/// How long a script may take when its mark does not say.
const LIMIT: Duration = Duration::from_mins(1);

/// One block of commands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// File and line.
    pub(crate) place: String,
    /// The sequence that it belongs to, other than the main one.
    pub(crate) sequence: Option<String>,
    /// Whether it waits until all manuals have been run so far.
    pub(crate) last: bool,
    /// What `sh` is given.
    pub(crate) script: String,
    /// How long it may take.
    pub(crate) limit: Duration,
    /// Lines that it must print, in this order.
    pub(crate) prints: Vec<String>,
}

/// What a mark says of the block below it.
enum Mark {
    Run { last: bool, sequence: Option<String>, limit: Duration },
    NotRun,
    Prints,
}

/// Every block of commands that is run, in order.
pub(crate) fn steps(manual: &str, text: &str) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    let mut mark = None;
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let place = format!("{manual}:{}", at + 1);
        let Some(language) = line.strip_prefix("```") else {
            if mark.is_some() {
                bail!("{place}: a mark must stand right before its block");
            }
            mark = parse(line).map_err(|error| error.context(place))?;
            continue;
        };
        let body: Vec<&str> =
            lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
        match (mark.take(), language) {
            (Some(Mark::Run { last, sequence, limit }), "sh") => {
                let script = body.join("\n") + "\n";
                steps.push(Step { place, sequence, last, script, limit, prints: Vec::new() });
            }
            (Some(Mark::Prints), "text") => {
                let step = steps
                    .last_mut()
                    .ok_or_else(|| anyhow!("{place}: no script above that could print this"))?;
                step.prints.extend(body.iter().map(|line| (*line).to_owned()));
            }
            (Some(Mark::NotRun), "sh") => {}
            (None, "sh") => bail!("{place}: commands without a mark, see xtask/src/manual.rs"),
            (Some(_), _) => bail!("{place}: the mark does not fit a block of `{language}`"),
            (None, _) => {}
        }
    }
    Ok(steps)
}

/// The mark of a line, if it is one.
fn parse(line: &str) -> Result<Option<Mark>> {
    let Some(text) = line.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->")) else {
        return Ok(None);
    };
    if text == "prints" {
        return Ok(Some(Mark::Prints));
    }
    if let Some(reason) = text.strip_prefix("not run:") {
        if reason.trim().is_empty() {
            bail!("`not run` without a reason");
        }
        return Ok(Some(Mark::NotRun));
    }
    let mut words = text.split(' ').peekable();
    if words.next() != Some("run") {
        return Ok(None);
    }
    let last = words.next_if_eq(&"last").is_some();
    let sequence = words.next_if(|word| *word != "within").map(str::to_owned);
    let limit = match (words.next(), words.next(), words.next()) {
        (None, _, _) => LIMIT,
        (Some("within"), Some(time), None) => time
            .strip_suffix('s')
            .and_then(|seconds| seconds.parse().ok())
            .map(Duration::from_secs)
            .ok_or_else(|| anyhow!("`{time}` is no time; write seconds, as in `300s`"))?,
        _ => bail!("`{text}` is no mark; write `run [last] [SEQUENCE] [within SECONDSs]`"),
    };
    Ok(Some(Mark::Run { last, sequence, limit }))
}
