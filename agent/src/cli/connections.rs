//! `culvert connections`: what is open now, and with `--watch` what opens and closes.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use time::OffsetDateTime;

use super::context::Context;
use super::error::CliError;
use super::exit::Exit;
use super::output::{Output, colours, is_read, print};
use super::show::Asked;
use super::table::{Cell, Table, Tone};
use super::transport::{Answers, Transport};
use super::when::age;
use crate::admin::model::{Connection, Connections, Security};

const HEADS: [&str; 13] = [
    "NODE",
    "DIRECTION",
    "SOURCE",
    "DESTINATION",
    "SERVICE",
    "SECURITY",
    "PATH",
    "AGE",
    "SENT",
    "RECEIVED",
    "REQUESTS",
    "SOURCE IDENTITY",
    "DESTINATION IDENTITY",
];

/// More connections than an agent has.
const EVERY: usize = 1_000_000;

/// `culvert connections`.
#[derive(Args)]
pub(super) struct Command {
    #[command(flatten)]
    asked: Asked,
    /// Only connections of this pod, or of all pods of this Deployment or the like,
    /// NAMESPACE/NAME; at either end.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = workload)]
    workload: Option<Wanted>,
    /// Only connections of this namespace; at either end.
    #[arg(short, long, value_name = "NAME", conflicts_with = "workload")]
    namespace: Option<String>,
    /// Most connections that each agent names.
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    limit: usize,
    /// Go on, with a line for each connection that opens or closes.
    #[arg(short, long)]
    watch: bool,
    /// Seconds between two looks; a connection that lives shorter may never be seen.
    #[arg(long, value_name = "SECONDS", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
}

/// A workload by namespace and name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    namespace: String,
    name: Option<String>,
}

fn workload(text: &str) -> Result<Wanted, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok(Wanted { namespace: namespace.to_owned(), name: Some(name.to_owned()) })
        }
        _ => Err("give NAMESPACE/NAME".to_owned()),
    }
}

impl Wanted {
    fn takes(&self, connection: &Connection) -> bool {
        let (from, to) = (&connection.source, &connection.destination);
        let ends = [
            (&from.namespace, &from.workload, &from.owner),
            (&to.namespace, &to.workload, &to.owner),
        ];
        ends.into_iter().any(|(namespace, pod, owner)| {
            namespace.as_ref() == Some(&self.namespace)
                && (self.name.is_none() || [pod, owner].contains(&&self.name))
        })
    }
}

/// Prints the connections that are open.
pub(super) fn run(command: &Command, context: &Context) -> Result<Exit, CliError> {
    let transport = command.asked.transport(context)?;
    if command.watch {
        return watch(command, &transport);
    }
    let mut answers = command.ask(&transport);
    let exit = answers.complete()?;
    if command.asked.output.is_table() {
        let wide = command.asked.output == Output::Wide;
        print(&render(&answers, wide, OffsetDateTime::now_utc(), colours()))?;
    } else {
        command.asked.document(&answers)?;
    }
    Ok(exit)
}

impl Command {
    fn ask(&self, transport: &Transport) -> Answers<Connections> {
        // What is left out here is not left out there: a workload's may be the oldest.
        let wanted = self.workload.clone().or_else(|| {
            let namespace = self.namespace.clone()?;
            Some(Wanted { namespace, name: None })
        });
        let limit = if wanted.is_some() { EVERY } else { self.limit };
        transport.get(&format!("/connections?limit={limit}")).map(|mut all: Connections| {
            if let Some(wanted) = &wanted {
                all.connections.retain(|connection| wanted.takes(connection));
                all.total = all.connections.len();
                all.connections.truncate(self.limit);
            }
            all
        })
    }
}

fn render(answers: &Answers<Connections>, wide: bool, now: OffsetDateTime, tint: bool) -> String {
    let mut table = Table::new(HEADS);
    let (mut named, mut total) = (0, 0);
    for all in answers.values() {
        named += all.connections.len();
        total += all.total;
        all.connections.iter().for_each(|one| table.push(row(&all.node, one, now)));
    }
    if table.is_empty() {
        return "no connection is open\n".to_owned();
    }
    let mut text = if wide { table.render(tint) } else { table.first::<11>().render(tint) };
    if total > named {
        let more = total - named;
        text.push_str(&format!("\nand {more} more; see them with a larger --limit\n"));
    }
    text
}

