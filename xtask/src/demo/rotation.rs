//! A certificate is replaced while a transfer goes on, and the transfer does not notice.

use super::applications::{Applications, LONG_BYTES, sha256};
use super::certificates;
use crate::checks::{self, Checks};
use anyhow::{Context, Result, ensure};
use culvert_tests::{LONG, Lab, Process, until};
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Bytes a second, so that the transfer outlasts a certificate.
const RATE: usize = 1536 * 1024;

/// Longest that a rotation may take: the whole life of a certificate.
const ROTATION: Duration = Duration::from_secs(30);

/// Transfers slowly, waits for another certificate meanwhile, and compares what arrived.
pub(crate) fn while_transferring(lab: &Lab, applications: &Applications, checks: &mut Checks) {
    checks::part("rotation: a slow transfer goes on while b1's certificate is replaced");
    let received = lab.directory().join("long.received");
    let transfer = match start(lab, &received) {
        Ok(transfer) => transfer,
        Err(error) => return checks.add("the long transfer starts", Err(error)),
    };
    checks.add("another certificate is presented meanwhile", rotated(lab, &transfer));
    let whole = finish(&transfer, &applications.files.join("long"), &received);
    checks.add("the transfer is whole", whole);
}

fn start(lab: &Lab, received: &Path) -> Result<Process> {
    let url = format!("http://{}/long", lab.pod("b1").v4());
    let rate = RATE.to_string();
    let file = received.display().to_string();
    lab.pod("a1").spawn(&["curl", "-sS", "--limit-rate", &rate, "-o", &file, &url])
}

fn rotated(lab: &Lab, transfer: &Process) -> Result<String> {
    let before = certificates::serial(lab, "b1")?;
    checks::note(&format!("at the start: {before}"));
    let after = until("another certificate", ROTATION, || {
        // Each look is a handshake that the agent refuses; not more of them than a person makes.
        thread::sleep(Duration::from_millis(500));
        certificates::serial(lab, "b1").ok().filter(|now| *now != before)
    })?;
    checks::note(&format!("then:         {after}"));
    ensure!(transfer.try_status().is_none(), "the transfer had ended before the rotation");
    Ok("the serial number changed, the transfer still ran".to_owned())
}

fn finish(transfer: &Process, sent: &Path, got: &Path) -> Result<String> {
    transfer.wait(LONG)?.ok().context("curl failed")?;
    let (before, after) = (sha256(sent)?, sha256(got)?);
    ensure!(before == after, "sent {before}, received {after}");
    Ok(format!("{} MiB, SHA-256 {}…", LONG_BYTES >> 20, &before[..16]))
}
