//! Libraries that workloads use, unchanged: what they fetch verifies by their own means.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use culvert_tests::{LONG, SOON, scenario, scenario_within, skip, target, tool, until};
use std::time::Duration;

use super::{builder, environment, lines};

/// Fetching a library the first time takes as long as its registry does.
const WITH_DOWNLOAD: Duration = Duration::from_mins(10);

/// What each client does: everything once, then a rotation on an open stream.
fn serves(program: &[String]) -> Result<()> {
    let lab = builder("12s").start()?;
    let words = |arguments: &[&str]| {
        let mut words = vec!["env".to_owned(), environment(&lab)];
        words.extend(program.iter().cloned());
        words.extend(arguments.iter().map(|word| (*word).to_owned()));
        words
    };
    for name in ["a1", "a2"] {
        let pod = lab.pod(name);
        let said = pod.run(&words(&["fetch", "reports"]), LONG)?.json()?;
        ensure!(said["id"] == pod.spiffe_id("cluster.local"), "{said}");
        // Leaf, issuing certificate, root.
        ensure!(said["chain"] == 3, "{said}");
    }
    let watch = lab.pod("a1").spawn(&words(&["watch"]))?;
    // Two renewals: the second shows that the stream goes on after the first.
    let seen = until("two renewals on one stream", LONG, || {
        let ended = watch.try_status().is_some();
        let seen = lines(&watch);
        (seen.len() >= 3 || ended).then_some(seen)
    })?;
    ensure!(seen.len() >= 3, "{}", watch.log());
    for (before, after) in seen.iter().zip(&seen[1..]) {
        ensure!(after["id"] == lab.pod("a1").spiffe_id("cluster.local"), "{after}");
        ensure!(after["serial"].is_string() && before["serial"] != after["serial"], "{seen:?}");
    }
    // Nobody but the enrolled gets anything, whatever library asks.
    let said = lab.pod("x1").spawn(&words(&["fetch", "reports"]))?;
    let line = said.wait_for("error", SOON)?;
    ensure!(
        line.contains("no identity issued") || line.to_lowercase().contains("permission"),
        "{line}"
    );
    Ok(())
}

#[test]
fn spiffe_of_crates_io_works_unchanged() {
    scenario(|| serves(&[tool("culvert-rs-spiffe")?.display().to_string()]));
}

#[test]
fn spiffe_of_pypi_works_unchanged() {
    scenario_within(WITH_DOWNLOAD, || {
        let Some(python) = python()? else {
            skip("pip cannot get `spiffe` from PyPI");
            return Ok(());
        };
        let program = interop("py-spiffe/client.py");
        serves(&[python, program].map(|path| path.display().to_string()))
    });
}

#[test]
fn go_spiffe_works_unchanged() {
    scenario_within(WITH_DOWNLOAD, || {
        let Some(program) = go()? else {
            skip("there is no Go, or no module of go-spiffe");
            return Ok(());
        };
        serves(&[program.display().to_string()])
    });
}

fn interop(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("interop").join(path)
}

/// A Python that has the library, in an environment of its own; none where pip cannot get it.
fn python() -> Result<Option<PathBuf>> {
    let environment = target().join("interop/py-spiffe");
    let python = environment.join("bin/python3");
    let requirements = interop("py-spiffe/requirements.txt");
    if !python.is_file()
        && !quietly(Command::new("python3").args(["-m", "venv"]).arg(&environment))?
    {
        return Ok(None);
    }
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(&requirements);
    Ok(quietly(&mut pip)?.then_some(python))
}

/// The Go program, built; none where there is no Go, or no module.
fn go() -> Result<Option<PathBuf>> {
    let program = target().join("interop/go-spiffe");
    let mut go = Command::new("go");
    go.current_dir(interop("go-spiffe")).args(["build", "-o"]).arg(&program).arg(".");
    Ok(quietly(&mut go)?.then_some(program))
}

/// Whether a command works. What it says is shown by the test when it fails.
fn quietly(command: &mut Command) -> Result<bool> {
    match command.output() {
        Ok(output) => {
            print!("{}", String::from_utf8_lossy(&output.stderr));
            Ok(output.status.success())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).context("cannot start a program"),
    }
}
