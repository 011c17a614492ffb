//! Requests of a believed peer that lead nowhere: the connection goes on, the request does not.

use super::http2::{self, Answer, Peer, code, flag, frame, kind};
use super::stage::{PORT, Stage};
use anyhow::{Context, Result, ensure};
use culvert_tests::{SOON, scenario, until};

/// Asks for each of these on one connection; all must be answered with 400 and this reason.
fn bad(
    reason: &'static str,
    words: &'static str,
    authorities: impl FnOnce(&Stage) -> Result<Vec<String>> + Send + 'static,
) {
    scenario(move || {
        let stage = Stage::build()?;
        let authorities = authorities(&stage)?;
        let mut peer = Peer::open(&stage)?;
        let mut stream = 1;
        for authority in &authorities {
            // With data right behind, which must not get anywhere either.
            let data = frame(kind::DATA, 0, stream, b"to nobody");
            peer.send(&[http2::connect(stream, authority), data].concat())?;
            let answer = peer.answer(stream, SOON)?;
            ensure!(answer == Answer::Status(400), "{authority} was answered with {answer:?}");
            stream += 2;
        }
        stage.counted(reason, u32::try_from(authorities.len())?, words)?;
        connection_still_serves(&stage, &mut peer, stream)?;
        drop(peer);
        stage.still_serves()
    });
}

/// A good request on the same connection gets through: a refusal is its stream's own.
fn connection_still_serves(stage: &Stage, peer: &mut Peer, stream: u32) -> Result<()> {
    ensure!(!stage.saw_attacker(), "the application saw a refused request");
    peer.send(&http2::connect(stream, &stage.authority()))?;
    let answer = peer.answer(stream, SOON)?;
    ensure!(answer == Answer::Status(200), "the next good request was answered with {answer:?}");
    // So the application does show whom it sees.
    until("the application to see the good request", SOON, || stage.saw_attacker().then_some(()))
}

#[test]
fn another_pod_of_the_node_is_refused() {
    scenario(|| {
        let stage = Stage::build()?;
        let other = stage.lab.pod("b2");
        let server = other.app(&["serve", "--listen", "[::]:80"])?;
        server.wait_for("listening", SOON)?;
        let mut peer = Peer::open(&stage)?;
        for (stream, to) in [(1, other.at(PORT)), (3, other.at6(PORT))] {
            peer.send(&http2::connect(stream, &to.to_string()))?;
            let answer = peer.answer(stream, SOON)?;
            ensure!(answer == Answer::Status(400), "{to} was answered with {answer:?}");
        }
        stage.counted("wrong_destination", 2, "not the address of default/b1")?;
        ensure!(server.stdout().lines().count() == 1, "b2 was reached: {}", server.stdout());
        drop(peer);
        stage.unharmed()
    });
}

#[test]
fn another_node_and_its_pods_are_refused() {
    bad("wrong_destination", "not the address of default/b1", |stage| {
        let lab = &stage.lab;
        let (first, second) =
            (lab.node(culvert_tests::NodeId::Node1), lab.node(culvert_tests::NodeId::Node2));
        Ok(vec![
            lab.pod("a1").at(PORT).to_string(),
            lab.pod("a1").at6(PORT).to_string(),
            format!("{}:15020", first.v4()),
            format!("{}:15020", second.v4()),
            format!("[{}]:15021", second.v6()),
            "192.0.2.1:80".to_owned(),
        ])
    });
}

#[test]
fn loopback_in_any_spelling_is_refused() {
    bad("wrong_destination", "not the address of default/b1", |_| {
        Ok([
            "127.0.0.1:80",
            "127.1.2.3:80",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
            "[0:0:0:0:0:ffff:7f00:1]:80",
            "0.0.0.0:80",
            "[::]:80",
            "[::127.0.0.1]:80",
        ]
        .map(str::to_owned)
        .to_vec())
    });
}

#[test]
fn shortened_loopback_is_refused() {
    bad("bad_request", "expected address:port", |_| {
        Ok(["127.1:80", "2130706433:80", "0x7f.0.0.1:80", "0177.0.0.1:80"]
            .map(str::to_owned)
            .to_vec())
    });
}

