//! Running other programs: what is done is said, how long it took is said, a failure is shown.

use anyhow::{Context, Result, bail};
use std::io::{IsTerminal, Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How often a long quiet step says that it still lives, where nobody looks at a terminal.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// Says what is being done now.
pub(crate) fn say(text: impl AsRef<str>) {
    eprintln!("==> {}", text.as_ref());
}

/// The command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a command whose output goes straight to the person, and fails when it fails.
pub(crate) fn plain(what: &str, command: &mut Command) -> Result<()> {
    say(what);
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("could not start `{}`", shown(command)))?;
    if !status.success() {
        bail!("{what}: `{}` ended with {status}", shown(command));
    }
    Ok(())
}

/// Runs a noisy command quietly: its output is shown only when it fails, a sign of life is given
/// meanwhile, and it is ended after `limit`.
pub(crate) fn quiet(what: &str, command: &mut Command, limit: Duration) -> Result<()> {
    eprint!("==> {what} ...");
    let started = Instant::now();
    let output = match finish(command, limit) {
        Ok(output) => output,
        Err(error) => {
            eprintln!(" failed");
            return Err(error);
        }
    };
    if !output.status.success() {
        eprintln!(" failed");
        std::io::stderr().write_all(&output.stdout)?;
        std::io::stderr().write_all(&output.stderr)?;
        bail!("{what}: `{}` ended with {}", shown(command), output.status);
    }
    eprintln!(" done in {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// What a command printed, when it succeeded.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("could not start `{}`", shown(command)))?;
    if !output.status.success() {
        bail!(
            "`{}` ended with {}: {}",
            shown(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The same for a command that may take no longer than `limit`; a failure has all that it printed.
pub(crate) fn read_within(command: &mut Command, limit: Duration) -> Result<String> {
    let output = finish(command, limit)?;
    let printed = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("ended with {}\n{printed}{complaint}", output.status);
    }
    Ok(printed.into_owned())
}

fn finish(command: &mut Command, limit: Duration) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start `{}`", shown(command)))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        let stdout = scope.spawn(|| drain(stdout));
        let stderr = scope.spawn(|| drain(stderr));
        let waited = wait(&mut child, limit);
        let status = waited.with_context(|| format!("waiting for `{}`", shown(command)))?;
        let (stdout, stderr) =
            (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
        Ok(Output { status, stdout, stderr })
    })
}

fn drain(pipe: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What could be read before an error is still worth showing.
        let _ = pipe.read_to_end(&mut bytes);
    }
    bytes
}

fn wait(child: &mut Child, limit: Duration) -> Result<std::process::ExitStatus> {
    let started = Instant::now();
    let mut beat = started;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if started.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            bail!("no end after {} s", limit.as_secs());
        }
        if beat.elapsed() > HEARTBEAT {
            beat = Instant::now();
            if std::io::stderr().is_terminal() {
                eprint!(".");
            } else {
                eprint!(" {} s", started.elapsed().as_secs());
            }
        }
        thread::sleep(Duration::from_millis(50));
    }
}
