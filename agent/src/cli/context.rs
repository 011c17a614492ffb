//! [`Context`]: how the program was called.

use std::ffi::OsStr;
use std::path::Path;

/// Name of the program as a plugin of kubectl.
const PLUGIN: &str = "kubectl-culvert";

/// How the program was called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// As `kubectl culvert`: asks the cluster when nothing else is said.
    pub plugin: bool,
}

impl Context {
    /// By the program's own name, the first word of its command line.
    pub fn of(program: Option<&OsStr>) -> Self {
        let name = program.and_then(|program| Path::new(program).file_stem());
        // kubectl also takes a name with underscores where the command has dashes; we have none.
        Self { plugin: name.is_some_and(|name| name == PLUGIN) }
    }

    /// What stands before a command's name.
    pub fn program(self) -> &'static str {
        if self.plugin { "kubectl culvert" } else { "culvert" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugin_is_told_by_the_name_it_is_called_by() {
        for (program, plugin) in [
            ("culvert", false),
            ("/usr/local/bin/culvert", false),
            ("kubectl-culvert", true),
            ("/home/a/.krew/bin/kubectl-culvert", true),
            ("kubectl", false),
        ] {
            assert_eq!(Context::of(Some(program.as_ref())).plugin, plugin, "{program}");
        }
        assert!(!Context::of(None).plugin);
    }
}
