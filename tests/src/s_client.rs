//! `openssl s_client`: what a TLS server says, as somebody else's program tells it.

use crate::{Finished, Process, SOON};
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use std::process::Command;

/// The frame by which an HTTP/2 server begins: SETTINGS, without flags, on stream 0.
const SETTINGS: &str = "\u{4}\0\0\0\0\0";

/// The words of `openssl s_client` that dials `to`; options of the caller's own follow.
pub fn words(to: SocketAddr, options: &[&str]) -> Vec<String> {
    let to = to.to_string();
    let common = ["openssl", "s_client", "-connect", &to, "-showcerts", "-noservername"];
    common.iter().chain(options).map(|word| (*word).to_owned()).collect()
}

/// The hybrid group, where this openssl knows it, else the usual one: as an option of `-groups`,
/// and as the report names it.
pub fn group() -> (&'static str, &'static str) {
    let known = Command::new("openssl").args(["list", "-kem-algorithms"]).output();
    let known =
        known.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains("X25519MLKEM768"));
    if known {
        ("X25519MLKEM768:X25519", "Negotiated TLS1.3 group: X25519MLKEM768")
    } else {
        ("X25519", "Server Temp Key: X25519, 253 bits")
    }
}

/// Waits until the server has sent its first frame, which comes after all of the handshake and
/// after any session ticket; then ends the program and gives what it said.
///
/// # Errors
/// No such frame came: the handshake failed. What was said is in the text.
pub fn settled(client: &Process) -> Result<Finished> {
    crate::until("the server's first frame", SOON, || {
        let ended = client.try_status().is_some();
        (client.stdout().contains(SETTINGS) || ended).then_some(())
    })?;
    client.close_stdin();
    let said = client.wait(SOON)?;
    ensure!(
        said.stdout.contains(SETTINGS),
        "no frame of the server: {}{}",
        said.stdout,
        said.stderr
    );
    Ok(said)
}

/// That the report tells of a connection by our profile: TLS 1.3, the group, HTTP/2, the server's
/// chain verified, and no ticket to resume it with.
///
/// # Errors
/// It tells of something else.
pub fn holds(said: &Finished) -> Result<()> {
    let text = &said.stdout;
    let (_, group) = group();
    for wanted in ["New, TLSv1.3, Cipher is TLS_", "ALPN protocol: h2", "Verification: OK", group] {
        ensure!(text.contains(wanted), "no `{wanted}` in what openssl says: {text}");
    }
    ensure!(text.contains("Verify return code: 0 (ok)"), "not verified: {text}");
    ensure!(!has_ticket(text), "there is a session to resume: {text}");
    Ok(())
}

/// Whether the server gave a ticket.
pub fn has_ticket(report: &str) -> bool {
    report.contains("New Session Ticket arrived")
}

/// Whether the server asked for a certificate of the client's.
pub fn asks_for_certificate(report: &str) -> bool {
    report.contains("Requested Signature Algorithms: ")
}

/// The certificates that the server presented, PEM, leaf first.
///
/// # Errors
/// A block has no end.
pub fn presented(report: &str) -> Result<Vec<String>> {
    const END: &str = "-----END CERTIFICATE-----\n";
    let blocks = report.split("-----BEGIN CERTIFICATE-----").skip(1);
    let mut found: Vec<String> = Vec::new();
    for block in blocks {
        let end = block.find(END).context("a certificate without end")? + END.len();
        let pem = format!("-----BEGIN CERTIFICATE-----{}", &block[..end]);
        // It shows the leaf once more.
        if !found.contains(&pem) {
            found.push(pem);
        }
    }
    Ok(found)
}
