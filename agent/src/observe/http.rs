//! HTTP seen in passing: requests and their answers, read off a flow's bytes as they go by.
//!
//! ```text
//!  client ──▶ bytes ──┬─────────────────────────────▶ server      never changed, never held
//!                     └─▶ Reader::request  ─┐
//!                                           ├─▶ Seen::exchange(status, time)
//!                     ┌─▶ Reader::response ─┘
//!  client ◀─ bytes ───┴───────────────────────────── server
//! ```
//!
//! The reader sees what the relay has read already, so it can neither change nor delay a byte. It
//! copies heads only, and those only while they are unfinished; bodies are counted off. At
//! anything odd it gives up on the flow for good and says why ([`GaveUp`]): a wrong figure is
//! worse than none, and what two HTTP parsers read differently is not ours to settle.
//!
//! What one flow can cost: nothing before its first bytes look like HTTP; after that
//! [`MAX_HEAD`] bytes and [`MAX_PIPELINED`] or [`MAX_STREAMS`] small entries for each direction,
//! and a time that grows with the number of its bytes alone.
//!
//! HTTP/1.1's heads are parsed by `httparse`. HTTP/2's frames and its HPACK are read here: the
//! libraries for HPACK keep every header's value, among them the passwords of strangers, and
//! `loona-hpack`, the one that is maintained, builds its whole Huffman table anew for each string,
//! some 40 µs of the event loop for two bytes that anybody may send, where a whole request is to
//! cost two. It is what the tests compare with.

mod h1;
mod h2;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

/// Longest head of a request or an answer that is read, as it stands on the wire: what nginx,
/// Envoy and others take by default is less.
pub const MAX_HEAD: usize = 32 << 10;
/// Requests of HTTP/1.1 that may wait for their answers on one flow.
pub const MAX_PIPELINED: usize = 64;
/// Streams of HTTP/2 that may be open on one flow; servers' own default limits are 100 to 250.
pub const MAX_STREAMS: usize = 1024;

/// What the reader tells of a flow.
pub trait Seen {
    /// The flow's first bytes are HTTP's. At most once.
    fn begun(&mut self, version: Version);
    /// A request has been answered, or never will be.
    fn exchange(&mut self, exchange: Exchange);
    /// No more will be told of this flow. At most once, and only after [`Seen::begun`].
    fn gave_up(&mut self, why: GaveUp);
}

/// The form of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.0 or HTTP/1.1.
    One,
    /// HTTP/2 in clear text, with prior knowledge.
    Two,
}

impl Version {
    /// The label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::One => "1",
            Self::Two => "2",
        }
    }
}

/// One request with its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// What the request's content type says.
    pub protocol: Protocol,
    /// The answer's status, 100 to 999; none if there was no answer.
    pub status: Option<u16>,
    /// The `grpc-status` of the answer's head or trailers, if it had one.
    pub grpc_status: Option<u8>,
    /// Who cut the exchange before its end, if anybody did.
    pub cut: Option<Cut>,
    /// From the request's first byte to the answer's last.
    pub duration: Duration,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Plain HTTP.
    Http,
    /// gRPC, by its content type.
    Grpc,
}

/// Who cut an exchange short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cut {
    /// The side that asked.
    Client,
    /// The side that was to answer.
    Server,
}

/// Why a flow that began as HTTP is read no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GaveUp {
    /// Not the HTTP that we know, or open to more than one reading.
    Malformed,
    /// A head longer than [`MAX_HEAD`], or of more than a hundred fields.
    TooLong,
    /// More than [`MAX_PIPELINED`] or [`MAX_STREAMS`] requests without an answer.
    TooMany,
    /// It went over to another protocol: CONNECT, or an answer 101.
    Upgraded,
}

impl GaveUp {
    /// Every reason, for a metric that shows them from the start.
    pub const ALL: [Self; 4] = [Self::Malformed, Self::TooLong, Self::TooMany, Self::Upgraded];

    /// The label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLong => "too_long",
            Self::TooMany => "too_many",
            Self::Upgraded => "upgraded",
        }
    }
}

/// Reads both directions of one flow. `Start -> One | Two -> Off`, or `Start -> Off` at once.
pub struct Reader(State);

enum State {
    /// Too few bytes yet to tell; these came.
    Start {
        held: [u8; PREFACE.len()],
        length: usize,
        since: Option<Instant>,
        server: Early,
    },
    One(Box<h1::Connection>),
    Two(Box<h2::Connection>),
    /// Not HTTP, or given up.
    Off,
}

/// What a server has said before the client's first bytes came by. In HTTP/2 either side may begin
/// (RFC 9113 section 3.4), the server always with SETTINGS.
enum Early {
    /// The beginning of a frame's head, or nothing.
    Begun { held: [u8; SETTINGS.len()], length: usize },
    /// SETTINGS, and maybe more.
    Two(Box<h2::Connection>),
}

/// The head of a first SETTINGS frame (RFC 9113 section 6.5), as far as it is always the same: its
/// third byte is the lowest of its length, of which no server needs more.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

/// What a client of HTTP/2 says first (RFC 9113 section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Methods by which a request of HTTP/1.1 is recognised (RFC 9110 section 9, RFC 5789). Others
/// may follow on the same flow.
const METHODS: [&[u8]; 9] = [
    b"GET ",
    b"POST ",
    b"PUT ",
    b"HEAD ",
    b"DELETE ",
    b"OPTIONS ",
    b"PATCH ",
    b"TRACE ",
    b"CONNECT ",
];

