//! `culvert cni install --watch`: looks after the plugin as long as the agent is on this node.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    super::{
        Directories, PLUGIN,
        ask::{self, Asked},
        off,
        protocol::Request,
    },
    Install, InstallError, binary,
    directory::{Directory, Done},
    entry, take_out,
};

/// How often it is looked whether all is in its place.
const LOOK: Duration = Duration::from_secs(1);
/// How often an agent that ends is looked at.
const LINGER_LOOK: Duration = Duration::from_millis(100);
/// How long an agent may take to say that it is there.
const PING: Duration = Duration::from_secs(2);
/// How often the plugin is put back within [`REPAIR_SPAN`]; more often, another program has set its
/// mind on taking it out, and would fight us for ever.
const REPAIRS: usize = 5;
/// See [`REPAIRS`].
const REPAIR_SPAN: Duration = Duration::from_mins(1);

/// Looks after the plugin until the process is told to end, or the agent leaves for good.
pub(super) fn run(command: &Install) -> Result<(), InstallError> {
    // Where somebody has set up a log already, it is his.
    let _ = tracing_subscriber::fmt() // reason: see above
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .try_init();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(InstallError::Runtime)?;
    runtime.block_on(watch(command))
}

async fn watch(command: &Install) -> Result<(), InstallError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(InstallError::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(InstallError::Runtime)?;
    let directories = &command.directories;
    // Of an agent that left before this one came.
    off::clear(&directories.socket)
        .map_err(|source| InstallError::Write { path: directories.socket.clone(), source })?;
    let copied =
        binary::install(command.from.as_deref(), &directories.bin_dir, command.allow_dynamic)?;
    tracing::info!(path = %copied.path.display(), new = copied.new, "CNI plugin copied");
    let mut keeper = Keeper::new(command);
    let mut gone = false;
    loop {
        if !gone && off::is_set(&directories.socket) {
            gone = leave(directories);
        } else if !gone {
            keeper.look(Instant::now());
        }
        // Stays when all is gone: started anew, it would put everything back.
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    let until = Instant::now() + command.linger.0;
    while !gone {
        if off::is_set(&directories.socket) {
            gone = leave(directories);
        } else if Instant::now() >= until || !answers(directories) {
            break;
        } else {
            tokio::time::sleep(LINGER_LOOK).await;
        }
    }
    Ok(())
}

/// The agent leaves for good, and the plugin with it. Returns whether all is gone.
fn leave(directories: &Directories) -> bool {
    match take_out(directories, false) {
        Ok(_) => {
            tracing::info!("the agent leaves this node: CNI plugin removed");
            true
        }
        Err(error) => {
            let error = format!("{:#}", anyhow::Error::new(error));
            tracing::error!(error, "CNI plugin not removed; will be tried again");
            false
        }
    }
}

fn answers(directories: &Directories) -> bool {
    let asked = ask::ask(&directories.socket, &Request::Ping, Duration::ZERO, PING);
    matches!(asked, Asked::Answered(_))
}

/// Keeps the plugin in its place.
struct Keeper<'a> {
    command: &'a Install,
    entry: Value,
    /// Whether an agent has answered since this process runs.
    answered: bool,
    /// Whether the plugin was in its place at the last look.
    in_place: bool,
    /// What was said last, so that each trouble is told once.
    trouble: Option<String>,
    repairs: Repairs,
}

impl<'a> Keeper<'a> {
    fn new(command: &'a Install) -> Self {
        let repairs = Repairs::default();
        let entry = entry(command);
        Self { command, entry, answered: false, in_place: false, trouble: None, repairs }
    }

    fn look(&mut self, now: Instant) {
        self.answered = self.answered || answers(&self.command.directories);
        if !self.answered || !self.repairs.may(now) {
            return;
        }
        match self.mend() {
            Ok(Done::Unchanged(path)) => {
                if !std::mem::replace(&mut self.in_place, true) {
                    tracing::info!(path = %path.display(), "{PLUGIN} is in the network configuration");
                }
                self.trouble = None;
            }
            Ok(Done::Changed(path)) => {
                if std::mem::replace(&mut self.in_place, true) {
                    tracing::warn!(path = %path.display(), "another program wrote the network configuration; {PLUGIN} put back");
                    if self.repairs.count(now) {
                        tracing::error!(
                            seconds = REPAIR_SPAN.as_secs(),
                            "another program keeps taking {PLUGIN} out; paused (Cilium: set `cni.exclusive=false`)"
                        );
                    }
                } else {
                    tracing::info!(path = %path.display(), "{PLUGIN} put into the network configuration");
                }
                self.trouble = None;
            }
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::new(error));
                if self.trouble.as_ref() != Some(&error) {
                    tracing::error!(
                        error,
                        "{PLUGIN} is not in the network configuration; will be tried again"
                    );
                }
                self.trouble = Some(error);
            }
        }
    }

    fn mend(&self) -> Result<Done, InstallError> {
        let directories = &self.command.directories;
        if !directories.bin_dir.join(PLUGIN).exists() {
            let from = self.command.from.as_deref();
            binary::install(from, &directories.bin_dir, self.command.allow_dynamic)?;
            tracing::warn!("another program removed the CNI plugin's binary; copied again");
        }
        Directory::new(&directories.conf_dir, self.command.conf_file.as_deref()).put_in(&self.entry)
    }
}

/// When the plugin was put back.
#[derive(Debug, Default)]
struct Repairs(VecDeque<Instant>);

impl Repairs {
    /// Whether there may be one more now.
    fn may(&mut self, now: Instant) -> bool {
        self.0.retain(|then| now.saturating_duration_since(*then) < REPAIR_SPAN);
        self.0.len() < REPAIRS
    }

    /// Counts one; returns whether that was the last for now.
    fn count(&mut self, now: Instant) -> bool {
        self.0.push_back(now);
        self.0.len() >= REPAIRS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fight_with_another_program_is_paused_and_taken_up_again() {
        let mut repairs = Repairs::default();
        let start = Instant::now();
        for number in 0..REPAIRS {
            assert!(repairs.may(start));
            assert_eq!(repairs.count(start), number + 1 == REPAIRS);
        }
        assert!(!repairs.may(start + REPAIR_SPAN / 2));
        assert!(repairs.may(start + REPAIR_SPAN));
    }
}