fn row(node: &str, connection: &Connection, now: OffsetDateTime) -> [Cell; 13] {
    let (from, to) = (&connection.source, &connection.destination);
    let security = match connection.security {
        Security::MutualTls => Cell::new("mTLS", Tone::Good),
        Security::Local => Cell::new("local", Tone::Good),
        #[expect(unreachable_patterns, reason = "forms may be added")]
        Security::Plaintext | _ => Cell::new("plaintext", Tone::Doubtful),
    };
    [
        node.into(),
        connection.direction.as_str().into(),
        end(from.namespace.as_ref(), from.workload.as_ref(), &from.address).into(),
        end(to.namespace.as_ref(), to.workload.as_ref(), &to.address).into(),
        Cell::or_dash(to.service.as_deref()),
        security,
        connection.path.as_str().into(),
        age(&connection.opened, now).into(),
        bytes(connection.bytes_sent).into(),
        bytes(connection.bytes_received).into(),
        connection.requests.to_string().into(),
        Cell::or_dash(from.identity.as_deref()),
        Cell::or_dash(to.identity.as_deref()),
    ]
}

/// `namespace/workload:port`, or the address of who is unknown.
fn end(namespace: Option<&String>, workload: Option<&String>, address: &str) -> String {
    match (namespace, workload, address.rsplit_once(':')) {
        (Some(namespace), Some(workload), Some((_, port))) => {
            format!("{namespace}/{workload}:{port}")
        }
        _ => address.to_owned(),
    }
}

/// With a unit, three digits or so.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let (mut tenths, mut unit) = (u128::from(count) * 10, None);
    for next in UNITS {
        if tenths < 10_240 {
            break;
        }
        (tenths, unit) = (tenths / 1024, Some(next));
    }
    match unit {
        None => format!("{count} B"),
        Some(unit) if tenths < 1000 => format!("{}.{} {unit}", tenths / 10, tenths % 10),
        Some(unit) => format!("{} {unit}", tenths / 10),
    }
}

type Open = BTreeMap<(String, u64), Connection>;

/// A line for each that opened or closed since the last look.
fn watch(command: &Command, transport: &Transport) -> Result<Exit, CliError> {
    let mut heads = vec!["EVENT"];
    heads.extend(HEADS);
    let mut widths: [usize; 14] = std::array::from_fn(|column| heads[column].len());
    let mut known = Open::new();
    let mut first = true;
    loop {
        let mut answers = command.ask(transport);
        answers.complete()?;
        let now = OffsetDateTime::now_utc();
        let open: Open = answers
            .good
            .iter()
            .flat_map(|good| {
                let node = &good.answer.node;
                let all = good.answer.connections.iter();
                all.map(move |one| ((node.clone(), one.id), one.clone()))
            })
            .collect();
        // Of an agent that does not answer now, nothing is known to have closed.
        let heard: Vec<_> = answers.values().map(|all| all.node.as_str()).collect();
        let events = events(&known, &open, &heard);
        let text = match command.asked.output {
            Output::Table | Output::Wide => {
                let wide = command.asked.output == Output::Wide;
                lines(&events, wide, first, now, &mut widths)
            }
            Output::Json | Output::Yaml => documents(&events, command.asked.output)?,
        };
        if !is_read(&text)? {
            return Ok(Exit::Done);
        }
        known.retain(|(node, _), _| !heard.contains(&node.as_str()));
        known.extend(open);
        first = false;
        let pause = tokio::time::sleep(Duration::from_secs(command.interval));
        transport.block_on(async { pause.await });
    }
}

/// What happened to one connection.
type Event<'a> = (&'static str, &'a str, &'a Connection);

fn events<'a>(known: &'a Open, open: &'a Open, heard: &[&str]) -> Vec<Event<'a>> {
    let closed =
        known.iter().filter(|(key, _)| heard.contains(&key.0.as_str()) && !open.contains_key(*key));
    let opened = open.iter().filter(|(key, _)| !known.contains_key(*key));
    let closed = closed.map(|((node, _), one)| ("closed", node.as_str(), one));
    closed.chain(opened.map(|((node, _), one)| ("opened", node.as_str(), one))).collect()
}

