//! `culvert completion` and `culvert man`: what shells and `man` are told of the commands.

use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::commands::Arguments;
use super::context::Context;
use super::error::CliError;
use super::output::print;

/// Prints what a shell completes `culvert …` by.
pub(super) fn completion(shell: Shell, context: &Context) -> Result<(), CliError> {
    let mut text = Vec::new();
    // A plugin is a program of its own name for a shell; kubectl completes it by that name.
    let name = if context.plugin { "kubectl-culvert" } else { "culvert" };
    clap_complete::generate(shell, &mut Arguments::command(), name, &mut text);
    print(&String::from_utf8_lossy(&text))
}

/// Writes a manual page for each command to a directory, and says which.
pub(super) fn pages(directory: &Path) -> Result<Vec<PathBuf>, CliError> {
    let fault = |source| CliError::Write { path: directory.to_owned(), source };
    std::fs::create_dir_all(directory).map_err(fault)?;
    clap_mangen::generate_to(Arguments::command(), directory).map_err(fault)?;
    let entries = std::fs::read_dir(directory).map_err(fault)?;
    let mut pages: Vec<_> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "1"))
        .collect();
    pages.sort();
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_manual_page() {
        let directory = tempfile::tempdir().unwrap();
        let pages = pages(&directory.path().join("man1")).unwrap();
        let has = |name: &str| pages.iter().any(|page| page.ends_with(name));
        assert!(has("culvert.1"), "{pages:?}");
        for command in Arguments::command().get_subcommands().filter(|one| !one.is_hide_set()) {
            let name = format!("culvert-{}.1", command.get_name());
            assert!(has(&name), "{name} in {pages:?}");
        }
        let status = std::fs::read_to_string(directory.path().join("man1/culvert-status.1"));
        assert!(status.unwrap().contains("programs"));
    }

    #[test]
    fn every_shell_completes_every_command() {
        use clap::ValueEnum as _;
        for shell in Shell::value_variants() {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "culvert", &mut text);
            let text = String::from_utf8(text).unwrap();
            for command in Arguments::command().get_subcommands().filter(|one| !one.is_hide_set()) {
                assert!(text.contains(command.get_name()), "{shell}: {}", command.get_name());
            }
        }
    }
}
