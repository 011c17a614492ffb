//! One line a decision: who asked for what, what was decided, and by which rule.

use std::io;

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::{error, info};

use crate::attest::Caller;
use crate::authority::Generation;
use crate::server::{Decided, Peer};

pub mod chain;
mod rule;

pub use rule::Rule;

/// What is kept of one decision. Never a token, a key or a request.
#[derive(Debug, Default, Serialize)]
pub struct Record {
    /// When, RFC 3339, UTC.
    pub time: String,
    /// `issued` or `refused`.
    pub decision: &'static str,
    /// The rule that refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Rule>,
    /// Address of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// By what the caller proved itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<&'static str>,
    /// Identity of the caller, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller_identity: Option<String>,
    /// Node of the caller, once it was proved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Pod of the caller, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Pod of the caller, by UID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// The identity asked for, in its strict form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Serial number of the certificate, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// SHA-256 of the public key, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_sha256: Option<String>,
    /// Who shall accept the token, for a JWT-SVID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<Vec<String>>,
    /// Name of the key that signed the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_key: Option<String>,
    /// Last valid second of the certificate or token, since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<u64>,
    /// Life granted, in seconds from now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u64>,
    /// Which keys stand behind it, and the bundle that was in force.
    #[serde(flatten)]
    pub generation: Option<Signed>,
    /// Told when the line is written.
    #[serde(skip)]
    decided: Option<Decided>,
}

/// [`Generation`] as the audit writes it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Signed {
    /// Number of the root.
    pub root: u64,
    /// Number of the issuing certificate.
    pub issuing: u64,
    /// Sequence number of the bundle.
    pub bundle: u64,
}

impl From<Generation> for Signed {
    fn from(Generation { root, issuing, bundle }: Generation) -> Self {
        Self { root, issuing, bundle }
    }
}

impl Record {
    /// Begins the record of a call, given what the server put into its request.
    pub(crate) fn begin(extensions: &tonic::Extensions, now: OffsetDateTime) -> Self {
        let mut record = Self::from_peer(extensions.get::<Peer>(), now);
        record.decided = extensions.get::<Decided>().cloned();
        record
    }

    /// Begins the record of what came from `peer`.
    pub(crate) fn from_peer(peer: Option<&Peer>, now: OffsetDateTime) -> Self {
        Self {
            time: now.format(&Rfc3339).unwrap_or_default(),
            peer: peer.map(|peer| peer.address().to_string()),
            ..Self::default()
        }
    }

    /// Notes who called, once that is proved.
    pub fn called_by(&mut self, caller: &Caller) {
        self.caller = Some(caller.kind());
        self.node = caller.node().map(ToOwned::to_owned);
        self.caller_identity = caller.identity().map(ToString::to_string);
        if let Caller::Pod(pod) = caller {
            self.pod = Some(pod.name.clone());
            self.pod_uid = Some(pod.uid.clone());
        }
    }

    /// Ends the record of a call that was granted, and writes it.
    pub fn issued(mut self) {
        self.decision = "issued";
        self.write();
    }

    /// Ends the record of a call that was refused, and writes it.
    pub fn refused(mut self, rule: Rule) {
        self.decision = "refused";
        self.rule = Some(rule);
        self.write();
    }

    /// Writes the line to the tracing target `audit`.
    fn write(&self) {
        if let Some(decided) = &self.decided {
            decided.set();
        }
        match line(self) {
            Ok(line) => info!(target: "audit", "{line}"),
            // Cannot be: the record holds texts and numbers only. Yet no decision goes unseen.
            Err(error) => error!(target: "audit", %error, record = ?self, "audit line unwritable"),
        }
    }
}

/// JSON in printable ASCII: what a name could hold to move a cursor, hide a part of the line or
/// begin another is escaped.
fn line(record: &Record) -> serde_json::Result<String> {
    let mut bytes = Vec::with_capacity(512);
    record.serialize(&mut Serializer::with_formatter(&mut bytes, Printable))?;
    String::from_utf8(bytes).map_err(serde::ser::Error::custom)
}

struct Printable;

impl Formatter for Printable {
    // Given what needs no escape by JSON's own rules; quotes and C0 controls come another way.
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut from = 0;
        for (at, character) in fragment.char_indices().filter(|(_, c)| !matches!(c, ' '..='~')) {
            writer.write_all(&fragment.as_bytes()[from..at])?;
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                write!(writer, "\\u{unit:04x}")?;
            }
            from = at + character.len_utf8();
        }
        writer.write_all(&fragment.as_bytes()[from..])
    }
}

#[cfg(test)]
mod tests {
    use culvert_spiffe::SpiffeId;

    use super::*;
    use crate::attest::PodCaller;

    #[test]
    fn line_is_one_line_of_printable_ascii_and_says_the_same() {
        let name = "a\n\r\0\x1b[2J\x7f\u{85}\u{2028}\u{202e}\"\\é\u{1f600}";
        let identity: SpiffeId = "spiffe://td/ns/default/sa/web".parse().unwrap();
        let pod = PodCaller { identity, name: name.into(), uid: "u".into(), node: None };
        let mut record = Record::from_peer(None, OffsetDateTime::UNIX_EPOCH);
        record.called_by(&Caller::Pod(pod));
        record.generation = Some(Generation { root: 1, issuing: 2, bundle: 3 }.into());
        let line = line(&record).unwrap();
        assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line}");
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["pod"], name);
        assert_eq!(read["issuing"], 2);
    }

    #[test]
    fn label_is_the_word_of_the_line() {
        for rule in [Rule::Busy, Rule::NotBoundToPod, Rule::CallerPodGone, Rule::SigningFailed] {
            assert_eq!(serde_json::to_value(rule).unwrap(), rule.label());
        }
    }
}
