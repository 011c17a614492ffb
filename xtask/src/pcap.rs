//! Reads what tcpdump wrote: TCP segments, and the version that a TLS server chose.
//!
//! Sources: pcap-savefile(5), RFC 9293 section 3.1, RFC 8446 sections 4.1.3 and 4.2.1.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// TLS 1.3 in the extension `supported_versions`.
pub(crate) const TLS13: u16 = 0x0304;

/// A TCP segment.
pub(crate) struct Segment<'a> {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) reset: bool,
    pub(crate) payload: &'a [u8],
}

/// Every TCP segment of a capture of an Ethernet device, in the machine's byte order.
pub(crate) fn segments(capture: &[u8]) -> Vec<Segment<'_>> {
    /// Length of the file's header, and of each packet's.
    const FILE: usize = 24;
    const PACKET: usize = 16;
    let mut rest = capture.get(FILE..).unwrap_or_default();
    let mut found = Vec::new();
    while let Some(length) = rest.get(8..12) {
        let length = u32::from_ne_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let Some(frame) = rest.get(PACKET..PACKET + length) else { break };
        found.extend(segment(frame));
        rest = &rest[PACKET + length..];
    }
    found
}

fn segment(frame: &[u8]) -> Option<Segment<'_>> {
    const IPV4: u16 = 0x0800;
    const IPV6: u16 = 0x86dd;
    const TCP: u8 = 6;
    const RST: u8 = 0x04;
    let packet = frame.get(14..)?;
    let (source, destination, tcp) = match u16_at(frame, 12)? {
        IPV4 => {
            let header = usize::from(packet.first()? & 0x0f) * 4;
            let total = usize::from(u16_at(packet, 2)?);
            if *packet.get(9)? != TCP {
                return None;
            }
            let ip = |at: usize| -> Option<IpAddr> {
                let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
                Some(Ipv4Addr::from(bytes).into())
            };
            // A total of 0 stands for a packet larger than the field can say (segmentation later).
            let end = if total == 0 { packet.len() } else { total };
            (ip(12)?, ip(16)?, packet.get(header..end)?)
        }
        IPV6 => {
            let length = usize::from(u16_at(packet, 4)?);
            if *packet.get(6)? != TCP {
                return None;
            }
            let ip = |at: usize| -> Option<IpAddr> {
                let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
                Some(Ipv6Addr::from(bytes).into())
            };
            let end = if length == 0 { packet.len() } else { 40 + length };
            (ip(8)?, ip(24)?, packet.get(40..end)?)
        }
        _ => return None,
    };
    let offset = usize::from(tcp.get(12)? >> 4) * 4;
    Some(Segment {
        source: SocketAddr::new(source, u16_at(tcp, 0)?),
        destination: SocketAddr::new(destination, u16_at(tcp, 2)?),
        reset: tcp.get(13)? & RST != 0,
        payload: tcp.get(offset..)?,
    })
}

/// The version that a server chose, where a segment begins with a `ServerHello`: the extension
/// `supported_versions` where it is there (TLS 1.3), else the old field. A request to try again
/// has the same form and names the same version.
pub(crate) fn server_version(payload: &[u8]) -> Option<u16> {
    const HANDSHAKE: u8 = 22;
    const SERVER_HELLO: u8 = 2;
    const SUPPORTED_VERSIONS: u16 = 43;
    if *payload.first()? != HANDSHAKE || *payload.get(5)? != SERVER_HELLO {
        return None;
    }
    let hello = payload.get(9..)?;
    let legacy = u16_at(hello, 0)?;
    let session = usize::from(*hello.get(34)?);
    // Behind the session: cipher suite and compression method, then the extensions.
    let Some(mut extensions) = hello.get(35 + session + 3 + 2..) else { return Some(legacy) };
    let length = usize::from(u16_at(hello, 35 + session + 3)?);
    extensions = extensions.get(..length)?;
    while let (Some(kind), Some(length)) = (u16_at(extensions, 0), u16_at(extensions, 2)) {
        if kind == SUPPORTED_VERSIONS {
            return u16_at(extensions, 4);
        }
        extensions = extensions.get(4 + usize::from(length)..)?;
    }
    Some(legacy)
}

/// Whether a text is anywhere in the bytes.
pub(crate) fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    let Some((first, rest)) = needle.split_first() else { return true };
    let mut from = bytes;
    while let Some(at) = from.iter().position(|byte| byte == first) {
        from = &from[at + 1..];
        if from.starts_with(rest) {
            return true;
        }
    }
    false
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}

#[cfg(test)]
mod tests {
    use super::{TLS13, holds, segments, server_version};

    fn server_hello(extensions: &[u8]) -> Vec<u8> {
        let mut hello = vec![3, 3];
        hello.extend([7; 32]);
        hello.extend([2, 9, 9, 0x13, 0x01, 0]);
        hello.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        hello.extend(extensions);
        let length = u8::try_from(hello.len()).unwrap();
        let mut record = vec![22, 3, 3, 0, length + 4, 2, 0, 0, length];
        record.extend(hello);
        record
    }

    #[test]
    fn version_is_the_extension_s() {
        let record = server_hello(&[0, 51, 0, 1, 0, 0, 43, 0, 2, 3, 4]);
        assert_eq!(server_version(&record), Some(TLS13));
    }

    #[test]
    fn version_without_the_extension_is_the_old_one() {
        assert_eq!(server_version(&server_hello(&[0, 51, 0, 1, 0])), Some(0x0303));
        assert_eq!(server_version(b"GET / HTTP/1.1"), None);
        assert_eq!(server_version(&[22, 3, 3, 0]), None);
    }

    #[test]
    fn segment_without_the_padding_of_its_frame() {
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0, 0, 43, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0, 80, 0x3a, 0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0]);
        frame.extend(b"abc\0\0\0");
        let mut capture = vec![0; 24];
        let length = u32::try_from(frame.len()).unwrap();
        capture.extend([0; 8]);
        capture.extend(length.to_ne_bytes());
        capture.extend(length.to_ne_bytes());
        capture.extend(frame);
        let found = segments(&capture);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].source, "10.0.0.1:80".parse().unwrap());
        assert_eq!(found[0].destination, "10.0.0.2:15008".parse().unwrap());
        assert_eq!(found[0].payload, b"abc");
        assert!(!found[0].reset);
    }

    #[test]
    fn text_is_found_wherever_it_is() {
        assert!(holds(b"xxsecret", b"secret"));
        assert!(holds(b"ssecret", b"secret"));
        assert!(!holds(b"secre", b"secret"));
    }
}
