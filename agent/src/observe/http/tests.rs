//! Whole conversations, in any pieces, and such as real programs have.

mod real;

use proptest::prelude::*;

use super::*;

/// What was told, in order.
#[derive(Debug, Default, PartialEq)]
struct Told(Vec<News>);

#[derive(Clone, Copy, Debug, PartialEq)]
enum News {
    Begun(Version),
    Exchange(Exchange),
    GaveUp(GaveUp),
}

impl Seen for Told {
    fn begun(&mut self, version: Version) {
        self.0.push(News::Begun(version));
    }

    fn exchange(&mut self, exchange: Exchange) {
        self.0.push(News::Exchange(exchange));
    }

    fn gave_up(&mut self, why: GaveUp) {
        self.0.push(News::GaveUp(why));
    }
}

impl Told {
    /// Statuses of the exchanges, and who cut them.
    fn exchanges(&self) -> Vec<(Option<u16>, Option<Cut>)> {
        let exchange = |news: &News| match news {
            News::Exchange(exchange) => Some((exchange.status, exchange.cut)),
            _ => None,
        };
        self.0.iter().filter_map(exchange).collect()
    }

    fn gave_up(&self) -> Option<GaveUp> {
        match self.0.last() {
            Some(News::GaveUp(why)) => Some(*why),
            _ => None,
        }
    }
}

type Conversation = Vec<(Side, Vec<u8>)>;

/// The reader's account of a conversation in which every message is cut where `cuts` says.
fn read(conversation: &Conversation, cuts: &[usize]) -> Told {
    let (mut reader, mut told) = (Reader::new(), Told::default());
    let now = Instant::now();
    let mut cuts = cuts.iter().cycle();
    for (from, message) in conversation {
        let mut rest = &message[..];
        while !rest.is_empty() {
            let length = cuts.next().map_or(rest.len(), |cut| rest.len().min(1 + *cut));
            let (piece, after) = rest.split_at(length);
            match from {
                Side::Client => reader.request(piece, now, &mut told),
                Side::Server => reader.response(piece, now, &mut told),
            }
            rest = after;
        }
    }
    reader.end(None, now, &mut told);
    told
}

fn talk(messages: &[(Side, &str)]) -> Conversation {
    messages.iter().map(|(from, text)| (*from, text.as_bytes().to_vec())).collect()
}

use Side::{Client as C, Server as S};

