//! The table of `culvert certs`.

use std::fmt::Write as _;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::admin::model::{Identities, Identity};

const HEADS: [&str; 7] = ["IDENTITY", "SERIAL", "ISSUER", "FROM", "UNTIL", "RENEWAL", "USERS"];
/// Users that are named in a row; the JSON has more.
const USERS: usize = 3;

/// One row an identity, columns as wide as they must be; times with how far they are from `now`.
pub(super) fn render(all: &Identities, now: OffsetDateTime) -> String {
    if all.identities.is_empty() {
        return format!("no workload is enrolled on node {}\n", all.node);
    }
    let rows: Vec<_> = all.identities.iter().map(|identity| row(identity, now)).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0).max(HEADS[column].len())
    };
    let widths: [usize; 7] = std::array::from_fn(width);
    let mut text = String::new();
    for cells in std::iter::once(HEADS.map(str::to_owned)).chain(rows) {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            // Writing to a String does not fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    for identity in &all.identities {
        if let Some(error) = &identity.last_error {
            let _ = writeln!(text, "\n{}: {error}", identity.id); // nor this
        }
    }
    text
}

fn row(identity: &Identity, now: OffsetDateTime) -> [String; 7] {
    let dash = || "-".to_owned();
    let renewal = match (&identity.next_renewal, identity.failures) {
        (None, _) => "now".to_owned(),
        (Some(at), 0) => relative(at, now),
        (Some(at), failures) => format!("{} (failed {failures}x)", relative(at, now)),
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
            certificate.serial.clone(),
            certificate.issuer.clone(),
            certificate.not_before.clone(),
            format!("{} ({})", certificate.not_after, relative(&certificate.not_after, now)),
        ],
        None => [dash(), dash(), dash(), dash()],
    };
    [identity.id.clone(), serial, issuer, from, until, renewal, users]
}

/// How far a moment is: `in 15 h`, `3 min ago`; the text itself where it is no moment.
fn relative(at: &str, now: OffsetDateTime) -> String {
    let Ok(moment) = OffsetDateTime::parse(at, &Rfc3339) else { return at.to_owned() };
    let ahead = (moment - now).whole_seconds();
    let length = match ahead.unsigned_abs() {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds @ 7200..=172_799 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86400),
    };
    if ahead < 0 { format!("{length} ago") } else { format!("in {length}") }
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
        let text = render(&identities(vec![held("web", 5), waiting]), NOW);
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
        assert_eq!(render(&identities(vec![]), NOW), "no workload is enrolled on node node1\n");
    }

    #[test]
    fn what_is_over_is_said_to_be() {
        assert_eq!(relative("2026-11-24T09:57:00Z", NOW), "3 min ago");
        assert_eq!(relative("2026-11-24T10:00:00Z", NOW), "in 0 s");
        assert_eq!(relative("2026-12-24T10:00:00Z", NOW), "in 30 d");
        assert_eq!(relative("sometime", NOW), "sometime");
    }
}
