use super::*;
use proptest::prelude::*;

/// A head's field, and how it is put on the wire.
#[derive(Clone, Debug)]
struct Put {
    name: String,
    value: String,
    coded: bool,
    kept: bool,
}

fn string(text: &str, coded: bool, out: &mut Vec<u8>) {
    let (mark, bytes) = if coded {
        (0x80, huffman::tests::encode(text.as_bytes()))
    } else {
        (0, text.as_bytes().to_vec())
    };
    integer(bytes.len(), 7, mark, out);
    out.extend(bytes);
}

fn integer(value: usize, prefix: u8, mark: u8, out: &mut Vec<u8>) {
    let most = (1_usize << prefix) - 1;
    if value < most {
        return out.push(mark | u8::try_from(value).unwrap());
    }
    out.push(mark | u8::try_from(most).unwrap());
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
        rest >>= 7;
    }
    out.push(u8::try_from(rest).unwrap());
}

fn literal(put: &Put) -> Vec<u8> {
    let mut out = vec![if put.kept { 0x40 } else { 0x00 }];
    string(&put.name, put.coded, &mut out);
    string(&put.value, put.coded, &mut out);
    out
}

/// What the library's own decoder makes of the block, in our terms.
fn by_library(library: &mut loona_hpack::Decoder<'_>, block: &[u8]) -> Option<Fields> {
    let mut fields = Fields::default();
    for (name, value) in library.decode(block).ok()? {
        let length = u32::try_from(value.len()).unwrap();
        let text = Text { length, kept: Kept::Raw(&value) };
        fields.note(Name::of(&name).with(&text)?)?;
    }
    Some(fields)
}

#[test]
fn examples_of_the_standard_are_read() {
    // RFC 7541 appendix C.6: three answers with Huffman codes and a table of 256 bytes, out of
    // which the status of the first is evicted and asked for anew.
    let mut decoder = Decoder { limit: 256, ..Decoder::default() };
    let blocks: [(&[u8], u16); 2] = [
        (
            b"\x48\x82\x64\x02\x58\x85\xae\xc3\x77\x1a\x4b\x61\x96\xd0\x7a\xbe\x94\x10\x54\xd4\
              \x44\xa8\x20\x05\x95\x04\x0b\x81\x66\xe0\x82\xa6\x2d\x1b\xff\x6e\x91\x9d\x29\xad\
              \x17\x18\x63\xc7\x8f\x0b\x97\xc8\xe9\xae\x82\xae\x43\xd3",
            302,
        ),
        (b"\x48\x83\x64\x0e\xff\xc1\xc0\xbf", 307),
    ];
    for (block, status) in blocks {
        assert_eq!(decoder.decode(block).and_then(|fields| fields.status), Some(status));
    }
    assert_eq!(decoder.size, 222);
    assert_eq!(decoder.table.len(), 4);
}

#[test]
fn what_matters_is_found_however_it_is_written() {
    let found = |name: &str, value: &str| {
        let both = [true, false].map(|coded| {
            let put = Put { name: name.into(), value: value.into(), coded, kept: true };
            let mut decoder = Decoder::default();
            let first = decoder.decode(&literal(&put));
            // The same once more, out of the table.
            assert_eq!(first, decoder.decode(&[0xbe]), "{name}: {value}");
            first
        });
        assert_eq!(both[0], both[1], "{name}: {value}");
        both[0]
    };
    let fields = Fields::default();
    assert_eq!(found(":status", "201"), Some(Fields { status: Some(201), ..fields }));
    assert_eq!(found(":status", "2010"), None);
    assert_eq!(found(":method", "CONNECT"), Some(Fields { connect: true, ..fields }));
    assert_eq!(found(":method", "GET"), Some(fields));
    let grpc = Some(Fields { grpc: true, ..fields });
    assert_eq!(found("content-type", "application/grpc"), grpc);
    assert_eq!(found("content-type", "application/grpc+proto"), grpc);
    assert_eq!(found("content-type", "application/grpc-web"), Some(fields));
    assert_eq!(found("content-type", &format!("application/grpc{}", "x".repeat(99))), Some(fields));
    let status = |code| Some(Fields { grpc_status: Some(code), ..fields });
    assert_eq!(found("grpc-status", "0"), status(0));
    assert_eq!(found("grpc-status", "16"), status(16));
    assert_eq!(found("grpc-status", "17"), status(2));
    assert_eq!(found("x-grpc-status", "0"), Some(fields));
}

#[test]
fn what_cannot_be_is_refused() {
    let refused: [&[u8]; 7] = [
        b"\x80",                         // index zero
        b"\xbe",                         // 62, and the table is empty
        b"\x88\x88",                     // two statuses
        b"\x82\x20",                     // a new limit after a field
        b"\x3f\xe2\xff\x03",             // a limit above 64 KiB
        b"\x00\x05ab",                   // a string cut short
        b"\xff\xff\xff\xff\xff\xff\x0f", // an integer without end
    ];
    for block in refused {
        assert_eq!(Decoder::default().decode(block), None, "{}", block.escape_ascii());
    }
}

fn put() -> impl Strategy<Value = Put> {
    let name = prop_oneof![
        Just("content-type".to_owned()),
        Just("grpc-status".to_owned()),
        "[a-z-]{1,40}",
    ];
    let value = prop_oneof![
        Just("application/grpc+proto".to_owned()),
        Just("0".to_owned()),
        "[ -~]{0,60}",
        // Larger than the whole table.
        Just("v".repeat(4090)),
    ];
    (name, value, any::<bool>(), any::<bool>()).prop_map(|(name, value, coded, kept)| Put {
        name,
        value,
        coded,
        kept,
    })
}

proptest! {
    #[test]
    fn heads_mean_what_the_library_says(
        heads in prop::collection::vec(prop::collection::vec((put(), 0..80_u8), 1..12), 1..12),
        limit in prop::option::of(0..300_usize),
    ) {
        let (mut ours, mut library) = (Decoder::default(), loona_hpack::Decoder::new());
        for (at, head) in heads.iter().enumerate() {
            let mut block = Vec::new();
            if let Some(limit) = limit.filter(|_| at == 1) {
                integer(limit, 5, 0x20, &mut block);
            }
            for (put, index) in head {
                // Every other field by its index, which may be out of the tables.
                match index % 2 {
                    0 => block.extend(literal(put)),
                    _ => block.push(0x80 | index),
                }
            }
            let expected = by_library(&mut library, &block);
            prop_assert_eq!(ours.decode(&block), expected);
            if expected.is_none() {
                break;
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(block in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut decoder = Decoder::default();
        for _ in 0..3 {
            if decoder.decode(&block).is_none() {
                break;
            }
        }
        prop_assert!(decoder.size <= decoder.limit && decoder.limit <= MAX_TABLE);
        let sum: u32 = decoder.table.iter().map(|entry| entry.size).sum();
        prop_assert_eq!(decoder.size, sum);
    }
}
