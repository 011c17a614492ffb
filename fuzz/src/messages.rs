//! Protocol messages that the authority decodes.

use crate::Verdict;
use culvert_proto::culvert::ca as culvert;
use culvert_proto::istio::ca::IstioCertificateRequest;
use prost::Message;
use std::fmt::Debug;

/// A request for a certificate.
pub(crate) fn istio_request(input: &[u8]) -> Verdict {
    decoded::<IstioCertificateRequest>(input)
}

/// The authority's own interface, each message by the first byte of the input.
pub(crate) fn ca_messages(input: &[u8]) -> Verdict {
    let Some((first, rest)) = input.split_first() else { return Verdict::Refused };
    match first % 2 {
        0 => decoded::<culvert::TrustBundle>(rest),
        _ => decoded::<culvert::SignJwtSvidRequest>(rest),
    }
}

fn decoded<M: Message + Default + PartialEq + Debug>(input: &[u8]) -> Verdict {
    let read = M::decode(input);
    if let Ok(message) = &read {
        let again = M::decode(message.encode_to_vec().as_slice()).expect("our own encoding");
        // A number that is none is not equal to itself.
        assert!(again == *message || format!("{again:?}") == format!("{message:?}"));
    }
    Verdict::of(&read)
}
