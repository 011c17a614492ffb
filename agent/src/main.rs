//! The `culvert` command; nothing but its arguments and its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    culvert_agent::cli::main(std::env::args_os())
}
