//! Taking a lab down by its name alone, whoever built it and however he ended.

use crate::lab::NodeId;
use crate::netns::Netns;
use crate::place::Place;
use crate::{cgroup, guard, netns, paths};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// The folder of a lab's files.
pub fn directory(id: &str) -> PathBuf {
    std::env::temp_dir().join(format!("culvert-lab-{id}"))
}

/// Where a lab's agent pins its kernel programs and maps.
pub(crate) fn pins(id: &str, node: &str) -> PathBuf {
    Path::new(guard::BPFFS).join(format!("culvert-lab-{id}-{node}"))
}

/// Whether a lab of this name stands.
pub fn exists(id: &str) -> bool {
    directory(id).exists()
}

/// A place of a standing lab by name: a pod, or a node's host.
///
/// # Errors
/// No lab of this name stands, or it has no such place.
pub fn place(id: &str, name: &str) -> Result<Place> {
    if !exists(id) {
        bail!("no lab `{id}` stands");
    }
    let lab = cgroup::of_lab(id)?;
    let candidates = NodeId::ALL.map(NodeId::name).into_iter().map(|node| {
        if node == name {
            lab.join(node).join("host")
        } else {
            lab.join(node).join("pods").join(name)
        }
    });
    let cgroup = candidates
        .into_iter()
        .find(|path| path.is_dir())
        .with_context(|| format!("the lab has neither pod nor node `{name}`"))?;
    let netns = Netns::named(format!("cv-{id}-{name}"));
    Ok(Place::new(name, netns, cgroup, &directory(id).join("logs")))
}

/// Makes the lab's folder, with who owns it.
pub(crate) fn claim(id: &str) -> Result<PathBuf> {
    let directory = directory(id);
    fs::create_dir(&directory).with_context(|| {
        format!("lab {id} stands already ({}); take it down first", directory.display())
    })?;
    fs::create_dir(directory.join("logs"))?;
    fs::write(directory.join("owner"), started(std::process::id()).unwrap_or_default())?;
    Ok(directory)
}

/// Lets a lab outlive its process: it is then removed by name only.
pub(crate) fn disown(id: &str) {
    // Where this fails the lab is swept later, as any that was forgotten.
    let _ = fs::write(directory(id).join("owner"), "");
}

/// Removes every lab whose process is gone.
pub fn stale() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|name| name.strip_prefix("culvert-lab-")) else {
            continue;
        };
        let Ok(owner) = fs::read_to_string(entry.path().join("owner")) else { continue };
        let alive = owner
            .split(' ')
            .next()
            .and_then(|pid| pid.parse().ok())
            .and_then(started)
            .is_some_and(|now| now == owner);
        if owner.is_empty() || alive {
            continue;
        }
        eprintln!("removing what lab {id} left behind");
        if let Err(error) = remove(id) {
            eprintln!("warning: lab {id}: {error:#}");
        }
    }
}

/// Process id and start time: a reused id is not taken for the old process.
fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything; field 22 is counted from behind it.
    let ticks = stat.rsplit(')').next()?.split_whitespace().nth(19)?;
    Some(format!("{pid} {ticks}"))
}

/// Names of the labs that stand and belong to this process.
pub(crate) fn own_labs() -> Vec<String> {
    let prefix = format!("culvert-lab-{:x}-", std::process::id());
    fs::read_dir(std::env::temp_dir())
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix))
        .filter_map(|name| name.strip_prefix("culvert-lab-").map(str::to_owned))
        .collect()
}

/// Where the logs of labs that are gone are.
fn all_kept_logs() -> PathBuf {
    paths::target().join("lab-logs")
}

/// Where the logs of a lab are kept after it was taken down, until they are forgotten.
pub fn kept_logs(id: &str) -> PathBuf {
    all_kept_logs().join(id)
}

/// Removes the kept logs of a lab.
pub fn forget_logs(id: &str) {
    let _ = fs::remove_dir_all(kept_logs(id)); // an old log in the target directory does no harm
}

/// Copies a lab's logs to where they outlive it.
pub(crate) fn keep_logs(id: &str) -> std::io::Result<()> {
    let kept = kept_logs(id);
    fs::create_dir_all(&kept)?;
    for entry in fs::read_dir(directory(id).join("logs"))? {
        let entry = entry?;
        // Programs of pods may have written gigabytes; the agents' words are what is wanted.
        if entry.metadata()?.len() < 16 << 20 {
            fs::copy(entry.path(), kept.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// The kept logs of this process's labs.
pub(crate) fn own_logs() -> Vec<PathBuf> {
    let prefix = format!("{:x}-", std::process::id());
    fs::read_dir(all_kept_logs())
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect()
}

/// Removes the kept logs of this process's labs.
pub(crate) fn forget_own_logs() {
    for path in own_logs() {
        let _ = fs::remove_dir_all(path); // an old log in the target directory does no harm
    }
}

/// Takes down all that carries the lab's name: programs, namespaces, kernel programs, files.
///
/// # Errors
/// The first part that would not go; the others were tried all the same.
pub fn remove(id: &str) -> Result<()> {
    let results =
        [end_programs(id), remove_namespaces(id), remove_pins(id), remove_files(&directory(id))];
    results.into_iter().collect()
}

fn end_programs(id: &str) -> Result<()> {
    cgroup::remove(&cgroup::of_lab(id)?)
}

fn remove_namespaces(id: &str) -> Result<()> {
    let prefix = format!("cv-{id}-");
    for entry in fs::read_dir(netns::DIRECTORY).into_iter().flatten().flatten() {
        if let Some(name) = entry.file_name().to_str().filter(|name| name.starts_with(&prefix)) {
            netns::Netns::named(name.to_owned()).delete()?;
        }
    }
    Ok(())
}

fn remove_pins(id: &str) -> Result<()> {
    let prefix = format!("culvert-lab-{id}-");
    for entry in fs::read_dir(guard::BPFFS).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)) {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("could not remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

fn remove_files(directory: &Path) -> Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    fs::remove_dir_all(directory)
        .with_context(|| format!("could not remove {}", directory.display()))
}
