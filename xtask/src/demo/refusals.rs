//! STRICT: who is not enrolled is refused, and told so in the log.

use crate::checks::{self, Checks};
use anyhow::{Result, ensure};
use culvert_tests::{Lab, SOON};

/// Exit codes of curl for a connection that was reset: while it looked whether it is connected,
/// while it sent, and while it waited for the answer. Which it is depends on who was faster.
const CURL_RESET: [i32; 3] = [7, 55, 56];

/// Lets the pod that is not enrolled try, and looks at what it and the log got.
pub(crate) fn not_enrolled(lab: &Lab, checks: &mut Checks) {
    checks::part("STRICT: x1 is not enrolled and asks b1 in plaintext");
    checks.add("the pod that is not enrolled is refused", refused(lab));
    checks.add("the agent's log names source, destination and rule", logged(lab));
    checks.add("what is not enrolled reaches what is not enrolled", untouched(lab));
}

fn refused(lab: &Lab) -> Result<String> {
    let url = format!("http://{}/", lab.pod("b1").v4());
    let done = lab.pod("x1").run(&["curl", "-sS", "-m", "10", &url], SOON)?;
    checks::note(&format!("x1$ curl -sS {url}\n{}", done.stderr.trim()));
    ensure!(done.stdout.is_empty(), "it got an answer: {}", done.stdout);
    let code = done.status.code().unwrap_or_default();
    ensure!(CURL_RESET.contains(&code), "curl ended with {code}: {}", done.stderr.trim());
    Ok(format!("curl ended with {code}, without an answer"))
}

fn logged(lab: &Lab) -> Result<String> {
    let (x1, b1) = (lab.pod("x1"), lab.pod("b1"));
    let agent = lab.agent(b1.node())?;
    let line = agent.wait_for_line("the refusal in the log", SOON, |line| {
        line.contains("plaintext_refused") && line.contains(&x1.v4().to_string())
    })?;
    let line = plain(&line);
    checks::note(&line);
    ensure!(line.contains(&b1.v4().to_string()), "the destination is not named: {line}");
    ensure!(line.contains("PeerAuthentication istio-system/default"), "no rule is named: {line}");
    Ok("PeerAuthentication istio-system/default".to_owned())
}

/// y1's server answers x1: traffic of others is not the mesh's business.
fn untouched(lab: &Lab) -> Result<String> {
    let (x1, y1) = (lab.pod("x1"), lab.pod("y1"));
    let server = y1.spawn(&["socat", "TCP-LISTEN:7000,reuseaddr,fork", "EXEC:cat"])?;
    let target = format!("TCP:{},retry=50,interval=0.1", y1.at(7000));
    let said = x1.run(&["sh", "-c", &format!("echo hello | socat - {target}")], SOON)?.ok()?;
    server.kill();
    ensure!(said.trim() == "hello", "the echo said {said:?}");
    Ok("x1 reached y1 directly".to_owned())
}

/// A line without the colours of a terminal.
pub(super) fn plain(line: &str) -> String {
    let mut text = String::new();
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        if letter == '\u{1b}' {
            letters.by_ref().find(char::is_ascii_alphabetic);
        } else {
            text.push(letter);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn colours_are_taken_away() {
        assert_eq!(plain("\u{1b}[2m12:00\u{1b}[0m \u{1b}[31mERROR\u{1b}[0m x"), "12:00 ERROR x");
    }
}
