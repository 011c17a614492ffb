//! Bytes that are no handshake of the mesh, and handshakes that do not end.

use super::stage::Stage;
use super::tls::{Credentials, End, Tls};
use anyhow::{Result, ensure};
use culvert_tests::scenario;
use rustls::AlertDescription;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The deadline of a handshake, and most that a busy machine may add.
const DEADLINE: Duration = Duration::from_secs(10);
const DEADLINE_AT_MOST: Duration = Duration::from_secs(20);

/// Record types of TLS.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

/// What a socket still gives until it ends, and whether it ended.
fn rest(socket: &mut TcpStream, limit: Duration) -> Result<(Vec<u8>, End)> {
    let (mut said, mut piece, begun) = (Vec::new(), [0; 4096], Instant::now());
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Ok((said, End::Silent));
        }
        socket.set_read_timeout(Some(left))?;
        match socket.read(&mut piece) {
            Ok(0) => return Ok((said, End::Closed)),
            Ok(length) => said.extend_from_slice(&piece[..length]),
            Err(error) => return Ok((said, End::of(&error))),
        }
    }
}

/// A `ClientHello` of TLS 1.2, as a client sends it that has never heard of 1.3 (RFC 5246 section
/// 7.4.1.2).
fn hello_of_tls12() -> Vec<u8> {
    let extensions = [
        &[0, 10, 0, 4, 0, 2, 0, 23][..],     // supported_groups: secp256r1
        &[0, 11, 0, 2, 1, 0],                // ec_point_formats: uncompressed
        &[0, 13, 0, 6, 0, 4, 4, 3, 8, 4],    // signature_algorithms: ECDSA, RSA-PSS
        &[0, 16, 0, 5, 0, 3, 2, b'h', b'2'], // ALPN: h2
    ]
    .concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]); // random
    body.extend([0, 0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0]); // no session, two suites, no compression
    body.extend(two_bytes(extensions.len()));
    body.extend(extensions);
    let mut hello = vec![HANDSHAKE, 3, 1];
    hello.extend(two_bytes(body.len() + 4));
    hello.extend([1, 0]); // ClientHello, with a length of three bytes
    hello.extend(two_bytes(body.len()));
    hello.extend(body);
    hello
}

/// The low half of a length, in network order.
fn two_bytes(length: usize) -> [u8; 2] {
    let [.., high, low] = length.to_be_bytes();
    [high, low]
}

#[test]
fn tls_1_2_is_refused() {
    scenario(|| {
        let stage = Stage::build()?;
        let mut socket = stage.dial()?;
        socket.write_all(&hello_of_tls12())?;
        let (said, end) = rest(&mut socket, DEADLINE)?;
        ensure!(end.is_over(), "the victim goes on");
        let fatal_protocol_version = [2, 70];
        ensure!(
            said.first() == Some(&ALERT) && said.ends_with(&fatal_protocol_version),
            "the victim said {said:?}"
        );
        stage.counted("tls_protocol", 1, "does not speak mutual TLS 1.3")?;
        stage.unharmed()
    });
}

/// A client with a good certificate that offers these protocols.
fn offering(protocols: &'static [&'static str], expected: &'static [End]) {
    scenario(move || {
        let stage = Stage::build()?;
        let credentials = Credentials::of(stage.mint.svid("x1")?).alpn(protocols);
        let mut tls = Tls::client(stage.dial()?, &credentials)?;
        let (said, end) = match tls.handshake() {
            Ok(()) => tls.last_word(),
            Err(end) => (Vec::new(), end),
        };
        ensure!(expected.contains(&end), "refused by {end:?}");
        ensure!(said.is_empty(), "the victim spoke: {said:?}");
        stage.counted("tls_protocol", 1, "did not agree on ALPN `h2`")?;
        stage.unharmed()
    });
}

#[test]
fn no_alpn_is_refused() {
    // A client that offers none has no alert to expect (RFC 7301 section 3.2 is about a list
    // without a match).
    offering(&[], &[End::Closed, End::Reset]);
}