#[test]
fn link_local_and_multicast_are_refused() {
    bad("wrong_destination", "not the address of default/b1", |_| {
        Ok([
            "169.254.169.254:80",
            "[fe80::1]:80",
            "224.0.0.1:80",
            "[ff02::1]:80",
            "255.255.255.255:80",
        ]
        .map(str::to_owned)
        .to_vec())
    });
}

#[test]
fn mapped_address_of_another_pod_is_refused() {
    bad("wrong_destination", "not the address of default/b1", |stage| {
        let [a, b, c, d] = stage.lab.pod("b2").v4().octets();
        Ok(vec![
            format!("[::ffff:{a}.{b}.{c}.{d}]:80"),
            format!("[::ffff:{a:02x}{b:02x}:{c:02x}{d:02x}]:80"),
            format!("[64:ff9b::{a:02x}{b:02x}:{c:02x}{d:02x}]:80"),
            format!("[::{a:02x}{b:02x}:{c:02x}{d:02x}]:80"),
        ])
    });
}

#[test]
fn own_ports_are_refused() {
    bad("illegal_port", "a port of the mesh itself", |stage| {
        let pod = stage.lab.pod("b1");
        Ok([15001, 15006, 15008].iter().map(|&port| pod.at(port).to_string()).collect())
    });
}

#[test]
fn address_of_the_same_pod_that_the_connection_did_not_come_to_is_refused() {
    bad("wrong_destination", "not the address of default/b1", |stage| {
        Ok(vec![stage.lab.pod("b1").at6(80).to_string()])
    });
}

#[test]
fn ports_that_are_none_are_refused() {
    bad("bad_request", "expected address:port", |stage| {
        let address = stage.lab.pod("b1").v4();
        Ok(["0", "65536", "65616", "4294967376", "080x"]
            .iter()
            .map(|port| format!("{address}:{port}"))
            .chain([address.to_string(), format!("{address}:")])
            .collect())
    });
}

#[test]
fn host_names_are_refused() {
    bad("bad_request", "expected address:port", |_| {
        Ok(["localhost:80", "b1:80", "b1.default.svc.cluster.local:80", "example.com"]
            .map(str::to_owned)
            .to_vec())
    });
}

#[test]
fn user_information_is_refused() {
    bad("bad_request", "expected address:port", |stage| {
        let at = stage.authority();
        Ok(vec![format!("root@{at}"), format!("root:secret@{at}"), format!("127.0.0.1:80@{at}")])
    });
}

