//! `culvert status`: the fleet in one table.

use std::fmt::Write as _;

use clap::Args;
use time::OffsetDateTime;

use super::context::Context;
use super::error::CliError;
use super::exit::Exit;
use super::output::{Output, colours, print};
use super::show::Asked;
use super::table::{Cell, Table, Tone, plain};
use super::transport::Answers;
use super::when::{age, relative};
use crate::admin::model::{State, Status};

/// Seconds by which clocks may differ before it is worth a look.
const CLOCKS: f64 = 5.0;
/// Workloads without capture that are named a node.
const NAMED: usize = 5;

/// `culvert status`.
#[derive(Args)]
pub(super) struct Command {
    #[command(flatten)]
    asked: Asked,
    /// List the agents' eBPF programs and where they are attached.
    #[arg(long)]
    programs: bool,
}

/// Prints how each agent is.
pub(super) fn run(command: &Command, context: &Context) -> Result<Exit, CliError> {
    let transport = command.asked.transport(context)?;
    if !command.asked.output.is_table() {
        return command.asked.show(&transport, "/status", |_: &Answers<Status>, _| String::new());
    }
    let mut answers: Answers<Status> = transport.get("/status");
    let exit = answers.complete()?;
    let text = if command.programs {
        programs(&answers, colours())
    } else {
        let wide = command.asked.output == Output::Wide;
        let now = OffsetDateTime::now_utc();
        render(&answers, wide, now, colours()) + &complaints(&answers)
    };
    print(&text)?;
    Ok(exit)
}

/// One row an agent, also for those that did not answer.
fn render(answers: &Answers<Status>, wide: bool, now: OffsetDateTime, colours: bool) -> String {
    let newest = answers.values().map(|status| status.bundle.sequence).max().unwrap_or_default();
    let rows = answers.values().map(|status| row(status, newest, now));
    let absent = answers.faults.iter().map(|fault| {
        let mut row: [Cell; 13] = std::array::from_fn(|_| Cell::or_dash(None::<String>));
        row[0] = fault.node.as_deref().unwrap_or("?").into();
        row[1] = Cell::new("no answer", Tone::Bad);
        row
    });
    let mut table = Table::new([
        "NODE",
        "READY",
        "WORKLOADS",
        "IDENTITIES",
        "EXPIRY",
        "AUTHORITY",
        "BUNDLE",
        "POLICIES",
        "OPEN",
        "UP",
        "VERSION",
        "PROGRAMS",
        "CLOCK",
    ]);
    rows.chain(absent).for_each(|row| table.push(row));
    if wide { table.render(colours) } else { table.first::<11>().render(colours) }
}

fn row(status: &Status, newest: u64, now: OffsetDateTime) -> [Cell; 13] {
    let (workloads, identities) = (&status.workloads, &status.identities);
    let steered = format!("{}/{} of {}", workloads.steered, workloads.enrolled, workloads.local);
    let held = match identities.failing {
        0 => Cell::from(identities.held.to_string()),
        failing => Cell::new(format!("{} ({failing} failing)", identities.held), Tone::Bad),
    };
    let findings: usize = status.policies.findings.values().sum();
    let policies = status.policies.peer_authentications + status.policies.authorization_policies;
    [
        status.node.as_str().into(),
        match status.ready.state {
            State::Ready => Cell::new("ready", Tone::Good),
            State::Starting => Cell::new("starting", Tone::Doubtful),
            State::NotReady => Cell::new("not ready", Tone::Bad),
        },
        Cell::new(steered, good(workloads.steered >= workloads.enrolled)),
        held,
        identities.next_expiry.as_ref().map_or_else(|| "-".into(), |at| relative(at, now).into()),
        match status.authority.reachable {
            Some(true) => Cell::new("reached", Tone::Good),
            Some(false) => Cell::new("away", Tone::Bad),
            None => "-".into(),
        },
        Cell::new(
            format!("{} ({} roots)", status.bundle.sequence, status.bundle.roots),
            if status.bundle.sequence < newest { Tone::Doubtful } else { Tone::Plain },
        ),
        match findings {
            0 => policies.to_string().into(),
            findings => Cell::new(format!("{policies} ({findings} findings)"), Tone::Doubtful),
        },
        status.connections.open.to_string().into(),
        age(&status.started, now).into(),
        status.version.as_str().into(),
        status.programs.len().to_string().into(),
        match status.clock_offset {
            Some(offset) if offset.abs() >= CLOCKS => {
                Cell::new(format!("{offset:+.0} s"), Tone::Bad)
            }
            Some(offset) => format!("{offset:+.0} s").into(),
            None => "-".into(),
        },
    ]
}

fn good(is: bool) -> Tone {
    if is { Tone::Good } else { Tone::Bad }
}