#[test]
fn alpn_of_http_1_is_refused() {
    offering(&["http/1.1"], &[End::Alert(AlertDescription::NoApplicationProtocol)]);
}

#[test]
fn garbage_before_tls_is_refused() {
    scenario(|| {
        let stage = Stage::build()?;
        for garbage in [&b"GET / HTTP/1.1\r\nhost: b1\r\n\r\n"[..], &[0; 3000], &[0xff; 3000]] {
            let mut socket = stage.dial()?;
            socket.write_all(garbage)?;
            let (said, end) = rest(&mut socket, DEADLINE)?;
            ensure!(end.is_over(), "the victim goes on");
            ensure!(said.is_empty() || said[0] == ALERT, "the victim said {said:?}");
        }
        stage.counted("tls_protocol", 3, "does not speak mutual TLS 1.3")?;
        stage.unharmed()
    });
}

/// What a believed peer sends in place of HTTP/2.
fn sending(bytes: &'static [u8]) {
    scenario(move || {
        let stage = Stage::build()?;
        let mut tls = stage.believed()?;
        let end = match tls.send(bytes) {
            Ok(()) => {
                let (said, end) = tls.last_word();
                ensure!(!said.starts_with(b"HTTP/"), "the victim speaks HTTP/1: {said:?}");
                end
            }
            Err(end) => end,
        };
        ensure!(end.is_over(), "the victim goes on");
        stage.counted("h2_handshake", 1, "does not speak HTTP/2 inside of TLS")?;
        stage.unharmed()
    });
}

#[test]
fn http_1_inside_of_tls_is_refused() {
    sending(b"CONNECT 10.11.2.2:80 HTTP/1.1\r\nhost: 10.11.2.2:80\r\n\r\n");
}

#[test]
fn garbage_inside_of_tls_is_refused() {
    sending(&[0xaa; 3000]);
}

#[test]
fn handshake_byte_by_byte_ends_at_its_deadline() {
    scenario(|| {
        let stage = Stage::build()?;
        let mut socket = stage.dial()?;
        let begun = Instant::now();
        // Four bytes a second would take a minute.
        for byte in hello_of_tls12().repeat(3) {
            socket.set_read_timeout(Some(Duration::from_millis(250)))?;
            let ended = match socket.read(&mut [0; 64]) {
                Ok(_) => true,
                Err(error) => End::of(&error).is_over(),
            };
            if ended || socket.write_all(&[byte]).is_err() {
                break;
            }
        }
        let took = begun.elapsed();
        ensure!(took > DEADLINE / 2 && took < DEADLINE_AT_MOST, "it ended after {took:?}");
        stage.counted("handshake_timeout", 1, "did not end within 10 s")?;
        stage.unharmed()
    });
}

#[test]
fn six_hundred_half_open_connections_keep_nobody_out() {
    scenario(|| {
        let mut stage = Stage::build()?;
        let begun = Instant::now();
        let mut sockets = stage.dial_many(600)?;
        for socket in &mut sockets {
            // A record's head without the record; a connection over the limit is gone already.
            let _ = socket.write_all(&[HANDSHAKE, 3, 1, 1, 0]); // reason: see above
        }
        // 128 handshakes of one source at a time, for each worker; the others are refused at once.
        stage.counted("limit_reached", 600 - 128, "handshakesPerSource")?;
        stage.newcomer()?;
        stage.while_honest(|| {
            for socket in &mut sockets {
                let left = DEADLINE_AT_MOST.saturating_sub(begun.elapsed());
                let (said, end) = rest(socket, left)?;
                ensure!(end.is_over(), "a half-open connection outlives the deadline");
                ensure!(said.is_empty() || said[0] == ALERT, "the victim said {said:?}");
            }
            Ok(())
        })?;
        ensure!(begun.elapsed() > DEADLINE / 2, "they did not even get their time");
        stage.counted("handshake_timeout", 128, "did not end within 10 s")?;
        stage.unharmed()
    });
}