#[test]
fn answers_end_where_the_standard_says() {
    type Case<'a> = (&'a [(Side, &'a str)], &'a [(Option<u16>, Option<Cut>)]);
    let ok = |status| (Some(status), None);
    let cases: &[Case<'_>] = &[
        (
            &[
                (C, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
                (S, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
                (C, "POST /x HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"),
                (S, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
            ],
            &[ok(200), ok(404)],
        ),
        // No body, whatever the length says.
        (
            &[
                (C, "HEAD / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
                (S, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/1.1 304 No\r\n\r\n"),
                (S, "HTTP/1.1 204 No\r\nContent-Length: 9\r\n\r\n"),
            ],
            &[ok(200), ok(304), ok(204)],
        ),
        // Chunks, with an extension and trailers.
        (
            &[
                (C, "PUT / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n"),
                (C, "a;x=y\r\n0123456789\r\n0\r\nX: y\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
                (S, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 E\r\nLink: <x>\r\n\r\n"),
                (S, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"),
                (S, "HTTP/1.1 500 Oops\ncontent-length: 1\n\nx"),
            ],
            &[ok(200), ok(500)],
        ),
        // Until the end.
        (&[(C, "GET / HTTP/1.0\r\n\r\n"), (S, "HTTP/1.0 200 OK\r\n\r\nall of this")], &[ok(200)]),
        // Cut short, or not answered at all.
        (
            &[
                (C, "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
                (S, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"),
            ],
            &[(Some(200), Some(Cut::Server)), (None, Some(Cut::Server))],
        ),
    ];
    for (messages, expected) in cases {
        let told = read(&talk(messages), &[]);
        assert_eq!(told.exchanges(), *expected, "{messages:?}");
        assert_eq!(told.gave_up(), None, "{messages:?}");
    }
}

#[test]
fn what_is_odd_ends_the_reading_and_nothing_else() {
    let long = "x".repeat(MAX_HEAD);
    let get = "GET / HTTP/1.1\r\n\r\n";
    let cases: &[(&[(Side, &str)], GaveUp)] = &[
        (&[(C, "CONNECT a:1 HTTP/1.1\r\n\r\n")], GaveUp::Upgraded),
        (&[(C, get), (S, "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n\x00")], GaveUp::Upgraded),
        (&[(C, "GET / HTTP/1.1\r\nA: "), (C, &long)], GaveUp::TooLong),
        (&[(C, get), (S, "HTTP/1.1 200 OK\r\nA: "), (S, &long)], GaveUp::TooLong),
        (&[(C, &get.repeat(MAX_PIPELINED + 1))], GaveUp::TooMany),
        (&[(C, "GET / HTTP/1.1\r\n"), (C, &"a: b\r\n".repeat(101)), (C, "\r\n")], GaveUp::TooLong),
        (&[(C, "GET / HTTP/9.1\r\n\r\n")], GaveUp::Malformed),
        (&[(C, get), (S, "SSH-2.0-x\r\n\r\n")], GaveUp::Malformed),
        (&[(C, get), (S, "HTTP/1.1 204 No\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")], GaveUp::Malformed),
        // What two parsers may read in two ways.
        (
            &[(C, "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")],
            GaveUp::Malformed,
        ),
        (
            &[(C, "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n")],
            GaveUp::Malformed,
        ),
        (&[(C, "POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n")], GaveUp::Malformed),
        (&[(C, "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n")], GaveUp::Malformed),
        (&[(C, "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\n")], GaveUp::Malformed),
        (&[(C, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x09\x04\0\0\0\x01")], GaveUp::Malformed),
    ];
    for (messages, expected) in cases {
        for cuts in [&[][..], &[0], &[2, 6]] {
            assert_eq!(read(&talk(messages), cuts).gave_up(), Some(*expected), "{messages:?}");
        }
    }
}

#[test]
fn what_is_not_http_is_let_be_at_once() {
    let others: [(Side, &[u8]); 7] = [
        (S, b"220 mail.example ESMTP\r\n"),
        (S, b"\0\0\x06\x04\0\0\0\0\x01"),
        (C, b"\x16\x03\x01\x02\x00\x01"),
        (C, b"*1\r\n$4\r\nPING\r\n"),
        (C, b"PRI * HTTP/2.0\r\n\r\nXX"),
        (C, b"GETX / HTTP/1.1\r\n\r\n"),
        (C, b"\0"),
    ];
    for (from, bytes) in others {
        let conversation = vec![(from, bytes.to_vec()), (C, b"GET / HTTP/1.1\r\n\r\n".to_vec())];
        for cuts in [&[][..], &[0]] {
            assert_eq!(read(&conversation, cuts), Told::default(), "{}", bytes.escape_ascii());
        }
    }
}

#[test]
fn time_is_from_the_first_byte_asked_to_the_last_answered() {
    let (mut reader, mut told) = (Reader::new(), Told::default());
    let begun = Instant::now();
    let at = |milliseconds| begun + Duration::from_millis(milliseconds);
    reader.request(b"GE", at(0), &mut told);
    reader.request(b"T / HTTP/1.1\r\n\r\n", at(10), &mut told);
    reader.response(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab", at(20), &mut told);
    reader.response(b"cd", at(35), &mut told);
    reader.request(b"GET / HTTP/1.1\r\n\r\n", at(100), &mut told);
    reader.end(Some(Cut::Client), at(105), &mut told);
    let durations: Vec<_> = told
        .0
        .iter()
        .filter_map(|news| match news {
            News::Exchange(exchange) => Some((exchange.duration.as_millis(), exchange.cut)),
            _ => None,
        })
        .collect();
    assert_eq!(durations, [(35, None), (5, Some(Cut::Client))]);
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// Two requests at once, one of gRPC; padding, priority, a head in three frames, a promise, a reset.
fn two() -> Conversation {
    let preface = PREFACE.to_vec();
    let grpc = b"\x83\x5f\x10application/grpc";
    vec![
        (C, [preface, frame(4, 0, 0, &[0, 3, 0, 0, 0, 9])].concat()),
        (C, frame(1, 0x2d, 1, b"\x02\0\0\0\0\0\x82\x84\0\0")),
        (S, [frame(4, 0, 0, &[]), frame(4, 1, 0, &[])].concat()),
        (C, [frame(1, 0, 3, &grpc[..4]), frame(9, 0, 3, &grpc[4..9])].concat()),
        (C, [frame(9, 4, 3, &grpc[9..]), frame(0, 1, 3, b"\0\0\0\0\0")].concat()),
        (S, frame(5, 4, 1, b"\0\0\0\x02\x82")),
        (S, [frame(1, 4, 1, b"\x48\x03103"), frame(1, 4, 1, b"\x8d")].concat()),
        (S, [frame(1, 4, 2, b"\x8e"), frame(0, 1, 2, b"promised")].concat()),
        (S, [frame(1, 4, 3, b"\x88"), frame(0, 0, 1, b"hello"), frame(0, 1, 1, b"")].concat()),
        (S, [frame(0, 0, 3, b"\0\0\0\0\0"), frame(1, 5, 3, b"\x40\x0bgrpc-status\x0214")].concat()),
        (C, frame(1, 5, 5, b"\x82")),
        (C, frame(3, 0, 5, &[0, 0, 0, 8])),
        (C, frame(1, 4, 7, b"\x42\x07CONNECT")),
        (C, frame(1, 5, 9, b"\x82")),
    ]
}

#[test]
fn streams_are_told_apart() {
    let told = read(&two(), &[]);
    assert_eq!(told.gave_up(), None);
    let exchange = |protocol, status, grpc_status, cut| {
        News::Exchange(Exchange { protocol, status, grpc_status, cut, duration: Duration::ZERO })
    };
    let expected = [
        News::Begun(Version::Two),
        exchange(Protocol::Http, Some(404), None, None),
        exchange(Protocol::Grpc, Some(200), Some(14), None),
        exchange(Protocol::Http, None, None, Some(Cut::Client)),
        exchange(Protocol::Http, None, None, Some(Cut::Server)),
    ];
    assert_eq!(told.0, expected);
}

/// The same, of a server that begins, as nghttpd does.
fn server_first() -> Conversation {
    let mut conversation = two();
    let settings = [frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]), frame(4, 1, 0, &[])].concat();
    conversation[2] = (S, Vec::new());
    conversation.insert(0, (S, settings));
    conversation
}

#[test]
fn a_server_of_http_2_may_speak_first() {
    assert_eq!(read(&server_first(), &[]), read(&two(), &[]));
    // The client's first bytes come in the middle of the server's.
    let mut between = server_first();
    let rest = between[0].1.split_off(5);
    between.insert(2, (S, rest));
    assert_eq!(read(&between, &[]), read(&two(), &[]));
    // But not one of HTTP/1.1.
    let mut other = server_first();
    other.truncate(1);
    other.extend(one());
    assert_eq!(read(&other, &[]), Told::default());
}

#[test]
fn too_many_streams_end_the_reading() {
    let mut conversation = two();
    conversation.truncate(1);
    for stream in 0..=MAX_STREAMS {
        let [high, low] = u16::try_from(2 * stream + 1).unwrap().to_be_bytes();
        conversation.push((C, vec![0, 0, 1, 1, 5, 0, 0, high, low, 0x82]));
    }
    assert_eq!(read(&conversation, &[]).gave_up(), Some(GaveUp::TooMany));
}

fn one() -> Conversation {
    talk(&[
        (C, "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (C, "4\r\nGET \r\n00a;e=\"x\"\r\n\r\n\r\n\r\n\r\n\r\n\r\n0\r\nT: v\r\n\r\n"),
        (S, "HTTP/1.1 100 Continue\r\n\r\n"),
        (C, "\r\nGET /b HTTP/1.1\r\n\r\n\nHEAD /c HTTP/1.1\n\n"),
        (S, "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nHTTP/1.1 \r\nHTTP/1.1 503 X\r\n"),
        (S, "Transfer-Encoding: chunked\r\n\r\n1\r\n\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
        (C, "GET /d HTTP/1.1\r\n\r\n"),
        (S, "HTTP/1.1 200 OK\r\n\r\nuntil the end"),
    ])
}

proptest! {
    #[test]
    fn any_pieces_tell_the_same(cuts in prop::collection::vec(0..40_usize, 1..20)) {
        for conversation in [one(), two(), server_first()] {
            prop_assert_eq!(read(&conversation, &cuts), read(&conversation, &[]));
        }
    }

    #[test]
    fn any_bytes_are_survived_and_in_any_pieces_the_same(
        mut conversation in prop_oneof![Just(one()), Just(two()), Just(server_first())],
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cuts in prop::collection::vec(0..40_usize, 1..20),
    ) {
        for (place, byte) in places {
            let message = place.index(conversation.len());
            if !conversation[message].1.is_empty() {
                let at = place.index(conversation[message].1.len());
                conversation[message].1[at] = byte;
            }
        }
        prop_assert_eq!(read(&conversation, &cuts), read(&conversation, &[]));
    }
}
