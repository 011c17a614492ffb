//! Puts the plugin onto a node, keeps it there, and takes it away again.
//!
//! ```text
//!  install   binary ──▶ (an agent answers) ──▶ network configuration ──▶ looked after with --watch
//!  remove    network configuration ──▶ (the runtime has read it) ──▶ binary
//! ```
//!
//! In this order no runtime ever reads of a plugin that is not there. The plugin goes into the
//! configuration no sooner than an agent answers: on a node where none can run, no pod is
//! protected, and none should be kept from starting.

mod binary;
mod configuration;
mod directory;
mod error;
#[cfg(test)]
mod tests;
mod watch;

use std::{io, path::PathBuf, thread, time::Duration};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use self::directory::Directory;
pub use self::error::InstallError;
use super::{Directories, PLUGIN, off};

/// How long a runtime has to notice that its configuration has changed. It is told by inotify.
const NOTICED: Duration = Duration::from_secs(2);

/// `culvert cni install`.
#[derive(Clone, Debug, Args)]
pub struct Install {
    #[command(flatten)]
    directories: Directories,
    /// Stay, and put the plugin back when another program writes the configuration anew. It goes
    /// in once an agent answers, and out when the agent leaves the node for good.
    #[arg(long)]
    watch: bool,
    /// What to copy [default: `culvert-cni` beside this program]
    #[arg(long)]
    from: Option<PathBuf>,
    /// Copy it though it needs libraries: they must be the node's own.
    #[arg(long)]
    allow_dynamic: bool,
    /// The file of the network configuration [default: the first, as runtimes choose]
    #[arg(long)]
    conf_file: Option<String>,
    /// A namespace whose pods start whether an agent runs or not. May be given more than once.
    #[arg(long = "exempt-namespace", value_name = "NAMESPACE")]
    exempt_namespaces: Vec<String>,
    /// What becomes of a pod that starts while no agent answers.
    #[arg(long, value_enum, default_value_t = WhileAway::Refuse)]
    while_away: WhileAway,
    /// How long to stay after being told to end, for an agent that ends too and may be leaving for
    /// good; whole seconds, such as 10s.
    #[arg(long, default_value = "10s")]
    linger: crate::config::HumanDuration,
}

/// What becomes of a pod that starts while no agent answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WhileAway {
    /// It fails, and the kubelet tries again.
    Refuse,
    /// It starts, unprotected until the agent finds it.
    Pass,
}

/// `culvert cni remove`.
#[derive(Clone, Debug, Args)]
pub struct Remove {
    #[command(flatten)]
    directories: Directories,
    /// Leave the binary: CRI-O calls it once more for each pod that it began with.
    #[arg(long)]
    keep_binary: bool,
}

/// Installs the plugin, and stays if that is wanted.
///
/// # Errors
/// [`InstallError`]: what could not be read or written. With `--watch`, only a binary that could
/// not be copied is an error; the rest is tried again.
pub fn install(command: &Install) -> Result<(), InstallError> {
    if command.watch {
        return watch::run(command);
    }
    off::clear(&command.directories.socket).map_err(|source| InstallError::Write {
        path: command.directories.socket.clone(),
        source,
    })?;
    let copied = binary::install(
        command.from.as_deref(),
        &command.directories.bin_dir,
        command.allow_dynamic,
    )?;
    say(&format!(
        "{} {}",
        copied.path.display(),
        if copied.new { "copied" } else { "is up to date" }
    ))?;
    let directory = Directory::new(&command.directories.conf_dir, command.conf_file.as_deref());
    match directory.put_in(&entry(command))? {
        directory::Done::Changed(path) => say(&format!("{PLUGIN} put into {}", path.display())),
        directory::Done::Unchanged(path) => say(&format!("{PLUGIN} is in {}", path.display())),
    }
}

/// Takes the plugin out of every network configuration, then its binary away.
///
/// # Errors
/// [`InstallError`]: a file could not be read or written. The binary stays as long as a
/// configuration may name it.
pub fn remove(command: &Remove) -> Result<(), InstallError> {
    let directories = &command.directories;
    for path in take_out(directories, command.keep_binary)? {
        say(&format!("removed from {}", path.display()))?;
    }
    Ok(())
}

/// Takes everything out; returns the files that were changed or removed.
fn take_out(directories: &Directories, keep_binary: bool) -> Result<Vec<PathBuf>, InstallError> {
    let mut changed = Directory::new(&directories.conf_dir, None).take_out()?;
    if !keep_binary {
        if !changed.is_empty() {
            thread::sleep(NOTICED);
        }
        changed.extend(binary::remove(&directories.bin_dir)?);
    }
    let cleared = off::clear(&directories.socket);
    cleared.map_err(|source| InstallError::Write { path: directories.socket.clone(), source })?;
    Ok(changed)
}

/// The plugin's part of the network configuration; what is as it is by default is left out.
fn entry(command: &Install) -> Value {
    let mut entry = json!({ "type": PLUGIN, "socket": command.directories.socket });
    if !command.exempt_namespaces.is_empty() {
        entry["exemptNamespaces"] = json!(command.exempt_namespaces);
    }
    if command.while_away == WhileAway::Pass {
        entry["whileAway"] = json!("pass");
    }
    entry
}

fn say(line: &str) -> Result<(), InstallError> {
    use io::Write as _;
    writeln!(io::stdout(), "{line}").map_err(InstallError::Print)
}
