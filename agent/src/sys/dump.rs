//! Keeps the memory of the process, which holds keys, out of files.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Forbids core dumps of this process: by the limit, and by the attribute, which a handler named
/// in `core_pattern` does not get past either. Other users cannot attach to it any more, and its
/// files under `/proc` belong to root; root itself is not hindered.
///
/// # Errors
/// As `setrlimit(2)` and `prctl(2)`.
pub fn forbid() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::process::{dumpable_behavior, getrlimit};

    use super::*;

    #[test]
    fn process_is_not_dumped() {
        // Harmless for the other tests: none dumps, and all belong to the same user.
        forbid().unwrap();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        assert_eq!(getrlimit(Resource::Core).maximum, Some(0));
    }
}