/// What needs a person, a line each.
fn complaints(answers: &Answers<Status>) -> String {
    let mut text = String::new();
    let mut say = |node: &str, what: String| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "\n{node}: {}", plain(what));
    };
    for status in answers.values() {
        let node = &status.node;
        if let Some(why) = &status.ready.why {
            say(node, format!("not ready: {why}"));
        }
        let missing = &status.workloads.missing;
        if !missing.is_empty() {
            let named = missing.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
            let more = missing.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            say(node, format!("enrolled, but their traffic is not steered: {named}{more}"));
        }
        if let Some(error) = &status.authority.last_error {
            say(node, format!("authority {}: {error}", status.authority.address));
        }
        if let Some(offset) = status.clock_offset.filter(|offset| offset.abs() >= CLOCKS) {
            let which = if offset > 0.0 { "ahead of" } else { "behind" };
            let seconds = offset.abs();
            say(node, format!("its clock is {seconds:.0} s {which} the authority's; set it"));
        }
    }
    text
}

fn programs(answers: &Answers<Status>, colours: bool) -> String {
    let mut table = Table::new(["NODE", "PROGRAM", "ID", "ATTACHED"]);
    for status in answers.values() {
        for program in &status.programs {
            let attached = match program.attached.as_slice() {
                [] => Cell::new("nowhere", Tone::Bad),
                attached => attached.join(", ").into(),
            };
            table.push([
                status.node.as_str().into(),
                program.name.as_str().into(),
                program.id.to_string().into(),
                attached,
            ]);
        }
    }
    table.render(colours)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::transport::{AgentError, Answer, Fault};

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-24 10:00 UTC);

    fn status(node: &str) -> Status {
        serde_json::from_value(json!({
            "node": node, "version": "0.1.0", "ready": {"state": "ready", "why": null},
            "started": "2026-11-24T08:00:00Z", "now": "2026-11-24T10:00:00Z", "clockOffset": 0.2,
            "authority": {"address": "ca:15012", "reachable": true, "lastError": null},
            "identities": {"held": 2, "failing": 0, "nextExpiry": "2026-11-25T07:00:00Z"},
            "workloads": {"local": 3, "enrolled": 2, "steered": 2, "missing": []},
            "connections": {"open": 7},
            "programs": [{"name": "connect4", "id": 31, "attached": ["/sys/fs/cgroup"]}],
            "bundle": {"sequence": 4, "roots": 1, "connected": true},
            "policies": {"peerAuthentications": 1, "authorizationPolicies": 2, "findings": {}},
        }))
        .unwrap()
    }

    fn fleet() -> Answers<Status> {
        let mut ill = status("node2");
        ill.ready = crate::admin::model::Ready {
            state: State::NotReady,
            why: Some("waits for the first workloads".to_owned()),
        };
        ill.workloads.steered = 1;
        ill.workloads.missing = vec!["shop/cart-1".to_owned()];
        ill.identities.failing = 1;
        ill.authority.reachable = Some(false);
        ill.authority.last_error = Some("cannot reach the authority".to_owned());
        ill.bundle.sequence = 3;
        ill.clock_offset = Some(-75.0);
        ill.policies.findings.insert("never_matches".to_owned(), 2);
        let good = [status("node1"), ill].map(|answer| Answer { node: None, answer });
        let error = AgentError::NotReady { place: "pod x/y".to_owned(), phase: "Pending".into() };
        let fault = Fault { node: Some("node3".to_owned()), error };
        Answers { good: good.into(), faults: vec![fault], fleet: true }
    }

    #[test]
    fn every_node_has_its_row_also_one_whose_agent_is_silent() {
        assert_eq!(
            render(&fleet(), true, NOW, false),
            "\
NODE   READY      WORKLOADS  IDENTITIES     EXPIRY   AUTHORITY  BUNDLE       POLICIES        OPEN  UP   VERSION  PROGRAMS  CLOCK
node1  ready      2/2 of 3   2              in 21 h  reached    4 (1 roots)  3               7     2 h  0.1.0    1         +0 s
node2  not ready  1/2 of 3   2 (1 failing)  in 21 h  away       3 (1 roots)  3 (2 findings)  7     2 h  0.1.0    1         -75 s
node3  no answer  -          -              -        -          -            -               -     -    -        -         -
"
        );
        assert!(!render(&fleet(), false, NOW, false).contains("CLOCK"));
    }

    #[test]
    fn what_needs_a_person_is_said_in_words() {
        assert_eq!(
            complaints(&fleet()),
            "\nnode2: not ready: waits for the first workloads\n\
             \nnode2: enrolled, but their traffic is not steered: shop/cart-1\n\
             \nnode2: authority ca:15012: cannot reach the authority\n\
             \nnode2: its clock is 75 s behind the authority's; set it\n"
        );
    }

    #[test]
    fn programs_are_listed_with_where_they_are() {
        let text = programs(&fleet(), false);
        assert!(text.contains("node1  connect4  31  /sys/fs/cgroup"), "{text}");
    }
}