/// What the first bytes of a flow are.
enum Looks {
    Like(Version),
    /// Too few to tell.
    Open,
    Other,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Reader {
    /// Of a flow that has just begun. Allocates nothing.
    pub const fn new() -> Self {
        let server = Early::Begun { held: SETTINGS, length: 0 };
        Self(State::Start { held: [0; PREFACE.len()], length: 0, since: None, server })
    }

    /// Whether there is anything left to learn from this flow.
    pub const fn is_off(&self) -> bool {
        matches!(self.0, State::Off)
    }

    /// Reads on in what the client says, seen at `now`.
    pub fn request(&mut self, bytes: &[u8], now: Instant, seen: &mut dyn Seen) {
        match &mut self.0 {
            State::Off => return,
            State::Start { .. } => return self.start(bytes, now, seen),
            State::One(_) | State::Two(_) => {}
        }
        self.go_on(Side::Client, bytes, now, seen);
    }

    /// Reads on in what the server says, seen at `now`.
    pub fn response(&mut self, bytes: &[u8], now: Instant, seen: &mut dyn Seen) {
        if bytes.is_empty() {
            return;
        }
        if let State::Start { server, .. } = &mut self.0 {
            // Else a server that speaks first does not speak HTTP.
            if server.read(bytes, now, seen).is_none() {
                self.0 = State::Off;
            }
            return;
        }
        self.go_on(Side::Server, bytes, now, seen);
    }

    /// The flow is over; `cut` says who ended it, if it did not end in order.
    ///
    /// Tells of the requests that have no whole answer.
    pub fn end(&mut self, cut: Option<Cut>, now: Instant, seen: &mut dyn Seen) {
        match std::mem::replace(&mut self.0, State::Off) {
            State::One(mut connection) => connection.end(cut, now, seen),
            State::Two(mut connection) => connection.end(cut, now, seen),
            State::Start { .. } | State::Off => {}
        }
    }

    fn go_on(&mut self, from: Side, bytes: &[u8], now: Instant, seen: &mut dyn Seen) {
        let read = match &mut self.0 {
            State::One(connection) => connection.read(from, bytes, now, seen),
            State::Two(connection) => connection.read(from, bytes, now, seen),
            State::Start { .. } | State::Off => return,
        };
        if let Err(why) = read {
            self.0 = State::Off;
            seen.gave_up(why);
        }
    }

    fn start(&mut self, bytes: &[u8], now: Instant, seen: &mut dyn Seen) {
        let State::Start { held, length, since, server } = &mut self.0 else { return };
        if bytes.is_empty() {
            return;
        }
        let since = *since.get_or_insert(now);
        let old = *length;
        let taken = bytes.len().min(held.len() - old);
        held[old..old + taken].copy_from_slice(&bytes[..taken]);
        *length += taken;
        let first = *held;
        let version = match looks(&first[..*length]) {
            Looks::Open => return,
            Looks::Other => {
                self.0 = State::Off;
                return;
            }
            Looks::Like(version) => version,
        };
        self.0 = match (version, server.take(now, seen)) {
            (Version::One, None) => State::One(Box::default()),
            (Version::Two, None) => State::Two(Box::default()),
            (Version::Two, Some(connection)) => State::Two(connection),
            // It answered before it was asked.
            (Version::One, Some(_)) => State::Off,
        };
        if self.is_off() {
            return;
        }
        seen.begun(version);
        // What came in earlier pieces first, as if it had come with this one.
        let rest = match version {
            Version::One => {
                self.go_on(Side::Client, &first[..old], since, seen);
                bytes
            }
            Version::Two => &bytes[taken..],
        };
        self.go_on(Side::Client, rest, now, seen);
    }
}

impl Early {
    /// Reads on; none if this is no server of HTTP/2.
    fn read(&mut self, mut bytes: &[u8], now: Instant, seen: &mut dyn Seen) -> Option<()> {
        if let Self::Begun { held, length } = self {
            let taken = bytes.len().min(held.len() - *length);
            held[*length..*length + taken].copy_from_slice(&bytes[..taken]);
            *length += taken;
            bytes = &bytes[taken..];
            let like = |at: usize| at == 2 || held[at] == SETTINGS[at];
            if !(0..*length).all(like) {
                return None;
            }
            if *length < held.len() {
                return Some(());
            }
            *self = Self::Two(self.take(now, seen)?);
        }
        match self {
            Self::Two(connection) => connection.read(Side::Server, bytes, now, seen).ok(),
            Self::Begun { .. } => Some(()),
        }
    }

    /// A connection that has read all this; none if the server has said nothing.
    fn take(&mut self, now: Instant, seen: &mut dyn Seen) -> Option<Box<h2::Connection>> {
        match std::mem::replace(self, Self::Begun { held: SETTINGS, length: 0 }) {
            Self::Begun { length: 0, .. } => None,
            Self::Begun { held, length } => {
                let mut connection = Box::<h2::Connection>::default();
                // No more than one frame's head, which can always be read.
                connection.read(Side::Server, &held[..length], now, seen).ok()?;
                Some(connection)
            }
            Self::Two(connection) => Some(connection),
        }
    }
}

/// Which side bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

fn looks(bytes: &[u8]) -> Looks {
    if bytes.starts_with(PREFACE) {
        return Looks::Like(Version::Two);
    }
    if METHODS.iter().any(|method| bytes.starts_with(method)) {
        return Looks::Like(Version::One);
    }
    let begins = |whole: &[u8]| whole.starts_with(bytes);
    if begins(PREFACE) || METHODS.iter().any(|method| begins(method)) {
        return Looks::Open;
    }
    Looks::Other
}
