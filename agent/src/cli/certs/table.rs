//! The table of `culvert certs`.

use std::fmt::Write as _;

use time::OffsetDateTime;

use crate::admin::model::{Identities, Identity};
use crate::cli::table::{Cell, Table, Tone, plain};
use crate::cli::when::relative;

const HEADS: [&str; 7] = ["IDENTITY", "SERIAL", "ISSUER", "FROM", "UNTIL", "RENEWAL", "USERS"];
/// Users that are named in a row; the JSON has more.
const USERS: usize = 3;

/// One row an identity; times with how far they are from `now`. In a fleet the node stands first.
pub(super) fn render(
    all: &[&Identities],
    fleet: bool,
    now: OffsetDateTime,
    colours: bool,
) -> String {
    let rows = || all.iter().flat_map(|one| one.identities.iter().map(move |it| (&one.node, it)));
    if rows().next().is_none() {
        return match all {
            [one] => format!("no workload is enrolled on node {}\n", one.node),
            _ => "no workload is enrolled\n".to_owned(),
        };
    }
    let mut text = if fleet {
        let [a, b, c, d, e, f, g] = HEADS;
        let mut table = Table::new(["NODE", a, b, c, d, e, f, g]);
        for (node, identity) in rows() {
            let [a, b, c, d, e, f, g] = row(identity, now);
            table.push([node.as_str().into(), a, b, c, d, e, f, g]);
        }
        table.render(colours)
    } else {
        let mut table = Table::new(HEADS);
        for (_, identity) in rows() {
            table.push(row(identity, now));
        }
        table.render(colours)
    };
    for (_, identity) in rows() {
        if let Some(error) = &identity.last_error {
            // Writing to a String does not fail.
            let _ = writeln!(text, "\n{}: {}", identity.id, plain(error.clone()));
        }
    }
    text
}

fn row(identity: &Identity, now: OffsetDateTime) -> [Cell; 7] {
    let renewal = match (&identity.next_renewal, identity.failures) {
        (None, _) => "now".into(),
        (Some(at), 0) => relative(at, now).into(),
        (Some(at), failures) => {
            Cell::new(format!("{} (failed {failures}x)", relative(at, now)), Tone::Bad)
        }
    };
    let users = match identity.users.as_slice() {
        [] => "none".to_owned(),
        users if identity.user_count <= USERS => users.join(", "),
        users => {
            let named = users.len().min(USERS);
            format!("{} and {} more", users[..named].join(", "), identity.user_count - named)
        }
    };
    let [serial, issuer, from, until] = match &identity.certificate {
        Some(certificate) => [
            certificate.serial.as_str().into(),
            certificate.issuer.as_str().into(),
            certificate.not_before.as_str().into(),
            format!("{} ({})", certificate.not_after, relative(&certificate.not_after, now)).into(),
        ],
        None => std::array::from_fn(|_| Cell::or_dash(None::<String>)),
    };
    [identity.id.as_str().into(), serial, issuer, from, until, renewal, users.into()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::model::Certificate;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-24 10:00 UTC);

    fn identities(identities: Vec<Identity>) -> Identities {
        Identities {
            node: "node1".to_owned(),
            trust_domain: "td".to_owned(),
            now: "2026-11-24T10:00:00Z".to_owned(),
            identities,
        }
    }

    fn held(account: &str, users: usize) -> Identity {
        Identity {
            id: format!("spiffe://td/ns/a/sa/{account}"),
            state: "held".to_owned(),
            certificate: Some(Certificate {
                serial: "0AFF".to_owned(),
                issuer: "O=td, CN=td issuing 1".to_owned(),
                not_before: "2026-11-24T09:55:00Z".to_owned(),
                not_after: "2026-11-25T09:00:00Z".to_owned(),
            }),
            next_renewal: Some("2026-11-24T11:30:00Z".to_owned()),
            failures: 0,
            last_error: None,
            users: (0..users).map(|number| format!("a/{account}-{number}")).collect(),
            user_count: users,
            lingers_until: None,
        }
    }

    #[test]
    fn table_has_one_row_an_identity() {
        let mut waiting = held("w", 0);
        waiting.certificate = None;
        waiting.failures = 2;
        waiting.next_renewal = Some("2026-11-24T10:00:05Z".to_owned());
        waiting.last_error = Some("cannot reach the authority".to_owned());
        let text = render(&[&identities(vec![held("web", 5), waiting])], false, NOW, false);
        assert_eq!(
            text,
            "\
IDENTITY                 SERIAL  ISSUER                 FROM                  UNTIL                           RENEWAL             USERS
spiffe://td/ns/a/sa/web  0AFF    O=td, CN=td issuing 1  2026-11-24T09:55:00Z  2026-11-25T09:00:00Z (in 23 h)  in 90 min           a/web-0, a/web-1, a/web-2 and 2 more
spiffe://td/ns/a/sa/w    -       -                      -                     -                               in 5 s (failed 2x)  none

spiffe://td/ns/a/sa/w: cannot reach the authority
"
        );
    }

    #[test]
    fn node_without_identities_says_so() {
        let none = render(&[&identities(vec![])], true, NOW, false);
        assert_eq!(none, "no workload is enrolled on node node1\n");
        assert_eq!(render(&[], true, NOW, false), "no workload is enrolled\n");
    }

    #[test]
    fn fleet_has_the_node_before_each_row() {
        let mut other = identities(vec![held("db", 1)]);
        other.node = "node2".to_owned();
        let text = render(&[&identities(vec![held("web", 1)]), &other], true, NOW, false);
        let nodes: Vec<_> = text.lines().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(nodes, ["NODE", "node1", "node2"], "{text}");
    }
}
