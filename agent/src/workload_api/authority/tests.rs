use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

const SENT: &[u8] = b"run%2Fapi%2esock%";
const PASSED: &[u8] = b"run-2Fapi-2esock-";

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

/// A text that is short enough to have its length in one octet.
fn text(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text].concat()
}

/// A connection with one call: these fields before ours, `field` as `:authority`.
fn call(field: &[u8]) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    block.extend([&[0x44][..], &text(b"/a%2Fb")].concat());
    block.extend(field);
    block.extend([&[0x40][..], &text(b"te"), &text(b"trailers")].concat());
    connection(&[frame(HEADERS, END_HEADERS, &block)])
}

fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    [&PREFACE[..], &settings, &frames.concat()].concat()
}

fn passed(octets: &[u8]) -> Vec<u8> {
    let mut octets = octets.to_vec();
    AuthorityFilter::default().pass(&mut octets);
    octets
}

fn changed(octets: &[u8]) -> Vec<u8> {
    let at = octets.windows(SENT.len()).position(|part| part == SENT).expect("what is to change");
    [&octets[..at], PASSED, &octets[at + SENT.len()..]].concat()
}

/// However it is cut in two.
#[track_caller]
fn assert_passes_as(sent: &[u8], expected: &[u8]) {
    for cut in 0..=sent.len() {
        let mut octets = sent.to_vec();
        let mut filter = AuthorityFilter::default();
        let (first, second) = octets.split_at_mut(cut);
        filter.pass(first);
        filter.pass(second);
        assert_eq!(octets.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{cut}");
    }
}

#[track_caller]
fn assert_untouched(sent: &[u8]) {
    assert_passes_as(sent, sent);
}

/// Every literal form of the field, by the name's index and spelt out.
fn literals() -> Vec<Vec<u8>> {
    let indexed = [0x41, 0x01, 0x11].map(|form| [&[form][..], &text(SENT)].concat());
    let spelt = [0x40, 0x00, 0x10].map(|form| [&[form][..], &text(NAME), &text(SENT)].concat());
    [indexed, spelt].concat()
}

#[test]
fn percent_of_an_authority_becomes_a_hyphen_in_every_literal_form() {
    for literal in literals() {
        let sent = call(&literal);
        assert_passes_as(&sent, &changed(&sent));
    }
    // Longer than its length's first octet can say.
    let host = [SENT, &[b'a'; 200][..]].concat();
    let beyond = u8::try_from(host.len() - 0x7f).unwrap();
    let sent = call(&[&[0x41, 0x7f, 0x80 | beyond, 0][..], &host].concat());
    assert_passes_as(&sent, &changed(&sent));
}

#[test]
fn block_is_followed_through_padding_priority_and_continuations() {
    let block = [&[0x83, 0x20, 0x41][..], &text(SENT), &[0x86]].concat();
    let padding = b"\x41\x03%%%";
    for end in [0, END_HEADERS] {
        let (first, second) = if end == 0 { block.split_at(9) } else { (&block[..], &[][..]) };
        let padded = [&[5][..], first, padding].concat();
        let both = [&[5, 0, 0, 0, 3, 16][..], first, padding].concat();
        let prioritised = [&[0, 0, 0, 3, 16][..], first].concat();
        for (flags, payload) in [
            (0, first),
            (PADDED, &padded[..]),
            (PRIORITY, &prioritised[..]),
            (PADDED | PRIORITY, &both[..]),
        ] {
            let mut frames = vec![frame(HEADERS, flags | end, payload)];
            if end == 0 {
                frames.push(frame(CONTINUATION, 0, &second[..1]));
                frames.push(frame(CONTINUATION, 0, &[]));
                frames.push(frame(CONTINUATION, END_HEADERS, &second[1..]));
            }
            // The next call on the connection is read from its right octet on.
            frames.push(frame(0, 1, b"message"));
            let next = [&[0x11][..], &text(b"%a")].concat();
            frames.push(frame(HEADERS, END_HEADERS, &next));
            let sent = connection(&frames);
            let mut expected = sent.clone();
            let mut values = 0;
            for at in 0..expected.len() {
                // Each value alone, by hand: cut values are not found as a whole.
                let in_padding = expected[..at].ends_with(b"\x03")
                    || expected[..at].ends_with(b"\x03%")
                    || expected[..at].ends_with(b"\x03%%");
                if expected[at] == b'%' && !in_padding {
                    expected[at] = b'-';
                    values += 1;
                }
            }
            assert_eq!(values, 4);
            assert_passes_as(&sent, &expected);
        }
    }
}

#[test]
fn everything_else_passes_as_it_is() {
    // Other names, spelt out and by index; names that only begin as ours, or go on.
    assert_untouched(&call(&[&[0x44][..], &text(SENT)].concat()));
    for name in [&b"path"[..], b":authorit", b":authority2", b"", b":Authority"] {
        assert_untouched(&call(&[&[0x40][..], &text(name), &text(SENT)].concat()));
    }
    // A name from the dynamic table, and a value that says that it is Huffman-coded.
    assert_untouched(&call(&[&[0x7e][..], &text(SENT)].concat()));
    assert_untouched(&call(&[&[0x41, 0x80 | 3][..], b"%%%"].concat()));
    // A name that is Huffman-coded, whatever its octets are.
    assert_untouched(&call(&[&[0x40, 0x80 | 0x0a][..], NAME, &text(SENT)].concat()));
    // What looks like one in a message, in no HTTP/2, and behind what is none.
    let field = [&[0x41][..], &text(SENT)].concat();
    assert_untouched(&connection(&[frame(0, 0, &frame(HEADERS, END_HEADERS, &field))]));
    assert_untouched(&[&b"GET / HTTP/1.1\r\n"[..], &call(&field)].concat());
    let call = frame(HEADERS, END_HEADERS, &field);
    for broken in [
        // Padding longer than its frame; a frame too short for what it announces.
        frame(HEADERS, END_HEADERS | PADDED, &[9, 0x83]),
        frame(HEADERS, END_HEADERS | PADDED, &[]),
        frame(HEADERS, END_HEADERS | PRIORITY, &[0; 4]),
        // A block that nothing, or something else, goes on with; and that ends within a field.
        frame(CONTINUATION, END_HEADERS, &field),
        [frame(HEADERS, 0, &[0x83]), frame(0, 0, &[])].concat(),
        [frame(HEADERS, 0, &[0x83]), frame(HEADERS, 0, &[])].concat(),
        frame(HEADERS, END_HEADERS, &field[..2]),
        // A number without an end.
        frame(HEADERS, END_HEADERS, &[0xff; 16]),
    ] {
        assert_untouched(&connection(&[broken, call.clone()]));
    }
}

/// Frames with blocks that are nearly sound, so that more than the first octets are reached.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        proptest::sample::select(literals()),
        vec(any::<u8>(), 0..4),
        Just(vec![0x83]),
        Just([&[0x44][..], &text(b"/%")].concat()),
    ];
    let frame =
        (prop_oneof![Just(HEADERS), Just(CONTINUATION), 0_u8..10], any::<u8>(), vec(piece, 0..5))
            .prop_map(|(kind, flags, pieces)| frame(kind, flags, &pieces.concat()));
    vec(frame, 0..6).prop_map(|frames| connection(&frames))
}

proptest! {
    #[test]
    fn any_octets_keep_their_length_and_all_but_percents(
        octets in prop_oneof![
            frames(),
            vec(any::<u8>(), 0..200),
            vec(any::<u8>(), 0..200).prop_map(|rest| [&PREFACE[..], &rest].concat()),
        ],
        cuts in vec(any::<proptest::sample::Index>(), 0..8),
    ) {
        let whole = passed(&octets);
        prop_assert_eq!(whole.len(), octets.len());
        for (sent, got) in octets.iter().zip(&whole) {
            prop_assert!(sent == got || (*sent, *got) == (b'%', b'-'));
        }
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(octets.len() + 1)).collect();
        cuts.sort_unstable();
        let (mut filter, mut parts, mut from) = (AuthorityFilter::default(), octets.clone(), 0);
        for cut in cuts.into_iter().chain([octets.len()]) {
            filter.pass(&mut parts[from..cut]);
            from = cut;
        }
        prop_assert_eq!(&parts, &whole);
        // What has passed once has nothing more to change.
        prop_assert_eq!(passed(&whole), whole);
    }
}
