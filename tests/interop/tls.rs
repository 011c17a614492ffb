//! `openssl s_client` at the authority's port.

use crate::authority::Authority;
use anyhow::{Result, ensure};
use culvert_tests::{Finished, Process, SOON, s_client};
use std::process::Command;

fn dial(authority: &Authority, name: &str, options: &[&str]) -> Result<Process> {
    let words = s_client::words(authority.address(), options);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    Process::start(name, command, authority.folder())
}

fn refused(authority: &Authority, name: &str, options: &[&str]) -> Result<Finished> {
    let client = dial(authority, name, options)?;
    client.close_stdin();
    let said = client.wait(SOON)?;
    ensure!(!said.status.success(), "{options:?} got through: {}", said.stdout);
    Ok(said)
}

#[test]
fn openssl_speaks_tls_13_with_the_authority_and_verifies_it() {
    let authority = Authority::start().unwrap();
    let root = authority.root().display().to_string();
    let (groups, _) = s_client::group();
    let verified = ["-CAfile", &root, "-verify_return_error", "-verify_ip", "127.0.0.1"];
    let options = [&verified[..], &["-groups", groups, "-alpn", "h2"]].concat();
    let said = s_client::settled(&dial(&authority, "s_client", &options).unwrap()).unwrap();
    s_client::holds(&said).unwrap();
    assert_eq!(s_client::presented(&said.stdout).unwrap().len(), 2, "leaf and issuing");
    // Told by its name too, and not by another.
    let other = refused(
        &authority,
        "name",
        &["-CAfile", &root, "-verify_return_error", "-verify_ip", "127.0.0.2"],
    )
    .unwrap();
    assert!(other.stderr.contains("IP address mismatch"), "{}", other.stderr);
}

#[test]
fn openssl_gets_nowhere_at_the_authority_with_older_tls() {
    let authority = Authority::start().unwrap();
    let said = refused(&authority, "older", &["-tls1_2", "-alpn", "h2"]).unwrap();
    assert!(said.stderr.contains("alert protocol version"), "{}", said.stderr);
}

#[test]
fn openssl_would_tell_of_a_session_ticket() {
    // The other tests look for its absence, so it must be seen where there is one.
    let authority = Authority::start().unwrap();
    let files = authority.certified().unwrap();
    let mut server = Command::new("openssl");
    server.args(["s_server", "-accept", "127.0.0.1:0", "-cert"]).arg(&files.leaf);
    server.arg("-key").arg(&files.key);
    let server = Process::start("s_server", server, authority.folder()).unwrap();
    let line = server.wait_for("ACCEPT 127.0.0.1:", SOON).unwrap();
    let to = line.trim_start_matches("ACCEPT ").trim().parse().unwrap();
    let words = s_client::words(to, &["-tls1_3"]);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    let client = Process::start("ticket", command, authority.folder()).unwrap();
    client.wait_for("Verify return code", SOON).unwrap();
    // Behind the ticket, so whoever has read it has the ticket too.
    server.write_line("told").unwrap();
    client.wait_for("told", SOON).unwrap();
    // It says so at its end at the latest: what it prints waits in a buffer, what it reads does not.
    client.close_stdin();
    let said = client.wait(SOON).unwrap();
    assert!(s_client::has_ticket(&said.stdout), "{}", said.stdout);
}