/// Requests that HTTP/2 itself refuses: the library resets the stream before the agent sees it,
/// so there is nothing to count. Too many of them end the connection, which is counted.
fn malformed(requests: impl FnOnce(&Stage) -> Vec<Vec<(&'static str, String)>> + Send + 'static) {
    scenario(move || {
        let stage = Stage::build()?;
        let mut peer = Peer::open(&stage)?;
        let mut stream = 1;
        for fields in requests(&stage) {
            let list: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            peer.send(&http2::request(stream, &list))?;
            let answer = peer.answer(stream, SOON)?;
            ensure!(
                answer == Answer::Reset(code::PROTOCOL_ERROR) || answer == Answer::Status(400),
                "{fields:?} was answered with {answer:?}"
            );
            stream += 2;
        }
        connection_still_serves(&stage, &mut peer, stream)?;
        drop(peer);
        stage.still_serves()
    });
}

#[test]
fn zones_are_refused() {
    malformed(|stage| {
        let link = format!("[fe80::1%25eth0]:{PORT}");
        let own = format!("[{}%eth0]:{PORT}", stage.lab.pod("b1").v6());
        let numbered = format!("[{}%1]:{PORT}", stage.lab.pod("b1").v6());
        [link, own, numbered]
            .map(|authority| vec![(":method", "CONNECT".to_owned()), (":authority", authority)])
            .to_vec()
    });
}

#[test]
fn extended_connect_is_refused() {
    malformed(|stage| {
        ["websocket", "connect-udp", "hbone"]
            .map(|protocol| {
                vec![
                    (":method", "CONNECT".to_owned()),
                    (":protocol", protocol.to_owned()),
                    (":scheme", "https".to_owned()),
                    (":path", "/".to_owned()),
                    (":authority", stage.authority()),
                ]
            })
            .to_vec()
    });
}

#[test]
fn requests_with_a_broken_head_are_refused() {
    malformed(|stage| {
        let at = stage.authority();
        let connect = |authority: &str| (":authority", authority.to_owned());
        let method = || (":method", "CONNECT".to_owned());
        vec![
            vec![method()],
            vec![connect(&at)],
            vec![method(), method(), connect(&at)],
            vec![method(), connect(&at), connect(&at)],
            vec![method(), connect(&at), (":status", "200".to_owned())],
            vec![method(), connect("")],
            vec![method(), connect(&format!("{at}/../x"))],
            vec![method(), connect(&format!(" {at}"))],
            vec![method(), connect(&at), ("connection", "close".to_owned())],
        ]
    });
}

#[test]
fn field_name_in_upper_case_ends_the_connection() {
    scenario(|| {
        let stage = Stage::build()?;
        let mut peer = Peer::open(&stage)?;
        let at = stage.authority();
        let list = [(":method", "CONNECT"), (":authority", at.as_str()), ("Upper", "case")];
        peer.send(&http2::request(1, &list))?;
        let answer = peer.answer(1, SOON)?;
        ensure!(answer == Answer::GoAway(code::PROTOCOL_ERROR), "answered with {answer:?}");
        stage.counted("h2_protocol", 1, "misuses HTTP/2")?;
        drop(peer);
        stage.unharmed()
    });
}

#[test]
fn other_methods_are_refused() {
    scenario(|| {
        let stage = Stage::build()?;
        let at = stage.authority();
        let mut peer = Peer::open(&stage)?;
        let mut stream = 1;
        let methods = ["GET", "POST", "OPTIONS", "TRACE", "connect", "CONNECTX"];
        for method in methods {
            peer.send(&http2::request(
                stream,
                &[(":method", method), (":scheme", "https"), (":path", "/"), (":authority", &at)],
            ))?;
            let answer = peer.answer(stream, SOON)?;
            ensure!(answer == Answer::Status(400), "{method} was answered with {answer:?}");
            stream += 2;
        }
        stage.counted("bad_request", u32::try_from(methods.len())?, "HBONE takes CONNECT only")?;
        connection_still_serves(&stage, &mut peer, stream)?;
        drop(peer);
        stage.still_serves()
    });
}

#[test]
fn data_before_the_answer_waits_for_it() {
    scenario(|| {
        let stage = Stage::build()?;
        let pod = stage.lab.pod("b1");
        let mut peer = Peer::open(&stage)?;
        // To a port where nobody listens: refused, and the bytes are gone.
        let data = |stream| frame(kind::DATA, flag::END_STREAM, stream, b"too early");
        peer.send(&[http2::connect(1, &pod.at(9).to_string()), data(1)].concat())?;
        let answer = peer.answer(1, SOON)?;
        ensure!(answer == Answer::Status(503), "answered with {answer:?}");
        stage.counted("connect_refused", 1, "cannot connect to")?;
        ensure!(!stage.saw_attacker(), "the application saw the refused request");
        // To the application: they wait for the 200 and then arrive whole.
        peer.send(&[http2::connect(3, &stage.authority()), data(3)].concat())?;
        ensure!(peer.answer(3, SOON)? == Answer::Status(200), "the good request was refused");
        let mut said = Vec::new();
        loop {
            let frame = peer.next(SOON)?.context("the connection ended")?;
            if frame.kind == kind::DATA && frame.stream == 3 {
                said.extend(&frame.payload);
                if frame.flags & flag::END_STREAM != 0 {
                    break;
                }
            }
        }
        ensure!(said.ends_with(b"too early"), "the echo: {:?}", String::from_utf8_lossy(&said));
        // DATA on a stream that was never opened is a fault of the connection.
        peer.send(&data(7))?;
        let answer = peer.answer(7, SOON)?;
        ensure!(
            answer == Answer::GoAway(code::PROTOCOL_ERROR),
            "DATA without a request was answered with {answer:?}"
        );
        stage.counted("h2_protocol", 1, "misuses HTTP/2")?;
        drop(peer);
        stage.still_serves()
    });
}
