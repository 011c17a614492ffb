//! With what number a command ends.

use std::process::ExitCode;

/// With what number a command ends that could do what it was asked.
///
/// | code | says |
/// |---|---|
/// | 0 | done, or: allowed, nothing found |
/// | 1 | it could not be done or not be answered, or not by every agent; standard error says why |
/// | 2 | the command line is none |
/// | 3 | answered, and the answer is a refusal: `explain` denies, `preflight` found something |
///
/// Code 2 is clap's own, code 1 is that of every error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done; a question was answered with what the caller hopes for.
    Done,
    /// Answered in part: some agents could not be asked.
    Incomplete,
    /// Answered: it is refused, or something was found.
    Refused,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::SUCCESS,
            Exit::Incomplete => Self::FAILURE,
            Exit::Refused => Self::from(3),
        }
    }
}