fn lines(
    events: &[Event<'_>],
    wide: bool,
    with_heads: bool,
    now: OffsetDateTime,
    widths: &mut [usize; 14],
) -> String {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m] = HEADS;
    let mut table = Table::new(["EVENT", a, b, c, d, e, f, g, h, i, j, k, l, m]);
    for (event, node, connection) in events {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m] = row(node, connection, now);
        table.push([(*event).into(), a, b, c, d, e, f, g, h, i, j, k, l, m]);
    }
    let tint = colours();
    if wide {
        return table.render_below(with_heads, tint, widths);
    }
    let mut some: [usize; 12] = std::array::from_fn(|column| widths[column]);
    let text = table.first::<12>().render_below(with_heads, tint, &mut some);
    widths[..12].copy_from_slice(&some);
    text
}

fn documents(events: &[Event<'_>], output: Output) -> Result<String, CliError> {
    let mut text = String::new();
    for (event, node, connection) in events {
        let value = serde_json::json!({"event": event, "node": node, "connection": connection});
        if output == Output::Json {
            // A line each, for what reads line by line.
            text.push_str(&value.to_string());
            text.push('\n');
        } else {
            text.push_str("---\n");
            text.push_str(&output.document(&value)?.unwrap_or_default());
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::transport::Answer;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-24 10:00 UTC);

    fn connections(node: &str, ids: &[u64]) -> Connections {
        let one = |id: &u64| {
            json!({
                "id": id, "direction": "outbound", "path": "tunnel", "security": "mutual_tls",
                "opened": "2026-11-24T09:59:00Z",
                "source": {"address": "10.0.0.1:4000", "namespace": "shop", "workload": "web-1",
                           "owner": "web",
                           "identity": "spiffe://td/ns/shop/sa/web"},
                "destination": {"address": "10.0.0.2:80", "hboneAddress": "10.0.0.2:15008",
                    "service": "db.shop.svc.cluster.local", "namespace": "shop",
                    "workload": "db-0", "identity": "spiffe://td/ns/shop/sa/db"},
                "bytesSent": 999, "bytesReceived": 1_536, "requests": 2,
            })
        };
        serde_json::from_value(json!({
            "node": node, "now": "2026-11-24T10:00:00Z", "total": ids.len() + 1,
            "connections": ids.iter().map(one).collect::<Vec<_>>(),
        }))
        .unwrap()
    }

    #[test]
    fn table_names_both_ends() {
        let answer = Answer { node: None, answer: connections("node1", &[1]) };
        let answers = Answers { good: vec![answer], faults: vec![], fleet: false };
        assert_eq!(
            render(&answers, false, NOW, false),
            "\
NODE   DIRECTION  SOURCE           DESTINATION   SERVICE                    SECURITY  PATH    AGE  SENT   RECEIVED  REQUESTS
node1  outbound   shop/web-1:4000  shop/db-0:80  db.shop.svc.cluster.local  mTLS      tunnel  60 s  999 B  1.5 KiB   2

and 1 more; see them with a larger --limit
"
            .replace("AGE  SENT", "AGE   SENT")
        );
        assert!(render(&answers, true, NOW, false).contains("spiffe://td/ns/shop/sa/db"));
        let none = Answers { good: vec![], faults: vec![], fleet: true };
        assert_eq!(render(&none, false, NOW, false), "no connection is open\n");
    }

    #[test]
    fn workload_is_found_at_either_end() {
        let one = &connections("n", &[1]).connections[0];
        for (text, takes) in [
            ("shop/web-1", true),
            ("shop/web", true),
            ("shop/db-0", true),
            ("shop/other", false),
            ("db/db-0", false),
        ] {
            assert_eq!(workload(text).unwrap().takes(one), takes, "{text}");
        }
        assert!(Wanted { namespace: "shop".to_owned(), name: None }.takes(one));
        assert!(workload("shop").is_err() && workload("shop/").is_err());
    }

    #[test]
    fn watch_tells_what_opened_and_closed_and_forgets_no_silent_agent() {
        let open = |of: &[(&str, &[u64])]| -> Open {
            let all = of.iter().flat_map(|(node, ids)| {
                let all = connections(node, ids).connections.into_iter();
                all.map(|one| (((*node).to_owned(), one.id), one))
            });
            all.collect()
        };
        let known = open(&[("a", &[1, 2]), ("b", &[1])]);
        let now = open(&[("a", &[2, 3])]);
        let told: Vec<_> = events(&known, &now, &["a"])
            .into_iter()
            .map(|(event, node, one)| (event, node, one.id))
            .collect();
        assert_eq!(told, [("closed", "a", 1), ("opened", "a", 3)]);
    }

    #[test]
    fn sizes_have_units() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (102_400, "100 KiB"),
            (1 << 21, "2.0 MiB"),
            (u64::MAX, "16777215 TiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
